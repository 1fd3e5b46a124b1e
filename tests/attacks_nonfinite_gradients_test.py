"""Networks whose logits are finite and whose gradients are not: attacks go on, checks say so."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks as doors
from sat_tf.attacks import PGD, autoattack, scaling
from sat_tf.attacks.divergence import DivergencePGD
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.evaluate import Options, evaluate
from sat_tf.training import free
from tests import linear_network

NETWORK = linear_network.LinearNetwork(4, scale=0.01)


def flat_images(count=12):
    """Draws images whose first two rows are black, where the network below has no slope."""
    images = linear_network.images(count)
    images[:, :2] = 0
    return images


def rooted(images, training=False):
    """Adds a hair's breadth of root mean square: at a flat place its derivative is 0 / 0."""
    del training
    steps = images[:, 0] - images[:, 1]
    texture = tf.reduce_sum(tf.sqrt(tf.square(steps)), [1, 2])
    return NETWORK(images) + 1e-5 * texture[:, None] * tf.constant([[1.0, 0.0, 0.0, 0.0]])


def attacks_of(norm, epsilon):
    made = []
    if norm != "l1":
        options = dict(epsilon=epsilon, step_size=epsilon / 4, steps=20, norm=norm)
        made += [PGD(**options, random_start=False), RestartedPGD(**options, random_start=False)]
    for name in ("apgd-ce", "apgd-t", "fab", "fab-t"):
        if norm != "l1" or name.startswith("apgd"):
            short = {"iterations": 10, "epsilon": epsilon, "norm": norm, "num_classes": 4}
            made.append(autoattack.make(name, **short))
    return made


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_every_attack_breaks_what_breaks_where_some_derivatives_are_nan(norm):
    images = flat_images()
    labels = NETWORK.labels(images)
    with tf.GradientTape() as tape:
        pixels = tf.constant(images)
        tape.watch(pixels)
        logits = rooted(pixels)
    slope = tape.gradient(logits, pixels).numpy()
    assert np.isfinite(logits).all() and np.isnan(slope[:, :2]).all()
    epsilon = 3.0 * linear_network.distances(NETWORK, images, labels, norm).max()
    for attack in attacks_of(norm, epsilon):
        report = evaluate(rooted, (images, labels), [attack], Options(batch_size=6))
        assert not report.outcomes[0].standing.any(), (attack, norm)
    (check,) = [check for check in report.checks if check["name"] == "gradients"]
    assert not check["passed"] and "6 one with entries that are not finite" in check["found"]
    assert "0 have a gradient" in check["found"] and "mend the derivative" in check["consequence"]


def gamma(images, training=False):
    """Decodes pixels by a square root, whose derivative at black is infinite."""
    del training
    return NETWORK(16.0 * tf.sqrt(images))


def test_black_pixels_under_a_root_move_by_the_sign_of_their_infinite_slope():
    images = flat_images()
    labels = tf.argmax(gamma(images), 1, tf.int32).numpy()
    attack = PGD(epsilon=4.0, step_size=4.0, steps=1, random_start=False)
    moved = (attack(gamma, images, labels) - images).numpy()
    probabilities = tf.nn.softmax(gamma(images)).numpy().astype(np.float64)
    slope = (probabilities - np.eye(4)[labels]) @ NETWORK.weights.T
    expected = 4.0 * np.sign(slope).reshape(images.shape)
    np.testing.assert_allclose(moved, np.maximum(expected, -images), atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_of_trades_stays_finite(norm):
    images = flat_images()
    attack = DivergencePGD(epsilon=8.0, step_size=2.0, steps=3, norm=norm)
    moved = attack(rooted, images, None, tf.constant([1, 2])).numpy() - images
    assert np.isfinite(moved).all() and (linear_network.sizes(moved, norm) > 1).all()


def test_free_training_keeps_a_finite_perturbation():
    pixels = keras.Input(linear_network.SHAPE)
    steps = pixels[:, 0] - pixels[:, 1]
    texture = keras.ops.sum(keras.ops.sqrt(steps * steps), axis=2)
    x = keras.layers.Concatenate()([keras.layers.Flatten()(pixels), texture])
    small = keras.initializers.RandomNormal(stddev=0.003, seed=0)
    made = free.FreeTrainer(
        keras.Model(pixels, keras.layers.Dense(4, kernel_initializer=small)(x)),
        batch_size=6,
        epsilon=8.0,
        validation_attack=doors.identity,
    )
    made.compile(keras.optimizers.SGD(1e-9))
    images = flat_images(6)
    data = tf.data.Dataset.from_tensors((images, NETWORK.labels(images))).repeat(2)
    made.fit(data, shuffle=False, verbose=0)
    perturbation = made.perturbation.numpy()
    assert np.isfinite(perturbation).all()
    assert (np.abs(perturbation[:, 2]) > 7).all(), "pixels with a slope move"


def test_mended_entries_are_those_of_numpy():
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=(5, 3, 4, 2)).astype(np.float32)
    spoilt = gradient.copy()
    spoilt[0, 0, 0] = np.nan, np.inf
    spoilt[1, 1] = -np.inf
    spoilt[2] = np.nan
    spoilt[3, :, :, 0], spoilt[3, :, :, 1] = np.inf, np.nan
    expected = []
    for image in spoilt:
        largest = max(np.abs(image[np.isfinite(image)]).max(initial=0.0), 0.0) or 1.0
        expected.append(np.nan_to_num(image, nan=0.0, posinf=largest, neginf=-largest))
    found = scaling.finite(tf.constant(spoilt)).numpy()
    np.testing.assert_array_equal(found, np.stack(expected))
    np.testing.assert_array_equal(found[4], gradient[4])
