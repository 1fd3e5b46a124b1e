"""Laws of the evaluation: closed forms on linear networks, and independence of the batches."""

import time
import types

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from sat_tf import evaluate as program
from sat_tf.attacks import PGD, names
from sat_tf.attacks.apgd import APGD
from sat_tf.attacks.square import Square
from sat_tf.data.selection import Selected
from sat_tf.evaluate import Options, evaluate
from sat_tf.evaluation.stream import Stream
from sat_tf.runs import atomic
from tests import engines, linear_network

traced_once = engines.traced_once
EPSILON = 8.0


def dense_network(weights, bias):
    """Pixels -> logits `x . weights + bias`."""
    inputs = keras.Input((4, 4, 1))
    dense = keras.layers.Dense(weights.shape[1])
    network = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    dense.set_weights([weights, bias])
    return network


def small_network(seed=3):
    """A small network with a curved decision boundary, so that attacks need several steps."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = keras.layers.Conv2D(6, 3, activation="swish", kernel_initializer="he_normal")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(16, activation="tanh", kernel_initializer="he_normal")(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def images_of(network, count, seed=0):
    """Random images away from the ends of the pixel range, labelled by the network itself."""
    images = np.random.default_rng(seed).uniform(60, 190, (count, 4, 4, 1)).astype(np.float32)
    return images, np.argmax(network.predict(images, verbose=0), -1).astype(np.int32)


@pytest.fixture(scope="module")
def linear():
    rng = np.random.default_rng(1)
    # Small enough that the cross-entropy of a safe image keeps a gradient in float32.
    weights = rng.normal(scale=0.02, size=(16, 3)).astype(np.float32)
    network = dense_network(weights, np.zeros(3, np.float32))
    images, labels = images_of(network, 60)
    labels[::7] = (labels[::7] + 1) % 3  # some are misclassified from the start
    return network, images, labels, weights.astype(np.float64)


def worst_margins(images, labels, weights, epsilon, norm):
    """The smallest `z_y - z_j` over the ball, in float64: `m - epsilon * |w_y - w_j|_dual`."""
    logits = images.reshape(len(images), -1).astype(np.float64) @ weights
    margins = np.full((len(images), weights.shape[1]), np.inf)
    for j in range(weights.shape[1]):
        others = labels != j
        difference = weights[:, labels[others]] - weights[:, [j]]
        dual = np.abs(difference).sum(0) if norm == "linf" else np.linalg.norm(difference, axis=0)
        gap = logits[others, labels[others]] - logits[others, j]
        margins[others, j] = gap - epsilon * dual
    return margins


def test_two_class_linear_network_has_the_accuracy_of_the_closed_form(linear):
    _, images, _, weights = linear
    weights = weights[:, :2]
    network = dense_network(weights.astype(np.float32), np.zeros(2, np.float32))
    labels = np.argmax(network.predict(images, verbose=0), -1).astype(np.int32)
    labels[::7] = 1 - labels[::7]
    for norm, epsilon in (("linf", 8.0), ("l2", 30.0)):
        expected = worst_margins(images, labels, weights, epsilon, norm).min(1) > 0
        attack = PGD(epsilon=epsilon, step_size=epsilon / 2, steps=60, norm=norm)
        outcome = evaluate(network, (images, labels), [attack], Options(batch_size=16)).outcomes[0]
        assert 0.2 < expected.mean() < 0.8
        np.testing.assert_array_equal(outcome.last_iterate, expected)
        np.testing.assert_array_equal(outcome.standing, expected)


def test_every_image_is_counted_also_in_a_partial_last_batch(linear):
    network, images, labels, weights = linear
    logits = images.reshape(60, -1).astype(np.float64) @ weights
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(7)
    attack = PGD(epsilon=EPSILON, step_size=2, steps=3)
    report = evaluate(network, dataset, [attack], Options(batch_size=16))
    np.testing.assert_array_equal(report.labels, labels)
    np.testing.assert_array_equal(report.clean, logits.argmax(1) == labels)
    assert len(report.outcomes[0].standing) == 60
    few = evaluate(network, dataset, [attack], Options(batch_size=16, num_images=23))
    np.testing.assert_array_equal(few.labels, labels[:23])
    np.testing.assert_array_equal(few.outcomes[0].standing, report.outcomes[0].standing[:23])


def test_a_short_attack_is_the_beginning_of_a_long_one():
    network = small_network()
    dataset = images_of(network, 40)
    attacks = [PGD(epsilon=EPSILON, step_size=1.5, steps=steps) for steps in (1, 3, 8)]
    together = evaluate(network, dataset, attacks, Options(batch_size=16))
    for attack, outcome in zip(attacks, together.outcomes, strict=True):
        alone = evaluate(network, dataset, [attack], Options(batch_size=16)).outcomes[0]
        np.testing.assert_array_equal(outcome.last_iterate, alone.last_iterate)
        np.testing.assert_array_equal(outcome.standing, alone.standing)
        np.testing.assert_array_equal(outcome.broken_step, alone.broken_step)
        assert outcome.name == f"pgd-{attack.steps}"
    accuracies = [outcome.standing.mean() for outcome in together.outcomes]
    assert accuracies[0] > accuracies[2], "the steps must matter here"


def test_last_iterate_verdict_is_that_of_the_attack_called_directly():
    network = small_network()
    images, labels = images_of(network, 24)
    attack = PGD(epsilon=EPSILON, step_size=1.5, steps=5, random_start=False)
    adversarial = attack(network, tf.constant(images), tf.constant(labels))
    expected = np.argmax(network.predict(adversarial, verbose=0), -1) == labels
    outcome = evaluate(network, (images, labels), [attack], Options(batch_size=9)).outcomes[0]
    np.testing.assert_array_equal(outcome.last_iterate, expected)
    assert 0 < expected.mean() < 1


@pytest.fixture(scope="module")
def noisy():
    """An attack that its noise decides, and a function that evaluates it on 64 images."""
    network = small_network()
    dataset = images_of(network, 64)
    attack = PGD(epsilon=EPSILON, step_size=1, steps=2)

    def outcome(**options):
        options = {"batch_size": 32, "seed": 5} | options
        return evaluate(network, dataset, [attack], Options(**options)).outcomes[0]

    return outcome(), outcome


def test_verdicts_do_not_depend_on_the_batch_size(noisy):
    found, outcome = noisy
    for size in (1, 5, 128):
        other = outcome(batch_size=size)
        np.testing.assert_array_equal(found.broken_step, other.broken_step)
        np.testing.assert_array_equal(found.last_iterate, other.last_iterate)


def test_restarts_are_taken_worst_for_each_image(noisy):
    one, outcome = noisy
    four = outcome(restarts=4)
    assert not (four.standing & ~one.standing).any()
    assert not (four.last_iterate & ~one.last_iterate).any()
    assert four.standing.sum() < one.standing.sum()


def test_same_seed_same_verdicts_and_another_seed_others(noisy):
    first, outcome = noisy
    np.testing.assert_array_equal(first.broken_step, outcome().broken_step)
    assert (first.broken_step != outcome(seed=6).broken_step).any()


def test_epsilon_zero_leaves_the_clean_accuracy(linear):
    network, images, labels, _ = linear
    attack = PGD(epsilon=0, step_size=1, steps=2)
    report = evaluate(network, (images, labels), [attack], Options(batch_size=16))
    np.testing.assert_array_equal(report.outcomes[0].last_iterate, report.clean)
    np.testing.assert_array_equal(report.outcomes[0].standing, report.clean)
    assert 0.5 < report.clean_accuracy < 1


def test_the_examples_of_what_no_attack_was_given_are_the_clean_images(linear):
    network, images, labels, weights = linear
    attacks = names.parse(["apgd-ce"], epsilon=EPSILON, norm="linf", num_classes=3)
    report = evaluate(network, (images, labels), attacks, Options(batch_size=16))
    shown, clean = report.examples, report.clean[:8]
    assert not clean.all() and clean.any()
    np.testing.assert_array_equal(shown.adversarial[~clean], images[:8][~clean])
    change = np.abs(shown.adversarial[clean] - images[:8][clean]).max((1, 2, 3))
    np.testing.assert_allclose(change, EPSILON, atol=1e-4)
    for pixels, found in zip((images[:8], shown.adversarial), shown.probabilities, strict=True):
        logits = pixels.reshape(8, -1).astype(np.float64) @ weights
        np.testing.assert_allclose(found, scipy.special.softmax(logits, 1), rtol=1e-4)


def test_packing_saves_what_a_plain_loop_would_spend_on_broken_images():
    network = small_network()
    images, labels = images_of(network, 48)
    labels[:5] = (labels[:5] + 1) % 3
    attack = PGD(epsilon=EPSILON, step_size=1.5, steps=19)
    options = {"batch_size": 16, "restarts": 2, "last_iterate": False}
    (found,) = evaluate(network, (images, labels), [attack], Options(**options)).outcomes
    assert found.plain_steps == found.attacked.sum() * 2 * 20 == 43 * 40
    steps = np.where(found.broken_step >= 0, found.broken_step + 1, 40)
    assert found.image_steps == steps[found.attacked].sum()
    assert found.image_steps <= found.slot_steps < found.plain_steps
    assert found.saved_by_packing == 1 - found.slot_steps / found.plain_steps > 0.3


def test_the_default_step_is_that_of_the_paper_and_the_users_is_kept():
    options = {"norm": "linf", "num_classes": 10}
    (paper,) = names.parse(["pgd-200"], epsilon=4, step_size=None, **options)
    assert paper.step_size == 1
    (fgsm,) = names.parse(["pgd-1"], epsilon=8, step_size=None, **options)
    assert fgsm.step_size == 8
    (given,) = names.parse(["pgd-1"], epsilon=8, step_size=0.25, **options)
    assert given.step_size == 0.25


@pytest.mark.parametrize("name", ["pdg-10", "pgd", "pgd-0", "pgd-x", "pgd-²", "apgd", ""])
def test_an_unknown_attack_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name!r}.*unknown.*autoattack"):
        names.parse([name], epsilon=8, norm="linf", num_classes=10)


def test_more_steps_than_anyone_waits_for_are_refused():
    with pytest.raises(ValueError, match="'pgd-10001': 10001 steps came; give at most 10,000"):
        names.parse(["pgd-10001"], epsilon=8, norm="linf", num_classes=10)


def test_wrong_arguments_are_refused(linear):
    network, images, labels, _ = linear
    attack = PGD(epsilon=1, step_size=1, steps=1)
    with pytest.raises(ValueError, match="restarts is 0"):
        evaluate(network, (images, labels), [attack], Options(restarts=0))
    with pytest.raises(ValueError, match="attacks is empty"):
        evaluate(network, (images, labels), [])
    with pytest.raises(ValueError, match="from [0-9.]+ to 2.*expected pixels"):
        evaluate(network, (np.clip(images * 1.5, 60, None), labels), [attack])
    with pytest.raises(ValueError, match="no image"):
        evaluate(network, [], [attack])


@pytest.fixture(scope="module")
def flat():
    """A linear network of two classes, images with every fifth label wrong, exact distances."""
    network = linear_network.LinearNetwork(2, scale=0.02)
    images = linear_network.images(30)
    network.bias -= network.logits(images).mean(0)  # as many images of either class, near by
    labels = network.labels(images)
    assert 10 < labels.sum() < 20
    labels[::5] = 1 - labels[::5]
    clean = network.labels(images) == labels
    gaps = {norm: linear_network.distances(network, images, labels, norm)
            for norm in ("linf", "l2")}  # fmt: skip
    return network, images, labels, {norm: np.where(clean, gap, 0) for norm, gap in gaps.items()}


def straight(epsilon, **changes):
    """One step to the worst point of the ball around an image of a linear network."""
    options = {"step_size": epsilon, "steps": 1, "random_start": False} | changes
    return PGD(epsilon=epsilon, **options)


def radii_of(gaps, *fractions):
    """Radii in pixels that so many of the images survive, between the distances of two of them."""
    ranked = np.sort(gaps[gaps > 0])
    places = [int(fraction * len(ranked)) for fraction in fractions]
    return [float(ranked[place - 1 : place + 1].mean()) for place in places]


def test_the_curve_of_a_linear_network_is_the_closed_form_and_never_rises(flat):
    network, images, labels, gaps = flat
    gaps = gaps["linf"]
    small, middle, large = radii_of(gaps, 0.2, 0.5, 0.8)
    # The largest ball is attacked with a step that reaches nothing new.
    curve = {middle: [straight(middle)], 0.0: [straight(0.0)], small: [straight(small)],
             large: [straight(large, step_size=1e-3)]}  # fmt: skip
    began = time.monotonic()
    report = evaluate(
        network, (images, labels), [straight(small)], Options(curve=curve, batch_size=8)
    )
    assert 0 < report.seconds < time.monotonic() - began
    assert [point.epsilon for point in report.curve] == [0.0, small, middle, large]
    for point, radius in zip(report.curve, (0.0, small, middle, middle), strict=True):
        np.testing.assert_array_equal(point.standing, gaps > radius)
    np.testing.assert_array_equal(report.standing, gaps > small)  # the curve is apart
    assert [point.seconds > 0 for point in report.curve] == [False, True, True, True]
    assert report.seconds == pytest.approx(
        sum(one.seconds for one in (*report.curve, *report.outcomes))
    )
    read = report.to_dict()["curve"]
    assert [one["epsilon"] for one in read] == [0.0, small, middle, large]
    found = [one["adversarial_accuracy"] for one in read]
    assert found == [np.mean(gaps > radius) for radius in (0.0, small, middle, middle)]
    curve = {middle: [straight(middle, step_size=1e-3), straight(middle)]}
    options = {"curve": curve, "batch_size": 8}
    several = evaluate(network, (images, labels), [straight(small)], Options(**options))
    np.testing.assert_array_equal(several.curve[0].standing, gaps > middle)


def test_a_radius_of_the_curve_that_is_the_evaluations_own_is_not_attacked_again(flat, tmp_path):
    network, images, labels, gaps = flat
    gaps = gaps["linf"]
    small, middle, large = radii_of(gaps, 0.2, 0.5, 0.8)
    # The one step of the middle ball reaches nothing, so what the small ball broke must be kept.
    for step, reached in ((middle, middle), (1e-3, small)):
        attacks = [straight(middle, step_size=step)]
        curve = {
            large: [straight(large, step_size=1e-3)],
            middle: attacks,
            small: [straight(small)],
        }
        options = {"verdict_file": tmp_path / f"{reached}.npz", "batch_size": 8}
        report = evaluate(network, (images, labels), attacks, Options(curve=curve, **options))
        assert [point.epsilon for point in report.curve] == [small, middle, large]
        assert [point.seconds > 0 for point in report.curve] == [True, False, True]
        for point, radius in zip(report.curve, (small, reached, reached), strict=True):
            np.testing.assert_array_equal(point.standing, gaps > radius)
        again = evaluate(network, (images, labels), attacks, Options(curve=curve, **options))
        assert [point.standing.tolist() for point in again.curve] == [
            point.standing.tolist() for point in report.curve
        ]


def test_attacks_that_differ_in_more_than_their_steps_are_run_apart(flat):
    network, images, labels, gaps = flat
    small, large = radii_of(gaps["linf"], 0.3, 0.7)
    (round_ball,) = radii_of(gaps["l2"], 0.5)
    attacks = [
        straight(small),
        straight(large),
        straight(large, step_size=small),
        straight(large, step_size=large / 2, steps=2),
        straight(round_ball, norm="l2"),
        straight(large, random_start=True),
    ]
    report = evaluate(network, (images, labels), attacks, Options(batch_size=30))
    right = [gaps["linf"] > radius for radius in (small, large, small, large)]
    right.append(gaps["l2"] > round_ball)
    for outcome, attack, expected in zip(report.outcomes, attacks, right, strict=False):
        np.testing.assert_array_equal(outcome.last_iterate, expected, outcome.settings)
        for name in ("epsilon", "step_size", "norm", "random_start"):
            assert outcome.settings[name] == getattr(attack, name)
    assert len(report.outcomes) == 6
    assert report.outcomes[5].settings["random_start"] is True


def test_pgd_that_stops_at_the_break_is_the_pgd_that_was_asked_for(flat):
    network, images, labels, gaps = flat
    for norm in ("linf", "l2"):
        (radius,) = radii_of(gaps[norm], 0.5)
        attack = straight(radius, norm=norm)
        options = {"last_iterate": False, "restarts": 3, "batch_size": 8}
        (outcome,) = evaluate(network, (images, labels), [attack], Options(**options)).outcomes
        np.testing.assert_array_equal(outcome.standing, gaps[norm] > radius)
        asked = {"epsilon": radius, "step_size": radius, "steps": 1, "norm": norm,
                 "random_start": False, "num_steps": 2}  # fmt: skip
        assert {name: outcome.settings[name] for name in asked} == asked
        np.testing.assert_array_equal(outcome.attacked, gaps[norm] > 0)
        assert outcome.plain_steps == 2 * (gaps[norm] > 0).sum()
    noisy = straight(radius, norm="l2", random_start=True)
    (outcome,) = evaluate(network, (images[:9], labels[:9]), [noisy], Options(**options)).outcomes
    assert outcome.settings["num_steps"] == 6 and outcome.settings["random_start"] is True


def test_the_last_image_that_stands_is_attacked_too(flat):
    network, images, labels, gaps = flat
    radius = float(gaps["linf"].max()) + 1
    one = np.flatnonzero(gaps["linf"] > 0)[0]
    chosen = [one, *np.flatnonzero(gaps["linf"] == 0)[:2]]
    attacks = [straight(radius, step_size=1e-3), Square(epsilon=radius, queries=1),
               APGD(epsilon=radius, iterations=2)]  # fmt: skip
    report = evaluate(network, (images[chosen], labels[chosen]), attacks, Options(batch_size=2))
    assert [outcome.attacked.sum() for outcome in report.outcomes][0] == 3
    assert report.outcomes[-1].attacked.tolist() in ([True, False, False], [False] * 3)
    assert not report.standing.any() and report.clean.tolist() == [True, False, False]
    alone = evaluate(
        network, (images[[one]], labels[[one]]), [straight(radius)], Options(batch_size=4)
    )
    assert not alone.standing.any() and alone.clean.all()


@pytest.mark.parametrize("number", [1, 2, 3, 9, None])
def test_of_chosen_images_the_first_are_read_with_their_positions(number):
    images, labels = linear_network.images(12), np.arange(12, dtype=np.int32)
    chosen = Stream(Selected([(images, labels)], [7, 0, 10]), 2, number)
    read = np.concatenate([batch.labels[: batch.count] for batch in chosen])
    assert read.tolist() == chosen.positions.tolist() == [0, 7, 10][:number]
    assert Stream((images, labels), 2, number).positions is None


def test_a_label_that_the_network_has_no_class_for_is_refused(flat):
    network, images, labels, _ = flat
    for wrong in (2, -1):
        spoilt = np.where(np.arange(30) == 29, wrong, labels)
        with pytest.raises(ValueError, match=rf"labels run from .*{wrong}.*2 classes"):
            evaluate(network, (images, spoilt), [straight(1.0)], Options(batch_size=8))


def test_facts_say_how_it_was_evaluated(flat):
    network, images, labels, _ = flat
    options = {"seed": 5, "batch_size": 7, "restarts": 2, "left_out": {"fab-t": "why"}}
    about = {"network": {"source": "here"}, "flags": {"seed": 5}}
    few = images[:8], labels[:8]
    facts = evaluate(network, few, [straight(1.0)], Options(**options), about).to_dict()
    assert set(facts["network"]) == {"name", "num_parameters", "weights_sha256", "source"}
    assert facts["network"]["source"] == "here" and facts["flags"] == {"seed": 5}
    assert [facts[name] for name in ("seed", "batch_size", "restarts")] == [5, 7, 2]
    assert facts["attacks_left_out"] == {"fab-t": "why"} and facts["classes"] == 2
    assert facts["images"]["label"] == labels[:8].tolist() and facts["num_images"] == 8
    (check,) = [one for one in facts["checks"] if one["name"] == "classes"]
    assert not check["passed"] and "fab-t" in check["found"]


@pytest.fixture(scope="module")
def report():
    network = small_network()
    return evaluate(network, images_of(network, 8), [PGD(epsilon=8, step_size=8, steps=1)])


@pytest.mark.parametrize("suffix", [".json", ".html"])
def test_a_disk_that_fills_at_the_end_costs_no_figure(
    report, suffix, tmp_path, monkeypatch, capsys
):
    replacing = atomic.replacing

    def full(path):
        if path.suffix == suffix:
            raise OSError("cannot write it")
        return replacing(path)

    monkeypatch.setattr(atomic, "replacing", full)
    given = types.SimpleNamespace(write=["html"], steps_curve=False)
    settings = types.SimpleNamespace(
        flags=given, source="it", dataset="digits", norm="linf", epsilon=8.0, about={},
        report=tmp_path / "report.json",
    )  # fmt: skip
    with pytest.raises(OSError, match="cannot write it"):
        program._write(report, settings)
    assert report.table() in capsys.readouterr().out
    assert settings.report.exists() == (suffix == ".html")  # an artefact does not cost the report
