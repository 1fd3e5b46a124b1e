"""Trains a tiny network by every method and setting, one after the other, under one strategy.

    python -m tests.combinations multi_worker found.npz

TensorFlow starts once for all of them, and every worker launches the collective operations of
all combinations in one order.
"""

import sys

import keras
import numpy as np

from sat_tf import models
from sat_tf.attacks import PGD
from sat_tf.runs import distribution, workers
from sat_tf.training import methods
from tests import training_loss_scale_test as loss_scale
from tests import training_synchronized_test

LIMIT = 600.0  # seconds for a combination
ALL = {"awp_gamma": 0.01, "synchronized": True, "ema_decay": 0.5}
# What `trained` takes, by name.
COMBINATIONS = {
    **{method: {"method": method} for method in methods.METHODS},
    # Weight perturbation, synchronized batch norm and an average, and pieces where there may be.
    **{
        f"{method} with all": {"method": method, "gradient_accumulation": 2} | ALL
        for method in methods.METHODS
        if method != "free"
    },
    "free with all": {"method": "free"} | ALL,
    "mart in float16": {"method": "mart", "precision": "mixed_float16"} | ALL,
    "free in float16": {"method": "free", "precision": "mixed_float16"},
    "trades in bfloat16": {"method": "trades", "precision": "mixed_bfloat16"} | ALL,
}
# Rows of the second batch that overflow in float16, by the replica that has them, and the
# precision: bfloat16 has float32's range and no scale.
OVERFLOWS = {
    "overflow on the first": (8, "mixed_float16"),
    "overflow on the second": (13, "mixed_float16"),
    "no overflow in bfloat16": (13, "mixed_bfloat16"),
}


def trained(
    strategy, method, *, awp_gamma=0.0, synchronized=False, precision="float32", **compiled
):
    """Takes two steps on batches whose halves, a replica each, are unlike; returns all arrays."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (16, 6, 6, 1)) * np.where(np.arange(16) % 8 < 4, 0.4, 1.0)[
        :, None, None, None
    ]  # fmt: skip
    labels = rng.integers(0, 3, 16).astype(np.int32)
    # Where clean and perturbed predictions nearly cancel, signs turn with rounding: see
    # docs/scaling.md. In L2 no sign is taken.
    norm, epsilon = ("l2", 64) if method == "trades" else ("linf", 16)
    attack = PGD(epsilon=epsilon, step_size=epsilon / 2, steps=1, norm=norm)
    settings = {"replays": 2} if method == "free" else {}
    keras.mixed_precision.set_global_policy(precision)
    try:
        with distribution.strategy(strategy).scope():
            network = training_synchronized_test.network()
            if synchronized:
                models.synchronize(network)
            trainer = methods.make(method, awp_gamma=awp_gamma, **settings).trainer(
                network, attack, batch_size=8, validation_attack=attack
            )
            trainer.compile(keras.optimizers.SGD(0.2, momentum=0.9), weight_decay=0.01, **compiled)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    batches = loss_scale.batches_of(images.astype(np.float32), labels)
    before = [v.numpy() for v in network.trainable_variables]
    history = trainer.fit(batches, shuffle=False, verbose=0).history
    # A step that overflowed would leave the same weights everywhere.
    after = [v.numpy() for v in network.trainable_variables]
    assert all((new != old).any() for new, old in zip(after, before, strict=True))
    arrays = {f"{index:02}": v.numpy() for index, v in enumerate(trainer.state)}
    return arrays | {f"logs {name}": np.array(values) for name, values in history.items()}


def overflowed(strategy, row, precision):
    """Trains as `training_loss_scale_test`; returns the arrays, and the scale after each step."""
    trainer, seen = loss_scale.fitted(strategy, [row], precision=precision)
    arrays = {f"{index:02}": v.numpy() for index, v in enumerate(trainer.state)}
    arrays["kernels"] = np.stack([copies[0] for copies in seen.kernels])
    scales = [scale for (scale,) in map(set, seen.scales)]  # of all replicas the same
    return arrays | {"scales": np.array(scales)}


def learn(strategy):
    """Returns the arrays of all combinations, "combination/array"."""
    found = {}
    with workers.killed_after(LIMIT, "the workers did not connect"):
        distribution.strategy(strategy)  # before any operation
    for name in [*COMBINATIONS, *OVERFLOWS]:
        print(name, file=sys.stderr, flush=True)
        with workers.killed_after(LIMIT, f"the combination {name!r} was not trained"):
            if name in COMBINATIONS:
                arrays = trained(strategy, **COMBINATIONS[name])
            else:
                arrays = overflowed(strategy, *OVERFLOWS[name])
        found |= {f"{name}/{one}": value for one, value in arrays.items()}
    return found


if __name__ == "__main__":
    np.savez(sys.argv[2], **learn(sys.argv[1]))
