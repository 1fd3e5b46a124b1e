"""Losses and their gradients against NumPy float64 and float32 twins."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.attacks import losses
from sat_tf.attacks.pgd import PGD
from sat_tf.attacks.pgd_restarts import RestartedPGD

SHAPE = (6, 6, 3)


def network(policy, margin=0.0):
    """Builds a convolution with given weights whose class 0 leads by about `margin`."""
    policy = keras.DTypePolicy(policy)
    pixels = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 127.5, -1, dtype=policy)(pixels)
    x = keras.layers.Conv2D(8, 3, activation="swish", dtype=policy)(x)
    x = keras.layers.Dense(5, dtype=policy)(keras.layers.Flatten(dtype=policy)(x))
    model = keras.Model(pixels, x)
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, w.shape[0] ** -0.5, w.shape) for w in model.get_weights()]
    weights[1] *= 0
    weights[2] *= 0.3
    weights[3] = np.array([margin, 0, 0, 0, 0])
    model.set_weights(weights)
    return model


def images(count=8):
    return tf.constant(np.random.default_rng(1).integers(0, 256, (count, *SHAPE)), tf.float32)


def gradient(model, loss, points):
    labels = tf.zeros(len(points), tf.int32)
    function = losses.loss_function(loss)
    found = losses.loss_and_gradient(model, points, lambda z: function(z, labels, labels + 1))
    return found[2].numpy().reshape(len(points), -1)


@pytest.mark.parametrize("factor", [1.0, 1e8, 1e10, 1e30])
def test_the_way_up_is_towards_the_other_classes_however_large_the_logits_are(factor):
    logits = factor * np.array([[9.0, 3.0, 1.0], [-1.0, -9.0, -1.0]])
    third = np.exp(-2 * factor) / (1 + np.exp(-2 * factor))
    expected = [[-1.0, 1 - third, third], [0.5, -1.0, 0.5]]
    found = losses.ascent(tf.constant(logits, tf.float32), tf.constant([0, 1]))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("margin", [0.0, 8.0, 15.0, 17.0, 40.0, 80.0])
def test_cross_entropy_of_a_sure_image_has_its_value_and_gradient(margin):
    # In float32 the softmax of a margin of 17 rounds to 1, and 1 - p, the gradient, to 0.
    z = np.array([[margin, -1.0, 0.0, 0.5], [0.5, margin, 0.25, -2.0]])
    labels = np.array([0, 1])
    rows = np.arange(2)
    others = np.exp(z)
    others[rows, labels] = 0
    odds = others.sum(1) * np.exp(-z[rows, labels])
    expected = others / others.sum(1, keepdims=True)
    expected[rows, labels] = -1
    expected *= (odds / (1 + odds))[:, None]
    logits = tf.constant(z, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = losses.cross_entropy(logits, tf.constant(labels))
    np.testing.assert_allclose(value, np.log1p(odds), rtol=2e-5)
    np.testing.assert_allclose(tape.gradient(value, logits), expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("loss", "margin"), [("ce", 16.0), ("ce", 24.0), ("dlr", 1.0), ("dlr-targeted", 1.0)]
)
def test_a_float16_network_has_the_gradient_of_its_float32_twin(loss, margin):
    half = network("mixed_float16", margin)
    expected = gradient(network("float32", margin), loss, images())
    found = gradient(half, loss, images())
    if loss == "ce":
        assert 0 < np.abs(expected).max() < 1e-7  # float16 ends at 6e-8
    assert found.dtype == np.float32 and np.isfinite(found).all()
    size = np.abs(expected).max(1, keepdims=True)
    np.testing.assert_allclose(found / size, expected / size, atol=0.03)
    clear = np.abs(expected) > 0.05 * size
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(np.sign(found)[clear], np.sign(expected)[clear])


def test_weights_far_below_one_leave_a_float16_network_its_direction():
    # The logits move by 2^-18 a pixel: a slope of 16 comes back as 2^-14, one of 2^-10 as 0.
    small = tf.constant(2.0**-9, tf.float16)
    signs = np.random.default_rng(2).choice([-1.0, 1.0], SHAPE)

    def flat(pixels, training=False):
        own = tf.reduce_sum(tf.cast(pixels, tf.float16) * small * (small * signs), [1, 2, 3])
        return tf.stack([own, -own], 1)

    found = gradient(flat, "ce", images(2)) / 2.0**-18
    np.testing.assert_allclose(found, [-signs.ravel()] * 2, rtol=0.05)


@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr-targeted"])
def test_in_float32_the_gradient_is_bit_for_bit_that_of_one_tape(loss):
    model, points = network("float32"), images()
    labels = tf.zeros(len(points), tf.int32)
    with tf.GradientTape() as tape:
        tape.watch(points)
        value = losses.loss_function(loss)(model(points, training=False), labels, labels + 1)
    expected = tape.gradient(value, points).numpy().reshape(len(points), -1)
    np.testing.assert_array_equal(gradient(model, loss, points), expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steps_of_restarted_pgd_on_a_sure_image_are_those_of_pgd(norm):
    model, points = network("float32", margin=40.0), images()
    labels = tf.zeros(len(points), tf.int32)
    arguments = dict(epsilon=8.0, step_size=2.0, random_start=False, norm=norm)
    attack = RestartedPGD(steps=3, **arguments)
    state = attack.start(points, labels, tf.zeros([len(points), 2], tf.int32), None)
    for _ in range(3):
        state = attack.step(model, state)
    expected = PGD(steps=3, **arguments)(model, points, labels)
    assert np.abs(expected - points).max() > 1
    np.testing.assert_allclose(state["iterate"], expected, atol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float16])
def test_no_class_is_right_where_a_logit_is_not_finite(value, dtype):
    logits = np.array([[3.0, 1, 2], [1, 3, 2], [1, 2, 3], [3, 1, 2]])
    for column in range(3):
        bad = logits.copy()
        bad[0, column] = value
        for label in range(3):
            wrong = losses.misclassified(tf.constant(bad, dtype), tf.fill([4], label)).numpy()
            assert wrong.tolist() == [True, label != 1, label != 2, label != 0]
        chances = losses.probabilities(tf.constant(bad, dtype)).numpy()
        assert np.isnan(chances[0]).all()
        expected = np.exp(logits[1:]) / np.exp(logits[1:]).sum(1, keepdims=True)
        np.testing.assert_allclose(chances[1:], expected, rtol=1e-5)


def test_a_network_without_a_gradient_is_refused():
    constant = tf.ones([8, 5])
    with pytest.raises(ValueError, match="differentiable"):
        gradient(lambda points, training: constant, "ce", images())
