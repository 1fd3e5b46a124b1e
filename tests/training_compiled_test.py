"""The step of every method compiles with XLA, which is what a TPU asks of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import activations, attacks, models
from sat_tf.training import methods

# Networks as narrow as they can be.
NETWORKS = {
    "resnet8": {"width": 2},
    "resnet18": {"width": 2},
    "preactresnet18": {},
    "convnext_tiny_convstem": {"width": 2, "depth": 1, "patch_size": 1},
    "vit_tiny": {"width": 4, "num_heads": 2, "depth": 1, "patch_size": 4},
}


def named(name):
    return models.build(
        name, activation="swish", num_classes=3, image_size=8, num_channels=1, **NETWORKS[name]
    )


def activated(spec):
    """A convolution, the activation, and logits."""
    pixels = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(3, 3)(keras.layers.Rescaling(2 / 255, -1)(pixels))
    x = activations.make(spec)(x)
    return keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def logs_of_a_step(method, jit_compile, network=lambda: named("resnet8")):
    """Takes a step and a validation step from the same weights; returns what they log."""
    keras.utils.set_random_seed(0)
    attack = attacks.PGD(epsilon=8, step_size=8, steps=2)
    trainer = methods.make(method).trainer(
        network(), attack, batch_size=4, validation_attack=attack
    )
    trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    pixels = np.random.default_rng(0).uniform(0, 255, [4, 8, 8, 1])
    batch = (tf.constant(pixels, tf.float32), tf.constant([0, 1, 2, 0]))
    logs = {}
    for step in (trainer.train_step, trainer.test_step):
        compiled = tf.function(step, jit_compile=jit_compile, autograph=False)
        logs |= {f"{step.__name__} {name}": float(one) for name, one in compiled(batch).items()}
    return logs


@pytest.mark.slow
@pytest.mark.parametrize("method", list(methods.METHODS))
def test_the_steps_of_every_method_compile_and_log_what_they_log_uncompiled(method):
    found, expected = (logs_of_a_step(method, jit_compile) for jit_compile in (True, False))
    assert len(found) == 6 and found == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("activation", activations.NAMES)
def test_the_steps_of_every_activation_compile(activation):
    # Not compared: the sign of a gradient near 0 turns with rounding, and a pixel with it.
    found = logs_of_a_step("pgd_at", True, lambda: activated(activation))
    assert len(found) == 6 and np.isfinite(list(found.values())).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny_convstem", "vit_tiny"])
def test_a_step_of_networks_with_layer_norm_compiles_too(name):
    found, expected = (
        logs_of_a_step("pgd_at", jit_compile, lambda: named(name)) for jit_compile in (True, False)
    )
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "preactresnet18"])
def test_the_steps_of_deeper_networks_with_batch_norm_compile(name):
    # Deep networks on maps of one pixel: what they log depends on every rounding.
    found = logs_of_a_step("pgd_at", True, lambda: named(name))
    assert len(found) == 6 and np.isfinite(list(found.values())).all()
