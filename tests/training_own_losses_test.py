"""What a network's own layers add to the loss reaches the update, in every method."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks, injection
from sat_tf.runs import distribution
from sat_tf.training import AdversarialTrainer, awp, gradient_quality, objectives
from sat_tf.training.methods import Free, Mart, Trades, make

RATE, GAMMA, BATCH = 0.1, 0.3, 8
KERNEL, ACTIVITY, ADDED = 0.3, 0.2, 0.1
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 2, (BATCH, 2, 2, 1)).astype(np.float32)
LABELS = (np.arange(BATCH) % 3).astype(np.int32)
WEIGHTS = [RNG.normal(0, 1, shape) for shape in ((4, 5), (5,), (5, 3), (3,))]
SHIFT = 1.0


class AddsItsMeanSquare(keras.layers.Layer):
    """Passes its input on and adds `ADDED * mean over images of sum x^2`, one share an image."""

    def call(self, inputs):
        share = ADDED / tf.cast(tf.shape(inputs)[0], tf.float32)
        self.add_loss(share * tf.reduce_sum(tf.square(inputs), -1))
        return inputs


def network(adds):
    squares = keras.regularizers.L2
    options = {
        "kernel_regularizer": squares(KERNEL),
        "activity_regularizer": squares(ACTIVITY),
    }
    inputs = keras.Input((2, 2, 1))
    x = keras.layers.Dense(5, **options if adds else {})(keras.layers.Flatten()(inputs))
    if adds:
        x = AddsItsMeanSquare()(x)
    made = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.ReLU()(x)))
    made.set_weights(WEIGHTS)
    return made


def shifted(network, images, labels, seed=None):
    network(images, training=False)  # as an attack, which leaves losses behind
    return images + SHIFT


def step(method, strategy, adds, **options):
    """Returns the weights after one step of SGD."""
    pgd = attacks.PGD(epsilon=4, step_size=2, steps=1)
    with distribution.strategy(strategy).scope():
        made = method.trainer(network(adds), pgd, batch_size=BATCH, validation_attack=pgd)
        if not isinstance(method, Free):
            made.attack = shifted
        made.compile(keras.optimizers.SGD(RATE), run_eagerly=strategy == "one_device", **options)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(BATCH, drop_remainder=True)
    logs = made.fit(data, shuffle=False, verbose=0).history
    return made.network.get_weights(), logs["loss"]


def awp_kernel(method):
    """Returns `w + v` of the first kernel, where the layers' outputs are taken."""
    plain = network(adds=False)
    makers = {Trades: objectives.trades, Mart: objectives.mart}
    objective = makers.get(type(method), objectives.adversarial_cross_entropy)()
    with tf.GradientTape() as tape:
        losses, _ = objective(plain, IMAGES, IMAGES + SHIFT, LABELS)
        loss = tf.reduce_mean(losses)
    slope = tape.gradient(loss, plain.trainable_variables[0].value).numpy().astype(np.float64)
    kernel = WEIGHTS[0]
    return kernel + GAMMA * np.linalg.norm(kernel) * slope / np.linalg.norm(slope)


AWP, VIEW = {"awp_gamma": GAMMA}, {"update_gradient": "relu"}
BOTH = {"update_gradient": "softplus", "attack_gradient": "softplus"}


@pytest.mark.parametrize(
    "name, extra, strategy, pieces",
    [
        ("pgd_at", {}, "one_device", 4),
        ("pgd_at", {}, "mirrored", 2),
        ("trades", {}, "one_device", 1),
        ("mart", {}, "one_device", 1),
        ("free", {}, "mirrored", 1),
        ("free", BOTH, "one_device", 1),
        ("pgd_at", VIEW, "one_device", 2),
        ("trades", AWP, "one_device", 1),
        ("mart", AWP, "one_device", 1),
        ("pgd_at", AWP, "mirrored", 1),
        ("pgd_at", AWP | VIEW, "one_device", 1),
    ],
)
def test_regularisers_and_added_losses_move_the_weights_as_the_formula_says(
    name, extra, strategy, pieces
):
    method = make(name, **extra)
    options = {"gradient_accumulation": pieces} if pieces > 1 else {}
    ours, loss = step(method, strategy, True, **options)
    without, same = step(method, strategy, False, **options)
    np.testing.assert_allclose(loss, same, rtol=1e-5)  # the log is the objective's alone
    x = IMAGES.reshape(BATCH, 4).astype(np.float64) + (0 if name == "free" else SHIFT)
    kernel, bias = WEIGHTS[0], WEIGHTS[1]
    hidden = x @ (awp_kernel(method) if method.awp_gamma else kernel) + bias
    # Both terms of the outputs are means over images of sums of squares.
    by_hidden = 2 * (ACTIVITY + ADDED) * hidden / BATCH
    expected = [2 * KERNEL * kernel + x.T @ by_hidden, by_hidden.sum(0), 0, 0]
    for a, b, slope in zip(ours, without, expected, strict=True):
        np.testing.assert_allclose(a - b, -RATE * slope, rtol=1e-4, atol=1e-5)


def test_a_perturbed_objective_on_a_view_leaves_the_losses_of_its_last_call_alone():
    made = network(adds=True)
    view = gradient_quality.backward_view(made, "relu")
    plain = gradient_quality.on_view(view, objectives.adversarial_cross_entropy())
    objective = awp.perturbed(plain, GAMMA)
    own = []
    for _ in range(2):  # as two pieces of a batch
        objective(made, IMAGES, IMAGES + SHIFT, LABELS)
        own.append(objectives.own_losses(made))
    np.testing.assert_allclose(own[1], own[0], rtol=1e-6)


def test_a_regulariser_of_activity_on_a_replaced_activation_is_refused():
    inputs = keras.Input((4,))
    for layer in (
        keras.layers.Dense(3, "relu", activity_regularizer="l2", name="site"),
        keras.layers.Activation("relu", activity_regularizer="l2", name="site"),
    ):
        with pytest.raises(ValueError, match="'site' has an activity_regularizer"):
            injection.inject(keras.Model(inputs, layer(inputs)), "swish")


def test_losses_that_synchronized_layers_would_mix_up_are_refused():
    with distribution.strategy("mirrored").scope():
        inputs = keras.Input((4,))
        x = keras.layers.Dense(3, activity_regularizer="l2")(inputs)
        x = keras.layers.BatchNormalization(synchronized=True, name="meeting")(x)
        trainer = AdversarialTrainer(keras.Model(inputs, x), attacks.identity)
        trainer.compile("sgd")
    data = tf.data.Dataset.from_tensor_slices((np.ones((4, 4), np.float32), LABELS[:4])).batch(4)
    with pytest.raises(ValueError, match="'meeting' is synchronized between 2 replicas"):
        trainer.fit(data, shuffle=False, verbose=0)
