"""Synchronized batch norm: two replicas are one device with the whole batch, and only then."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import models
from sat_tf.attacks import PGD
from sat_tf.runs import distribution
from sat_tf.training import methods

ATTACK = PGD(epsilon=16, step_size=8, steps=1, random_start=False)


def network():
    """Batch norm of maps, on the fused operation where it is not synchronized, and of vectors."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(3, 3)(keras.layers.Rescaling(2 / 255, -1)(pixels))
    x = keras.layers.Activation("swish")(models.BatchNormalization(momentum=0.5)(x))
    x = keras.layers.Dense(5)(keras.layers.Flatten()(x))
    x = keras.layers.BatchNormalization(momentum=0.8)(x)
    return keras.Model(pixels, keras.layers.Dense(3)(x))


@functools.cache
def fitted(strategy, synchronized, method, **settings):
    """Takes two steps of SGD, so that weights tell gradients; returns all variables."""
    rng = np.random.default_rng(0)
    # The halves of a batch, a replica each, are unlike each other.
    images = rng.uniform(0, 255, (16, 6, 6, 1)) * np.where(np.arange(16) % 8 < 4, 0.4, 1.0)[
        :, None, None, None
    ]  # fmt: skip
    labels = rng.integers(0, 3, 16).astype(np.int32)
    data = tf.data.Dataset.from_tensor_slices((images.astype(np.float32), labels)).batch(8)
    with distribution.strategy(strategy).scope():
        made = network()
        if synchronized:
            models.synchronize(made)
        trainer = methods.make(method, **settings).trainer(
            made, ATTACK, batch_size=8, validation_attack=ATTACK
        )
        trainer.compile(keras.optimizers.SGD(0.2, momentum=0.9), weight_decay=0.01)
    trainer.fit(data, shuffle=False, verbose=0)
    return trainer.network.get_weights()


@pytest.mark.parametrize(
    "method, settings",
    [
        ("free", {"replays": 2}),
        pytest.param("pgd_at", {"awp_gamma": 0.01}, marks=pytest.mark.slow),
        pytest.param("mart", {}, marks=pytest.mark.slow),
    ],
)
def test_two_replicas_take_the_steps_of_one_device_with_the_whole_batch(method, settings):
    whole = fitted("one_device", False, method, **settings)
    for one, other in zip(fitted("mirrored", True, method, **settings), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


def test_without_it_they_differ():
    whole, apart = (fitted(one, False, "free", replays=2) for one in ("one_device", "mirrored"))
    assert max(np.abs(a - b).max() for a, b in zip(whole, apart, strict=True)) > 0.05


def test_inference_is_as_before_and_a_saved_network_keeps_the_setting(tmp_path):
    made = network()
    images = np.random.default_rng(3).uniform(0, 255, (4, 6, 6, 1)).astype(np.float32)
    before = made(images, training=False).numpy()
    models.synchronize(made)
    np.testing.assert_array_equal(made(images, training=False), before)
    made.save(tmp_path / "made.keras")
    loaded = keras.models.load_model(tmp_path / "made.keras")
    kinds = keras.layers.BatchNormalization
    assert [x.synchronized for x in loaded.layers if isinstance(x, kinds)] == [True] * 2


def test_a_network_without_batch_norm_is_refused():
    pixels = keras.Input((4, 4, 1))
    bare = keras.Model(pixels, keras.layers.Dense(2)(keras.layers.Flatten()(pixels)), name="bare")
    with pytest.raises(ValueError, match="'bare' has no batch norm to synchronize"):
        models.synchronize(bare)
