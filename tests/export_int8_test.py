"""A quantised file comes with its accuracies, by the images that break the float network."""

import dataclasses
import importlib.util
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from export import formats, int8, runtimes
from flags import litert as litert_flags
from sat_tf import data, loading
from tests import programs

SOURCE = "zoo:digits_resnet8_swish"
PLAN = int8.Plan("digits", 32.0, num_images=40, calibration_images=60)


@pytest.fixture(scope="module")
def network():
    return loading.load(SOURCE)


@pytest.fixture(scope="module")
def trial(network):
    return int8.Trial.read(network, None, PLAN)


def test_calibration_is_chosen_by_the_seed_and_the_test_images_are_the_first(network, trial):
    test, labels = next(iter(data.load("digits", "test", batch_size=40)))
    np.testing.assert_array_equal(trial.images, test)
    np.testing.assert_array_equal(trial.labels, labels)
    whole = next(iter(data.load("digits", "train", batch_size=2000)))[0].numpy()
    distances = np.abs(trial.calibration[:, None] - whole[None]).max((2, 3, 4))
    assert (distances.min(1) == 0).all()  # pictures of the training split as they are
    assert len(set(distances.argmin(1))) == 60
    for seed, same in ((0, True), (1, False)):
        plan = int8.Plan("digits", 32.0, num_images=1, calibration_images=60, seed=seed)
        again = int8.Trial.read(network, None, plan).calibration
        assert np.array_equal(again, trial.calibration) == same


def test_all_images_are_read_as_the_run_was_evaluated_and_none_is_augmented(network, monkeypatch):
    asked, none = [], tf.data.Dataset.from_tensors((tf.zeros([1, 8, 8, 1]), tf.zeros([1])))
    monkeypatch.setattr(
        int8.data, "load", lambda *given, **options: asked.append((*given, options)) or none
    )
    plan = int8.Plan("digits", 32.0, data_dir="there", eval_resize="whole", num_images=7,
                     calibration_images=9, seed=4)  # fmt: skip
    int8.Trial.read(network, None, plan)
    common = {"image_size": 8, "eval_resize": "whole", "data_dir": "there"}
    shuffled = {"training": True, "seed": 4, "augment": "none"}
    assert asked == [
        ("digits", "train", {"batch_size": 9, **shuffled, **common}),
        ("digits", "test", {"batch_size": 7, **common}),
    ]


def test_the_attack_is_on_the_float_network():
    inputs = keras.Input((4, 4, 1))
    dense = keras.layers.Dense(2, use_bias=False)
    linear = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (5, 4, 4, 1)).astype(np.float32)
    labels = np.array([0, 1, 1, 0, 1], np.int32)
    # Small weights: a softmax that is not saturated in float32 has a gradient.
    dense.set_weights([random.normal(size=(16, 2)) / 200])
    trial = int8.Trial(int8.Plan("none", 8.0), images, images, labels)
    weights = dense.get_weights()[0].astype(np.float64)
    margin = np.where(labels[:, None], 1, -1) * (weights[:, 1] - weights[:, 0])
    worst = np.clip(images - 8 * np.sign(margin).reshape(images.shape), 0, 255)
    np.testing.assert_allclose(trial.adversarial(linear), worst, atol=1e-4)


def test_accuracies_count_each_network_on_clean_and_on_attacked_images(
    network, trial, tmp_path, monkeypatch
):
    path = tmp_path / "x.tflite"
    path.write_bytes(b"12345")
    operations = ["QUANTIZE int8", "CONV_2D int8", "ERF float32", "ERF float32"]
    counts = {}

    def answer(_, images):
        logits, labels = network(images, training=False).numpy(), np.tile(trial.labels, 2)
        right = np.flatnonzero(logits.argmax(1) == labels)
        moved = np.concatenate([right[:3], right[-5:]])  # of the clean and of the attacked
        logits[moved, labels[moved]] -= 20.0
        counts["float32"] = [(right < 40).sum(), (right >= 40).sum()]
        counts["int8"] = np.array(counts["float32"]) - [3, 5]
        return runtimes.Answer(logits, [*operations, "DEQUANTIZE float32"])

    monkeypatch.setattr(int8.runtimes, "ask", answer)
    monkeypatch.setattr(int8, "FURTHEST", 1.0)
    asked = dataclasses.replace(PLAN, seed=4)
    trial = dataclasses.replace(trial, plan=asked)
    figures = int8.measure(network, path, trial)
    attack = {"epsilon": 32.0, "step_size": 8.0, "steps": 20, "norm": "linf", "seed": 4}
    assert {name: figures["attack"][name] for name in attack} == attack
    assert figures["attack"]["computed_on"] == "float32" and figures["bytes"] == 5
    assert figures["data"] == {
        "dataset": "digits", "split": "test", "num_images": 40, "calibration_images": 60
    }  # fmt: skip
    assert figures["network"]["weights_sha256"] == loading.weights_hash(network)
    assert counts["float32"][0] > counts["float32"][1] > 5
    for kind in ("float32", "int8"):
        assert list(figures[kind].values()) == pytest.approx(np.array(counts[kind]) / 40)
    assert figures["largest_logit_difference"] == pytest.approx(20, abs=1e-4)
    assert figures["float32_operations"] == {"ERF": 2}
    said, head, *_, left = int8.told(figures).splitlines()
    assert said == "40 images of digits test, accuracy in percent:"
    assert head.split() == ["clean", "PGD-20", "linf", "epsilon", "32"]
    assert left == "operations that stay float32, but for pixels and logits: 2 ERF"
    monkeypatch.setattr(int8.Trial, "adversarial", lambda trial, _: trial.images)
    for logits, kind, words in (
        (np.full((80, 10), np.nan), "CONV_2D int8", "not verified: its logits are nan off"),
        (np.full((80, 10), 99.0), "CONV_2D int8", "not verified: its logits are .* off"),
        (np.zeros((80, 10)), "CONV_2D float32", "left every operation float32"),
    ):
        found = runtimes.Answer(logits, [kind])
        monkeypatch.setattr(int8.runtimes, "ask", lambda *given, found=found: found)
        with pytest.raises(ValueError, match=words):
            int8.measure(network, path, trial)


def test_a_file_of_integers_answers_nearly_as_the_network(network, trial, tmp_path):
    if not importlib.util.find_spec("ai_edge_litert"):
        pytest.skip("not installed: ai_edge_litert")
    output = tmp_path / "digits.tflite"
    formats.export(network, output, trial)
    assert output.stat().st_size < 2 * network.count_params()  # float32: 4 bytes each
    figures = json.loads(output.with_suffix(".json").read_text())
    answer = runtimes.ask(output, trial.images)
    logits = network(trial.images, training=False).numpy()
    far = np.abs(answer.logits - logits).max()
    assert figures["largest_logit_difference"] == pytest.approx(far, rel=1e-3)
    assert 0.01 < far < 0.1 * np.abs(logits).max()
    # r = scale (q - zero_point): all logits lie on a grid of at most 256 points.
    steps = np.diff(np.unique(answer.logits))
    np.testing.assert_allclose(steps / steps.min(), np.round(steps / steps.min()), atol=1e-2)
    assert not figures["float32_operations"]
    assert "CONV_2D int8" in answer.operations
    with pytest.raises(ValueError, match="is there already"):
        formats.export(network, output, trial)


def test_integers_are_refused_in_another_format_or_over_figures(network, trial, tmp_path):
    with pytest.raises(ValueError, match="int8 is written as LiteRT alone, not .*new.onnx"):
        formats.export(network, tmp_path / "new.onnx", trial)
    (tmp_path / "new.json").touch()
    with pytest.raises(ValueError, match="new.json is there already"):
        formats.export(network, tmp_path / "new.tflite", trial)
    coloured = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalMaxPool2D()])
    with pytest.raises(ValueError, match="channel"):
        int8.Trial.read(coloured, None, PLAN)


def test_the_noise_of_the_attack_is_the_seeds(monkeypatch):
    monkeypatch.setattr(int8, "STEPS", 1)  # which ends where it began, but for a quarter
    inputs = keras.Input((4, 4, 1))
    network = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    images = np.full((6, 4, 4, 1), 128, np.float32)
    found = [
        int8.Trial(
            int8.Plan("none", 8.0, seed=seed), images, images, np.zeros(6, np.int32)
        ).adversarial(network)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any((1, 2, 3)).all()
    assert len(np.unique(found[0].reshape(6, -1), axis=0)) == 6


def test_what_the_help_calls_default_is_the_plan_s():
    told = programs.parsed(litert_flags.define)
    plan = {field.name: field.default for field in dataclasses.fields(int8.Plan)}
    for name in ("num_images", "calibration_images", "seed"):
        assert told[name].default is None and f"default: {plan[name]}." in told[name].help
    assert (plan["norm"], plan["eval_resize"]) == ("linf", None)
