"""Rematerialisation changes what is kept and nothing of what is computed."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import activations, models
from sat_tf.attacks import PGD
from sat_tf.runs import distribution
from sat_tf.training import methods, parts, rematerialization
from sat_tf.training.rematerialization import rematerialize

ATTACK = PGD(epsilon=16, step_size=8, steps=1)


class Drawing(keras.layers.Layer):
    """Multiplies by what it draws in a step of training."""

    def call(self, x):
        seed = activations.next_seed()
        return x if seed is None else x * tf.random.stateless_uniform(x.shape[1:], seed)


def network():
    """A residual block with all that a call may change or draw."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(3, 3, padding="same")(keras.layers.Rescaling(2 / 255, -1)(pixels))
    y = models.BatchNormalization(momentum=0.5)(keras.layers.Conv2D(3, 3, padding="same")(x))
    y = Drawing()(keras.layers.Dropout(0.4, seed=3)(keras.layers.Activation("swish")(y)))
    x = Drawing()(keras.layers.Add()([x, y]))
    return keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def fitted(remat, method="pgd_at", strategy="one_device"):
    """Takes three steps and validates; returns what the run consists of, and the logs."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (24, 6, 6, 1)).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices((images, rng.integers(0, 3, 24))).batch(8)
    with distribution.strategy(strategy).scope():
        trainer = methods.make(method).trainer(
            network(), ATTACK, batch_size=8, validation_attack=ATTACK
        )
        trainer.compile(keras.optimizers.SGD(0.2, momentum=0.9), weight_decay=0.1, ema_decay=0.5)
    if remat:
        for one in (trainer.network, trainer.average):
            rematerialize(one)
    history = trainer.fit(data, validation_data=data.take(1), shuffle=False, verbose=0).history
    return [variable.numpy() for variable in trainer.state], history


@pytest.mark.parametrize(
    "method, strategy",
    [
        ("pgd_at", "one_device"),
        pytest.param("free", "one_device", marks=pytest.mark.slow),
        pytest.param("trades", "mirrored", marks=pytest.mark.slow),
    ],
)
def test_a_run_ends_in_the_same_weights_statistics_seeds_and_logs(method, strategy):
    (plain, logs), (remat, found) = (fitted(remat, method, strategy) for remat in (False, True))
    for one, other in zip(plain, remat, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert found == {name: pytest.approx(values, rel=1e-5) for name, values in logs.items()}


def convolutions(made):
    """Counts the forward convolutions of a gradient's graph."""

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(made(x, training=False))
        return tape.gradient(loss, x)

    shape = tf.TensorSpec([None, *made.input_shape[1:]], tf.float32)
    graph = tf.function(gradient, autograph=False).get_concrete_function(shape).graph
    return sum(one.type == "Conv2D" for one in graph.get_operations())


@pytest.mark.parametrize("name", ["resnet8"])
def test_every_convolution_is_computed_again_in_a_gradient(name):
    made = models.build(name, activation="swish", num_classes=3, image_size=8)
    images = np.random.default_rng(3).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    logits, before = made(images).numpy(), convolutions(made)
    rematerialize(made)
    assert convolutions(made) == 2 * before
    np.testing.assert_allclose(made(images), logits, atol=1e-6)


def test_a_saved_network_is_the_plain_one(tmp_path):
    made = network()
    images = np.random.default_rng(3).uniform(0, 255, (2, 6, 6, 1)).astype(np.float32)
    logits = made(images).numpy()
    rematerialize(made)
    made.save(tmp_path / "made.keras")
    loaded = keras.models.load_model(tmp_path / "made.keras", {"Drawing": Drawing})
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in made.layers]
    np.testing.assert_array_equal(loaded(images), logits)


class Adding(keras.layers.Layer):
    def call(self, x):
        self.add_loss(tf.reduce_mean(x))
        return x


def test_what_cannot_be_rematerialised_is_refused():
    pixels = keras.Input((4, 4, 1))
    regular = keras.layers.Conv2D(2, 3, activity_regularizer="l2", name="regular")(pixels)
    with pytest.raises(ValueError, match="'regular' adds to the loss"):
        rematerialize(keras.Model(pixels, keras.layers.Flatten()(regular)))
    adding = keras.Model(pixels, Adding(name="adding")(keras.layers.Flatten()(pixels)))
    x = keras.layers.Flatten()(Adding(name="adding")(keras.layers.Conv2D(2, 3)(pixels)))
    adding = keras.Model(pixels, keras.layers.Dense(2)(x))
    rematerialize(adding)
    with pytest.raises(ValueError, match="'adding' adds to the loss"):
        adding(np.zeros((2, 4, 4, 1), np.float32))
    all_of_it = keras.layers.Concatenate()([pixels, keras.layers.ReLU()(pixels)])
    with pytest.raises(ValueError, match="'ring' has no place .* cannot be cut into blocks"):
        rematerialize(keras.Model(pixels, keras.layers.Add()([all_of_it, pixels]), name="ring"))


@pytest.mark.parametrize(
    "values, words",
    [
        ({"awp_gamma": 0.01}, "--remat is given and so is --awp_gamma"),
        ({"attack_gradient": "softplus"}, "so is --attack_gradient"),
        ({"update_gradient": "softplus"}, "so is --update_gradient"),
    ],
)
def test_what_a_second_computation_would_not_see_is_refused(values, words):
    recipe = {"awp_gamma": 0.0, "attack_gradient": None, "update_gradient": None}
    given = types.SimpleNamespace(**{**recipe, **values})
    with pytest.raises(ValueError, match=words):
        parts._rematerialize(given, types.SimpleNamespace(network=None))


def test_about_as_many_maps_are_kept_as_the_root_of_all():
    pixels = x = keras.Input((4, 4, 2))
    for _ in range(36):
        x = keras.layers.ReLU()(x)
    made = keras.Model(pixels, x)
    cuts = rematerialization._cuts(made)
    assert cuts[0] is made.inputs[0] and cuts[-1] is made.outputs[0]
    assert 6 <= len(cuts) - 1 <= 7  # blocks of six operations
