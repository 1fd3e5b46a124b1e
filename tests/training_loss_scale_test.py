"""float16: an overflow anywhere skips the step everywhere, as on one device."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.attacks import identity
from sat_tf.runs import distribution
from sat_tf.training import AdversarialTrainer

BATCH, STEPS, SCALE = 8, 4, 2.0**15
# The kernel's gradient is `x (p - y) SCALE / BATCH`: 65504, float16's end, is near x = 25.
RNG = np.random.default_rng(0)
DIM = RNG.uniform(0.2, 2, (BATCH * STEPS, 4)).astype(np.float32)
LABELS = (np.arange(BATCH * STEPS) % 3).astype(np.int32)
KERNEL = RNG.normal(0, 1, (4, 3)).astype(np.float32)


class Scales(keras.callbacks.Callback):
    """Notes kernel and scale of every copy after each step."""

    def __init__(self):
        super().__init__()
        self.kernels, self.scales = [], []

    def on_train_batch_end(self, batch, logs=None):
        copies = self.model.distribute_strategy.experimental_local_results
        optimizer, network = self.model.optimizer, self.model.network
        scale = getattr(optimizer, "dynamic_scale", None)  # there is none in bfloat16
        self.scales.append([1.0] if scale is None else [float(c) for c in copies(scale.value)])
        self.kernels.append([c.numpy() for c in copies(network.layers[1].kernel.value)])


def batches_of(images, labels):
    """Makes batches of which each of several workers gets its part."""
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options)


def fitted(strategy, bright, pieces=1, scale=SCALE, growth=2000, precision="mixed_float16"):
    """Trains a linear network of 16 bits on dim images, but for the rows that are bright."""
    images, labels = DIM.copy(), LABELS.copy()
    images[list(bright)] = 200.0
    labels[list(bright)] = (KERNEL.sum(0).argmax() + 1) % 3  # surely wrong
    keras.mixed_precision.set_global_policy(precision)
    try:
        with distribution.strategy(strategy).scope():
            inputs = keras.Input((4,))
            network = keras.Model(inputs, keras.layers.Dense(3)(inputs))
            network.set_weights([KERNEL, np.zeros(3)])
            trainer = AdversarialTrainer(network, identity)
            optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
            if precision == "mixed_float16":
                optimizer = keras.optimizers.LossScaleOptimizer(
                    optimizer, scale, dynamic_growth_steps=growth
                )
            trainer.compile(optimizer, gradient_accumulation=pieces, ema_decay=0.5)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    scales = Scales()
    trainer.fit(batches_of(images, labels), shuffle=False, verbose=0, callbacks=[scales])
    return trainer, scales


@functools.cache
def state_of_one_device(*bright):
    trainer, _ = fitted("one_device", bright)
    return [variable.numpy() for variable in trainer.state]


# Rows 8 to 15 are the second batch: replica 0 has 8 to 11, its pieces are two rows each.
@pytest.mark.parametrize(
    "strategy, pieces, row",
    [
        ("mirrored", 1, 8),
        ("mirrored", 1, 13),
        ("mirrored", 2, 15),
        ("one_device", 2, 9),
    ],
)
def test_an_overflow_on_one_replica_or_in_one_piece_skips_the_step_on_all(strategy, pieces, row):
    trainer, seen = fitted(strategy, [row], pieces)
    assert [set(copies) for copies in seen.scales] == [{SCALE}, *[{SCALE / 2}] * 3]
    for step, (before, after) in enumerate(zip(seen.kernels, seen.kernels[1:], strict=False), 2):
        for old, new in zip(before, after, strict=True):
            assert np.array_equal(old, new) == (step == 2) and np.isfinite(new).all()
    assert trainer.optimizer.iterations.numpy() == STEPS - 1
    for ours, theirs in zip(trainer.state, state_of_one_device(row), strict=True):
        # Sums in another order; float16 has 11 bits.
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=2e-3, atol=1e-4)


def test_bfloat16_which_has_no_scale_learns_from_rows_that_overflow_in_float16():
    trainer, seen = fitted("mirrored", [13], precision="mixed_bfloat16")
    assert not isinstance(trainer.optimizer, keras.optimizers.LossScaleOptimizer)
    for before, after in zip(seen.kernels, seen.kernels[1:], strict=False):
        for old, new in zip(before, after, strict=True):
            assert np.isfinite(new).all() and not np.array_equal(old, new)
    one_device, _ = fitted("one_device", [13], precision="mixed_bfloat16")
    for ours, theirs in zip(trainer.state, one_device.state, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0.02, atol=0.05)  # 8 bits


def test_a_scale_that_grows_until_one_replica_overflows_falls_on_both():
    second_halves = [row for row in range(BATCH * STEPS) if row % BATCH >= BATCH // 2]
    trainer, seen = fitted("mirrored", second_halves, scale=2.0**12, growth=1)
    assert all(len(set(copies)) == 1 for copies in seen.scales)
    steps = np.diff([copies[0] for copies in seen.scales])
    assert min(steps) < 0 < max(steps)
    assert all(np.isfinite(variable.numpy()).all() for variable in trainer.state)
