"""The evaluation benchmark: whoever computes the attack, the verdicts are the attack's."""

import importlib.util
import types

import keras
import numpy as np
import pytest

from benchmarks import contenders, evaluate, problems, processes, tables, timing
from sat_tf import models

EPSILON = 4.0
# PyTorch has a process of its own here as well, beside the TensorFlow of the tests.
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs requirements-benchmarks.txt"
)


def given(**changes):
    values = {"attack_steps": 12, "batch_size": 16, "threads": 1, "precision": "float32"}
    return types.SimpleNamespace(**{**values, "square_queries": 30, **changes})


@pytest.fixture(scope="module")
def linear():
    """A linear network with two classes, and which of 50 images no perturbation can break."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(12, 1)) / 12
    images = random.uniform(50, 200, (50, 2, 2, 3)).astype(np.float32)
    bias = -np.median(images.reshape(50, 12) @ weights)
    network = keras.Sequential(
        [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    network.layers[-1].set_weights(
        [np.hstack([-weights, weights]).astype("f"), np.array([-bias, bias], "f")]
    )
    side = (images.reshape(50, 12).astype(float) @ weights + bias)[:, 0]
    labels = (side > 0).astype(np.int32)
    labels[:5] = 1 - labels[:5]  # misclassified when clean
    right = (side > 0) == (labels == 1)
    # The pixels are far from 0 and 255, so the ball is all that holds an attack.
    return network, images, labels, right & (np.abs(side) > EPSILON * np.abs(weights).sum())


@pytest.mark.parametrize("name", ["packed", "plain", "foolbox", "ART"])
def test_what_stands_is_what_no_perturbation_of_a_linear_network_breaks(linear, name):
    network, images, labels, standing = linear
    assert 10 < standing.sum() < 40
    problem = problems.Problem(network, images, labels, EPSILON)
    try:
        run = contenders.MAKERS[name](problem, given())
    except ModuleNotFoundError:
        pytest.skip(f"{name} is not installed")
    np.testing.assert_array_equal(run(), standing)


@pytest.fixture(scope="module")
def small():
    """A small ResNet whose statistics and scales are no trivial ones, and its images."""
    keras.utils.set_random_seed(0)
    network = models.build("resnet8", activation="swish", num_classes=4, image_size=8, width=4)
    random = np.random.default_rng(1)
    for variable in network.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.5, 2, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(random.normal(size=variable.shape))
    images = random.uniform(0, 255, (20, 8, 8, 3)).astype(np.float32)
    labels = np.asarray(network(images)).argmax(1).astype(np.int32)
    labels[:3] = (labels[:3] + 1) % 4
    return problems.Problem(network, images, labels, 1e-6)


def test_a_problem_is_the_same_in_its_folder(small, tmp_path):
    problems.save(small, str(tmp_path))
    found = problems.load(str(tmp_path))
    np.testing.assert_array_equal(found.network(small.images), small.network(small.images))
    assert found.epsilon == 1e-6 and (found.labels == small.labels).all()
    with np.load(tmp_path / "network.npz") as file:
        assert str(file["activation"]) == "swish"
        np.testing.assert_allclose(file["logits"], small.network(file["probe"]), atol=1e-5)


@needs_torch
@pytest.mark.parametrize(("model", "activation"), [("resnet8", "swish"), ("resnet18", "relu")])
def test_pytorch_judges_the_same_network(small, tmp_path, model, activation):
    network = models.build(model, activation=activation, num_classes=4, image_size=8, width=4)
    labels = np.asarray(network(small.images)).argmax(1).astype(np.int32)
    labels[:3] = (labels[:3] + 1) % 4
    problems.save(small._replace(network=network, labels=labels), str(tmp_path))
    np.save(tmp_path / "candidates.npy", np.arange(20) > 0)
    jobs = {name: "benchmarks.pytorch_attack" for name in ("PyTorch loop", "pyautoattack")}
    flags = vars(given(attack_steps=1, attacks=["apgd-ce"]))
    with processes.started(jobs, str(tmp_path), flags) as (cases, lost):
        assert not lost
        # The copy answers as the network does, or it would be lost; so do its verdicts.
        assert cases["PyTorch loop"]().result == 3 * [0] + 17 * [1]
        found = cases["pyautoattack apgd-ce"]().result
    assert found["standing"] == 2 * [0] + 17 * [1]
    assert found["paid"] >= 100 * 17


@needs_torch
def test_pytorch_steps_like_ours(small, tmp_path):
    problems.save_weights(small.network, str(tmp_path))
    np.savez(tmp_path / "batch.npz", images=small.images, labels=small.labels)
    jobs = {"PyTorch": "benchmarks.pytorch_steps"}
    with processes.started(jobs, str(tmp_path), vars(given(epsilon=8.0))) as (cases, lost):
        assert not lost and cases["PyTorch"]().processor > 0


def test_ours_pays_for_what_every_attack_evaluates_and_each_has_a_step(small, tmp_path):
    problems.save(small, str(tmp_path))
    np.save(tmp_path / "candidates.npy", np.arange(20) > 2)
    flags = given(attacks=["apgd-ce", "square", "fab-t"], attack_steps=30)
    jobs = dict.fromkeys(("ours", "step costs"), "benchmarks.slots")
    with processes.started(jobs, str(tmp_path), vars(flags)) as (cases, lost):
        assert not lost
        ours = {name: cases.pop(f"ours {name}")().result for name in flags.attacks}
        assert list(cases) == ["forward", "gradient", "pgd-30", "apgd-ce", "square", "fab-t"]
        times = timing.interleaved(cases, 2)  # chunks of more steps than pgd-30 and square have
    # Nothing breaks at this radius, so every image takes all steps: 101, 30, and 100 a target.
    for name, passes in (("apgd-ce", 101), ("square", 30), ("fab-t", 2 * 3 * 100)):
        assert ours[name]["standing"] == 17 * [1] and ours[name]["needed"] == 17 * passes
        assert ours[name]["paid"] >= ours[name]["needed"]
    rows = {row[0]: row for row in tables.step(times)[1:]}
    assert rows["forward"][4] == rows["gradient"][4] == "1.000"
    assert [rows[name][6] for name in ("pgd-30", "fab-t", "square")] == [
        "gradient", "gradient + forward", "forward",
    ]  # fmt: skip


def times_of(wall, result, factor=0.5):
    return timing.Times(np.array(wall), factor * np.array(wall), [result] * len(wall))


def test_times_are_over_those_of_packed_and_other_verdicts_of_plain_are_refused():
    times = {"packed": times_of([1.0, 2.0], [1, 0]), "plain": times_of([3.0, 4.0], [1, 0], 0.25)}
    times["ART"] = times_of([10.0, 20.0], [1, 1])
    rows = {row[0]: row[1:] for row in tables.pgd(times)}
    assert rows["packed"] == ["1.5", "1.33", "1.00", "0.8", "1.00", "50.0 %"]
    # Round by round 3 and 2, and half of that on the processor; of the medians 2.33 and 1.17.
    assert rows["plain"][2:5] == ["2.50", "0.9", "1.25"]
    assert rows["ART"][2] == "10.00" and rows["ART"][-1] == "100.0 %"
    with pytest.raises(ValueError, match="packed and plain evaluation give different verdicts"):
        tables.pgd({**times, "plain": times_of([1.0, 1.0], [1, 1])})


def test_autoattack_is_compared_attack_by_attack_and_in_sum():
    ours = {"standing": [1, 1, 0], "needed": 1000, "paid": 1200}
    times = {
        "ours apgd-ce": times_of([2.0], ours),
        "pyautoattack apgd-ce": times_of([6.0], {"standing": [1, 0, 1], "paid": 3300}),
        "ours square": times_of([8.0], {**ours, "standing": [1, 0]}),
    }
    _, first, second, total = tables.autoattack(times)
    assert first == [
        "apgd-ce", "3", "2", "2", "1", "1,000", "1,200", "3,300", "1.0", "3.0", "3.00", "3.00",
    ]  # fmt: skip
    assert second[:4] == ["square", "2", "1", ""] and second[-2:] == ["", ""]
    assert (total[0], total[-4:]) == ("sum", ["1.0", "3.0", "3.00", "3.00"])


def test_every_attack_gets_what_ours_before_it_left(small, tmp_path):
    seen = []

    def case(name, stays):
        def seconds():
            candidates = np.load(tmp_path / "candidates.npy")
            seen.append((name, candidates.sum()))
            return timing.Seconds(1, 1, {"standing": stays[: candidates.sum()]})

        return seconds

    cases = {"ours a": case("ours a", [0] * 7 + [1] * 10)}
    cases |= {
        "pyautoattack a": case("pyautoattack a", [1] * 17),
        "ours b": case("ours b", [0] * 10),
    }
    cases["ours c"] = None  # never asked: nobody stands
    steps = evaluate.run_autoattack(cases, ["a", "b", "c"], tmp_path, small, 1, {})
    assert list(next(steps)[0]) == ["ours a", "pyautoattack a"]  # is known before b is run
    assert [name for name, _ in seen] == ["ours a", "pyautoattack a"]
    [(times, _)] = steps
    assert list(times) == ["ours a", "pyautoattack a", "ours b"]
    assert seen == [("ours a", 17), ("pyautoattack a", 17), ("ours b", 10)]


def test_unknown_attacks_and_contenders_list_the_valid_ones():
    assert evaluate.chosen_attacks(["square", "quick"]) == ["square", "apgd-ce", "apgd-t"]
    with pytest.raises(ValueError, match="apgd.* standard"):
        evaluate.chosen_attacks(["apgd"])
    assert list(evaluate.chosen(evaluate.PGD, ["Py", "plain"])) == [
        "packed", "plain", "PyTorch loop",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="--only has torch; valid are: packed, plain, foolbox"):
        evaluate.chosen(evaluate.PGD, ["torch"])
