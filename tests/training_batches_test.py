"""Batches as people have them are trained on rightly or refused in words."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks
from sat_tf.runs import distribution
from sat_tf.training import AdversarialTrainer, batches, objectives
from sat_tf.training.free import FreeTrainer

RATE = 1e-4
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (8, 2, 2, 1)).astype(np.float32)
LABELS = np.array([0, 2, 1, 2, 0, 1, 1, 0])
KERNEL = RNG.normal(0, 0.01, (4, 3))


def network():
    inputs = keras.Input((2, 2, 1))
    outputs = keras.layers.Dense(3, use_bias=False)(keras.layers.Flatten()(inputs))
    made = keras.Model(inputs, outputs)
    made.set_weights([KERNEL])
    return made


def trainer(smoothing=0.0, strategy="one_device", **options):
    with distribution.strategy(strategy).scope():
        objective = objectives.adversarial_cross_entropy(smoothing)
        made = AdversarialTrainer(network(), attacks.identity, objective=objective)
        made.compile(keras.optimizers.SGD(RATE), **options)
    return made


def kernel_after(made, images, labels, **options):
    made.fit(images, labels, batch_size=4, shuffle=False, verbose=0, **options)
    return made.network.get_weights()[0]


def by_hand(num_images, batch_size=4):
    kernel = KERNEL.copy()
    for start in range(0, num_images, batch_size):
        x = IMAGES[start : min(start + batch_size, num_images)].reshape(-1, 4).astype(np.float64)
        e = np.exp(x @ kernel)
        error = e / e.sum(1, keepdims=True) - np.eye(3)[LABELS[start : start + len(x)]]
        kernel = kernel - RATE * x.T @ error / len(x)
    return kernel


@pytest.mark.parametrize("labels", ["uint8", "int16", "int64", "uint32"])
@pytest.mark.parametrize("images", ["uint8", "float64"])
def test_numbers_of_any_type_train_as_float32_pixels_and_int32_labels(labels, images):
    made = trainer(run_eagerly=True)
    trained = kernel_after(made, IMAGES.astype(images), LABELS.astype(labels))
    np.testing.assert_allclose(trained, by_hand(8), atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    "labels, said",
    [
        (LABELS[:, None], r"labels\[:, 0\] of \[N, 1\]"),
        (LABELS.astype(np.float32), "labels are float32 .*astype"),
        (LABELS > 0, "labels are bool"),
    ],
)
def test_labels_in_another_form_are_refused_in_words(labels, said, smoothing):
    with pytest.raises(ValueError, match=said):
        trainer(smoothing).fit(IMAGES, labels, verbose=0)
    with pytest.raises(ValueError, match=said):
        trainer(smoothing).evaluate(IMAGES, labels, verbose=0)


@pytest.mark.parametrize("smoothing, jit_compile", [(0.0, False), (0.1, True)])
def test_a_label_that_is_no_class_gives_nan_and_is_refused_in_words(smoothing, jit_compile):
    made = trainer(smoothing, jit_compile=jit_compile)
    # The third batch has the first -1; the network has the classes 0 to 2.
    labels = np.concatenate([LABELS, LABELS])
    labels[9] = -1
    losses = []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: losses.append(logs))
    with pytest.raises(ValueError, match="1 labels are not among 0 to 2"):
        kernel_after(made, np.concatenate([IMAGES, IMAGES]), labels, callbacks=[note])
    assert np.isfinite([logs["loss"] for logs in losses]).tolist() == [True, True, False, False]
    before = made.network.get_weights()
    with pytest.raises(ValueError, match="labels are not among 0 to 2"):
        kernel_after(made, IMAGES, LABELS + 1)
    with pytest.raises(ValueError, match="2 labels are not among 0 to 2"):
        made.evaluate(IMAGES, LABELS + 1, verbose=0)
    assert np.isfinite(before[0]).all()
    assert np.isfinite(kernel_after(made, IMAGES, LABELS)).all()  # the next fit is as ever


def test_the_first_batch_tells_before_the_second():
    steps = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda step, logs: steps.append(step)
    )
    with pytest.raises(ValueError, match="count classes from 0"):
        kernel_after(trainer(), IMAGES, LABELS + 1, callbacks=[note])
    assert steps == [0]


@pytest.mark.parametrize(
    "options", [{"class_weight": {0: 1.0, 1: 5.0}}, {"sample_weight": np.ones(8)}]
)
def test_weights_of_images_are_refused_in_words(options):
    with pytest.raises(ValueError, match="sample_weight or class_weight"):
        trainer().fit(IMAGES, LABELS, verbose=0, **options)


def test_a_batch_without_labels_is_refused_in_words():
    with pytest.raises(ValueError, match="1 parts; expected two"):
        trainer().fit(IMAGES, verbose=0)


@pytest.mark.parametrize(
    "strategy, pieces", [("one_device", 1), ("one_device", 2), ("mirrored", 1), ("mirrored", 2)]
)
def test_a_smaller_last_batch_counts_every_image_alike(strategy, pieces):
    # Batches of 4 and 3: two and one image a replica or a piece.
    num_images = 8 if pieces == 2 and strategy == "mirrored" else 7
    made = trainer(strategy=strategy, gradient_accumulation=pieces)
    trained = kernel_after(made, IMAGES[:num_images], LABELS[:num_images])
    np.testing.assert_allclose(trained, by_hand(num_images), atol=1e-6)


def test_replicas_that_no_batch_divides_count_every_image_alike():
    made = trainer(strategy="mirrored")
    data = tf.data.Dataset.from_tensor_slices((IMAGES[:6], LABELS[:6]))
    logs = made.fit(data.batch(3, drop_remainder=True), shuffle=False, verbose=0).history
    np.testing.assert_allclose(made.network.get_weights()[0], by_hand(6, 3), atol=1e-6)
    x = IMAGES[:6].reshape(2, 3, 4)
    logits = np.concatenate([x[0] @ KERNEL, x[1] @ by_hand(3)])
    losses = np.log(np.exp(logits).sum(1)) - logits[range(6), LABELS[:6]]
    np.testing.assert_allclose(logs["loss"], [losses.mean()], rtol=1e-5)


@pytest.mark.parametrize("drop_remainder, eager", [(False, False), (True, False), (True, True)])
def test_fewer_images_than_pieces_are_refused_in_words(drop_remainder, eager):
    made = trainer(gradient_accumulation=2, run_eagerly=eager)
    one = tf.data.Dataset.from_tensor_slices((IMAGES[:1], LABELS[:1]))
    with pytest.raises(ValueError, match="fewer images than replicas times"):
        made.fit(one.batch(1, drop_remainder=drop_remainder), shuffle=False, verbose=0)


class Idle(keras.layers.Layer):
    def build(self, shape):
        self.weight = self.add_weight(shape=(2,), initializer="ones")

    def call(self, x):
        return x


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # Keras says so, once
def test_accumulation_passes_over_a_weight_that_plays_no_part():
    head = keras.layers.Dense(3, use_bias=False)
    made = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), head, Idle()])
    head.set_weights([KERNEL])
    made = AdversarialTrainer(made, attacks.identity)
    made.compile(keras.optimizers.SGD(RATE), gradient_accumulation=2)
    np.testing.assert_allclose(kernel_after(made, IMAGES, LABELS), by_hand(8), atol=1e-6)


def test_validation_takes_a_last_batch_that_leaves_a_replica_without_images():
    made = trainer(strategy="mirrored")
    logs = made.evaluate(IMAGES[:5], LABELS[:5], batch_size=4, verbose=0, return_dict=True)
    right = (IMAGES[:5].reshape(5, 4) @ KERNEL).argmax(1) == LABELS[:5]
    assert logs["clean_accuracy"] == pytest.approx(right.mean())


def test_free_training_moves_the_first_rows_in_a_smaller_batch():
    made = FreeTrainer(
        network(), batch_size=4, epsilon=4.0, step_size=2.0, validation_attack=attacks.identity
    )
    made.compile(keras.optimizers.SGD(RATE))
    kernel_after(made, IMAGES[:7], LABELS[:7])
    moves = np.abs(made.perturbation.numpy()).max((1, 2, 3))
    assert moves[3] == 2.0 and set(moves[:3]) <= {0.0, 2.0, 4.0} and moves[:3].max() == 4.0


@pytest.mark.parametrize(
    "images, said", [(IMAGES / 255, r"images in \[0, 1\]"), (IMAGES - 128, "pixels leave")]
)
def test_what_does_not_look_like_pixels_is_warned_of(images, said):
    with pytest.warns(UserWarning, match=said):
        kernel_after(trainer(run_eagerly=True), images, LABELS)


@pytest.mark.parametrize("dark", [[True, False], [False, True], [True, True]])
def test_images_look_like_ones_in_0_to_1_if_all_of_them_do(dark):
    watch, pixels, labels = batches.Watch(), tf.constant(IMAGES), tf.constant(LABELS)
    for one in dark:
        watch.look(pixels / tf.reduce_max(pixels) if one else pixels, labels, 3, 1)
    expected = pytest.warns(UserWarning, match="0, 1") if all(dark) else contextlib.nullcontext()
    with expected:
        watch.report(3)
    watch.look(pixels, labels, 3, 1)
    watch.report(3)
    watch.look(pixels - 128, labels, 3, 1)
    with pytest.warns(UserWarning, match="pixels leave"):
        watch.report(3)
    watch.report(3)  # what was seen before is forgotten


def test_pieces_keep_every_image_in_its_place_and_differ_by_one_at_most():
    for size in range(1, 12):
        images, labels = tf.range(size)[:, None] * 2, -tf.range(size)
        for count in range(1, size + 1):
            cut = list(batches.pieces(images, labels, count))
            sizes = [len(some) for some, _ in cut]
            assert len(cut) == count and max(sizes) - min(sizes) <= 1
            for whole, parts in zip((images, labels), zip(*cut, strict=True), strict=True):
                np.testing.assert_array_equal(tf.concat(parts, 0), whole)


def test_the_first_batch_is_looked_at_after_every_change_of_the_steps_at_a_time(monkeypatch):
    def make(self, force=False):
        if force or self.train_function is None:
            self.train_function = lambda iterator: {}

    made, looks = trainer(), []
    monkeypatch.setattr(keras.Model, "make_train_function", make)
    monkeypatch.setattr(made._watch, "report", looks.append)
    for force, seen in ((False, 1), (False, 1), (True, 2)):
        made.make_train_function(force)
        for _ in range(3):
            made.train_function(None)
        assert looks == [3] * seen


def test_where_no_batch_was_seen_nothing_is_said():
    batches.Watch().report(3)  # a warning is an error here
