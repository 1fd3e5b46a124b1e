"""Attacks on soft labels climb the whole label's cross-entropy, however sure the network is."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks
from sat_tf.attacks import losses, soft_labels, stepped

RNG = np.random.default_rng(0)


def slopes(logits, labels):
    """Returns `p - y` in float64 without the cancellation of a one-hot label."""
    z = np.float64(logits)
    odds = np.array(
        [[row[k] - np.logaddexp.reduce(np.delete(row, k)) for k in range(4)] for row in z]
    )
    p, rest = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(odds))
    return p * (1 - labels) - labels * rest


@pytest.mark.parametrize("lead", [0.0, 3.0, 30.0, 80.0])
@pytest.mark.parametrize("kind", ["one-hot", "soft"])
def test_the_slope_is_that_of_the_cross_entropy_at_any_lead(kind, lead):
    classes = RNG.integers(0, 4, 16)
    labels = np.eye(4)[classes] if kind == "one-hot" else RNG.dirichlet([0.5] * 4, 16)
    logits = (RNG.normal(0, 1, (16, 4)) + lead * np.eye(4)[classes]).astype(np.float32)
    labels = labels.astype(np.float32)
    slope, size = soft_labels.ascent(logits, labels)
    found = slope.numpy() * np.exp(np.float64(size))[:, None]
    expected = slopes(logits, np.float64(labels))
    largest = np.abs(expected).max(1, keepdims=True)
    np.testing.assert_allclose(found / largest, expected / largest, atol=1e-4)
    if kind == "one-hot":
        np.testing.assert_allclose(slope, losses.ascent(logits, classes), atol=2e-5)


def test_a_lead_of_200_leaves_a_one_hot_label_its_direction():
    logits = np.float32([[200, 0, 1, 2], [-3e38, 0, 1, 3e38]])
    slope, _ = soft_labels.ascent(logits, np.eye(4)[[0, 3]])
    np.testing.assert_allclose(slope[0], losses.ascent(logits, np.array([0, 3]))[0], atol=1e-5)
    assert np.isfinite(slope).all()


def test_a_probability_that_rounding_left_above_1_is_climbed_as_1():
    logits = np.float32([[3, 0, 1, 2], [0, 3, 1, 2]])
    labels = np.exp(np.float32([[1e-6, -20, -20, -20], [1e-6, -20, -20, -20]]))
    assert labels.max() > 1
    slope, size = soft_labels.ascent(logits, labels)
    exact, exact_size = soft_labels.ascent(logits, np.eye(4)[[0, 0]])
    np.testing.assert_allclose(slope, exact, atol=1e-6)
    np.testing.assert_allclose(size, exact_size, atol=1e-6)


def network():
    inputs = keras.Input((2, 2, 1))
    x = keras.layers.BatchNormalization()(keras.layers.Flatten()(inputs))
    made = keras.Model(inputs, keras.layers.Dense(4)(x))
    made.layers[-1].set_weights([RNG.normal(0, 0.1, (4, 4)), np.zeros(4)])
    return made


@pytest.mark.parametrize("batch_norm", ["inference", "batch"])
def test_pgd_of_one_hot_rows_is_pgd_of_the_classes(batch_norm):
    images, classes = RNG.uniform(0, 255, (8, 2, 2, 1)).astype(np.float32), np.arange(8) % 4
    pgd = attacks.PGD(epsilon=8.0, step_size=2.0, steps=4, norm="l2", batch_norm=batch_norm)
    attacked, seed = network(), tf.constant([1, 2])
    expected = pgd(attacked, images, tf.constant(classes), seed)
    found = pgd(attacked, images, np.eye(4, dtype=np.float32)[classes], seed)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    mixed = pgd(attacked, images, np.float32(RNG.dirichlet([1.0] * 4, 8)), seed)
    assert np.abs(mixed - expected).max() > 1


def test_what_counts_verdicts_takes_the_most_probable_class():
    rows = np.float32([[0.2, 0.5, 0.3, 0], [0.4, 0.4, 0, 0.2], [0, 0, 0.1, 0.9]])
    assert soft_labels.classes(rows).numpy().tolist() == [1, 0, 3]
    logits = np.float32([[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, np.nan, 1]])
    assert losses.misclassified(logits, rows).numpy().tolist() == [False, True, True]
    given = []

    class Noting(stepped.Stepped):
        num_steps = 0

        def start(self, images, labels, seeds, logits):
            given.append(labels.numpy().tolist())
            return stepped.begin(images, labels, seeds)

        def step(self, network, state):
            raise AssertionError("no step was to be taken")

    Noting()(lambda x, training: x[:, 0, 0], np.zeros((3, 1, 1, 4)), rows, [0, 0])
    assert given == [[1, 0, 3]]
