import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.training import objectives

LABELS = np.array([0, 2, 1, 2], np.int32)


class Given:
    """A network that answers with given logits: the first call is clean, the second adversarial."""

    def __init__(self, *logits):
        self.logits, self.modes = list(logits), []

    def __call__(self, images, training=None):
        self.modes.append(training)
        return tf.constant(self.logits[len(self.modes) - 1], tf.float32)


def softmax(z):
    e = np.exp(np.float64(z) - np.max(z, -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def draw(seed, scale=2.0):
    return np.random.default_rng(seed).normal(0, scale, (4, 3)).astype(np.float32)


def kl(p, q):
    return np.sum(p * np.log(p / q), -1)


def label_probability(p):
    return p[np.arange(4), LABELS]


def losses(objective, *logits):
    values, returned = objective(Given(*logits), None, None, tf.constant(LABELS))
    np.testing.assert_array_equal(returned, logits[-1])
    return values.numpy()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_adversarial_cross_entropy_spreads_the_smoothing_over_all_classes(smoothing):
    z = draw(0)
    targets = (1 - smoothing) * np.eye(3)[LABELS] + smoothing / 3
    expected = -np.sum(targets * np.log(softmax(z)), -1)
    actual = losses(objectives.adversarial_cross_entropy(smoothing), z)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_trades_is_clean_cross_entropy_plus_beta_times_the_divergence(smoothing):
    z, z_adv = draw(1), draw(2)
    p, q = softmax(z), softmax(z_adv)
    targets = (1 - smoothing) * np.eye(3)[LABELS] + smoothing / 3
    expected = -np.sum(targets * np.log(p), -1) + 4.0 * kl(p, q)
    actual = losses(objectives.trades(4.0, smoothing), z, z_adv)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_mart_is_boosted_cross_entropy_plus_divergence_weighed_by_clean_doubt():
    z, z_adv = draw(3), draw(4)
    p, q = softmax(z), softmax(z_adv)
    rivals = np.where(np.eye(3, dtype=bool)[LABELS], -1, q).max(-1)
    boosted = -np.log(label_probability(q)) - np.log(1 - rivals)
    expected = boosted + 5.0 * kl(p, q) * (1 - label_probability(p))
    np.testing.assert_allclose(losses(objectives.mart(5.0), z, z_adv), expected, rtol=1e-5)


def test_for_two_classes_the_boosted_cross_entropy_is_twice_the_ordinary_one():
    z, labels = draw(5)[:, :2], np.array([0, 1, 1, 0])
    expected = -2 * np.log(softmax(z)[np.arange(4), labels])
    np.testing.assert_allclose(objectives.boosted_cross_entropy(z, labels), expected, rtol=1e-5)


def test_losses_and_gradients_stay_finite_where_a_probability_is_exactly_one_in_float32():
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, use_bias=False)])
    network.set_weights([np.eye(3, dtype=np.float32)])
    sure = 200.0 * np.eye(3, dtype=np.float32)
    for objective in (objectives.trades(), objectives.mart()):
        with tf.GradientTape() as tape:
            values, _ = objective(network, sure, sure[::-1].copy(), tf.constant([0, 1, 2]))
            total = tf.reduce_sum(values)
        (gradient,) = tape.gradient(total, network.trainable_variables)
        assert np.isfinite(values).all() and np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 1


@pytest.mark.parametrize("make", [objectives.trades, objectives.mart])
def test_gradients_equal_central_differences_through_both_passes(make):
    clean, adversarial = draw(6, 1.0), draw(7, 1.0)
    kernel = np.random.default_rng(8).normal(0, 1, (3, 3))
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, use_bias=False)])
    network.set_weights([kernel.astype(np.float32)])

    def total(weights):
        p, q = softmax(clean @ weights), softmax(adversarial @ weights)
        if make is objectives.trades:
            return np.sum(-np.log(label_probability(p)) + 3.0 * kl(p, q))
        rivals = np.where(np.eye(3, dtype=bool)[LABELS], -1, q).max(-1)
        boosted = -np.log(label_probability(q)) - np.log(1 - rivals)
        return np.sum(boosted + 3.0 * kl(p, q) * (1 - label_probability(p)))

    with tf.GradientTape() as tape:
        values, _ = make(3.0)(network, clean, adversarial, tf.constant(LABELS))
        loss = tf.reduce_sum(values)
    (gradient,) = tape.gradient(loss, network.trainable_variables)
    h = 1e-5 * np.eye(9).reshape(9, 3, 3)
    slopes = [(total(kernel + d) - total(kernel - d)) / 2e-5 for d in h]
    np.testing.assert_allclose(gradient, np.reshape(slopes, (3, 3)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [objectives.trades, objectives.mart])
def test_both_passes_are_in_training_mode_and_move_the_batch_norm_averages_in_order(make):
    norm = keras.layers.BatchNormalization(momentum=0.5)
    network = keras.Sequential([keras.Input((3,)), norm])
    clean, adversarial = draw(9), draw(10)
    make()(network, clean, adversarial, tf.constant(LABELS))
    expected = 0.5 * (0.5 * clean.mean(0)) + 0.5 * adversarial.mean(0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)


def test_equal_images_leave_trades_its_clean_term_alone():
    z = draw(11)
    expected = -np.log(label_probability(softmax(z)))
    np.testing.assert_allclose(losses(objectives.trades(1e3), z, z), expected, rtol=1e-5)


def test_a_beta_of_zero_leaves_the_divergence_out():
    z, z_adv = draw(12), draw(13)
    clean = -np.log(label_probability(softmax(z)))
    np.testing.assert_allclose(losses(objectives.trades(0.0), z, z_adv), clean, rtol=1e-5)
    boosted = objectives.boosted_cross_entropy(tf.constant(z_adv), tf.constant(LABELS))
    np.testing.assert_allclose(losses(objectives.mart(0.0), z, z_adv), boosted, rtol=1e-5)


@pytest.mark.parametrize(
    "make, value, hint",
    [
        (objectives.adversarial_cross_entropy, 1.0, "label_smoothing is 1.0"),
        (objectives.trades, -1.0, "beta is -1.0"),
        (objectives.mart, float("nan"), "beta is nan"),
    ],
)
def test_a_value_out_of_range_is_named(make, value, hint):
    with pytest.raises(ValueError, match=hint):
        make(value)
