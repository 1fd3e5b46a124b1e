import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks
from sat_tf.runs import distribution
from sat_tf.training import AdversarialTrainer, awp, objectives

GAMMA = 0.05
LABELS = np.array([0, 2, 1, 2], np.int32)
RNG = np.random.default_rng(0)
KERNEL, BIAS = RNG.normal(0, 1, (6, 3)), RNG.normal(0, 1, 3)
INPUTS = RNG.uniform(0, 3, (4, 6)).astype(np.float32)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gradients(kernel, bias=BIAS, inputs=INPUTS, labels=LABELS):
    """Returns the gradients of the mean cross-entropy of `x W + b` in float64."""
    error = (softmax(inputs @ kernel + bias) - np.eye(3)[labels]) / len(labels)
    return inputs.T @ error, error.sum(0)


def moved(kernel, **rest):
    slope, _ = gradients(kernel, **rest)
    return kernel + GAMMA * np.linalg.norm(kernel) * slope / np.linalg.norm(slope)


def linear_network():
    network = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    network.set_weights([KERNEL, BIAS])
    return network


def deep_network():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(3, 3, use_bias=False)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.5)(x)
    x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def images(count=4):
    return np.random.default_rng(2).uniform(0, 3, (count, 4, 4, 1)).astype(np.float32)


def test_the_gradient_is_the_one_at_the_perturbed_kernel_with_the_bias_as_it_was():
    network = linear_network()
    objective = awp.perturbed(objectives.adversarial_cross_entropy(), GAMMA)
    with tf.GradientTape() as tape:
        losses, logits = objective(network, None, tf.constant(INPUTS), tf.constant(LABELS))
        loss = tf.reduce_mean(losses)
    actual = tape.gradient(loss, network.trainable_variables)
    worst = moved(KERNEL)
    np.testing.assert_allclose(logits, INPUTS @ worst + BIAS, rtol=1e-4, atol=1e-5)
    for ours, expected in zip(actual, gradients(worst), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_weights_are_as_before_and_the_loss_is_larger():
    network = linear_network()
    plain = objectives.adversarial_cross_entropy()
    before, _ = plain(network, None, tf.constant(INPUTS), tf.constant(LABELS))
    after, _ = awp.perturbed(plain, GAMMA)(network, None, INPUTS, tf.constant(LABELS))
    assert tf.reduce_mean(after) > tf.reduce_mean(before)
    np.testing.assert_array_equal(network.get_weights()[0], KERNEL.astype(np.float32))


def test_every_kernel_is_perturbed_by_the_same_share_of_its_own_norm():
    network, seen = deep_network(), []

    def spying(network, images, adversarial, labels):
        seen.append([tf.identity(v.value) for v in network.trainable_variables])
        return objectives.adversarial_cross_entropy()(network, images, adversarial, labels)

    awp.perturbed(spying, GAMMA)(network, None, images(), tf.constant(LABELS))
    for variable, old, new in zip(network.trainable_variables, *seen, strict=True):
        share = np.linalg.norm(new - old) / max(np.linalg.norm(old), 1e-9)
        assert share == pytest.approx(GAMMA if variable.name == "kernel" else 0.0, rel=1e-4)


def test_batch_norm_averages_move_once_and_as_the_perturbed_pass_says():
    network, twin, seen = deep_network(), deep_network(), []

    def spying(network, *rest):
        seen.append(network.layers[1].kernel.value)
        return objectives.adversarial_cross_entropy()(network, *rest)

    awp.perturbed(spying, GAMMA)(network, None, images(), tf.constant(LABELS))
    twin.layers[1].kernel.assign(seen[1])
    twin(images(), training=True)
    ours, theirs = network.layers[2], twin.layers[2]
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, rtol=1e-5)
    assert np.abs(ours.moving_mean.numpy()).max() > 0


@pytest.mark.parametrize("make", [objectives.trades, objectives.mart])
def test_a_vanishing_perturbation_leaves_any_objective_as_it_was(make):
    network, twin = deep_network(), deep_network()
    arguments = images(), images() + 1, tf.constant(LABELS)
    plain, _ = make()(twin, *arguments)
    tiny, _ = awp.perturbed(make(), 1e-9)(network, *arguments)
    np.testing.assert_allclose(tiny, plain, rtol=1e-5)
    for a, b in zip(network.variables, twin.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def step(strategy, count=4):
    """Returns the weights of the linear network after one optimiser step inside `fit`."""
    with strategy.scope():
        trainer = AdversarialTrainer(
            linear_network(),
            attacks.identity,
            objective=awp.perturbed(objectives.adversarial_cross_entropy(), GAMMA),
        )
        trainer.compile(keras.optimizers.SGD(0.5))
    data = tf.data.Dataset.from_tensor_slices((INPUTS[:count], LABELS[:count])).batch(count)
    trainer.fit(data, verbose=0, shuffle=False)
    return trainer.network.get_weights()


@pytest.mark.parametrize("strategy, count", [("one_device", 4), ("mirrored", 4), ("mirrored", 3)])
def test_a_step_inside_fit_equals_the_closed_form_on_any_replicas(strategy, count):
    kernel, bias = step(distribution.strategy(strategy), count)
    batch = {"inputs": INPUTS[:count], "labels": LABELS[:count]}
    slopes = gradients(moved(KERNEL, **batch), **batch)
    np.testing.assert_allclose(kernel, KERNEL - 0.5 * slopes[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias, BIAS - 0.5 * slopes[1], rtol=1e-4, atol=1e-5)


def test_replicas_keep_the_batch_norm_averages_that_the_plain_objective_keeps():
    plain = objectives.adversarial_cross_entropy()
    expected = averages(plain)
    np.testing.assert_allclose(averages(awp.perturbed(plain, 1e-9)), expected, rtol=1e-5)
    assert np.abs(expected).max() > 0


def averages(objective):
    """Returns the moving means after a step on two replicas inside `fit`."""
    with distribution.strategy("mirrored").scope():
        trainer = AdversarialTrainer(deep_network(), attacks.identity, objective=objective)
        trainer.compile(keras.optimizers.SGD(0.1))
    data = tf.data.Dataset.from_tensor_slices((images(), LABELS)).batch(4)
    trainer.fit(data, verbose=0, shuffle=False)
    return trainer.network.layers[2].moving_mean.value.numpy()


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_a_gamma_that_perturbs_nothing_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma is"):
        awp.perturbed(objectives.trades(), gamma)


def test_a_kernel_that_plays_no_part_stays_where_it_is():
    kernel = tf.constant([[3.0, -4.0]])
    np.testing.assert_array_equal(awp._perturbation(kernel, tf.zeros_like(kernel), 0.5), [[0, 0]])
    moved = awp._perturbation(kernel, tf.constant([[0.0, 2e-6]]), 0.5)
    np.testing.assert_allclose(moved, [[0, 2.5]], rtol=1e-5)
