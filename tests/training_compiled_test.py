"""The steps of every method, setting and network compile with XLA, which is what a TPU asks."""

import functools
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from sat_tf import activations, attacks, models
from sat_tf.data import Info
from sat_tf.training import methods, parts
from tests import programs

# Networks as narrow as they can be, one of every kind.
NETWORKS = {
    "resnet8": {"width": 2},
    "resnet18": {"width": 2},
    "preactresnet18": {},
    "wrn-10-1": {},
    "resnet50": {},
    "resnext50-32x4d": {},
    "efficientnet-b0": {},
    "convnext_tiny": {"width": 2, "depth": 1, "patch_size": 1},
    "convnext_tiny_convstem": {"width": 2, "depth": 1, "patch_size": 1},
    "vit_tiny": {"width": 4, "num_heads": 2, "depth": 1, "patch_size": 4},
    "vit_tiny_convstem": {"width": 4, "num_heads": 2, "depth": 1, "patch_size": 2},
}
# Those whose depth is no option have as few blocks as show all that blocks do: compiling takes as
# long as there are operations, and longer for a convolution of many groups.
SHALLOW = {
    "resnet50": ((1, 1, 1, 1), 1, 64),
    "resnext50-32x4d": ((1, 1, 1, 1), 2, 4),  # two groups
    "efficientnet-b0": (0.1, 0.5, 0.2),  # ten blocks of sixteen
}
INFO = Info("pictures", ("a", "b", "c"), (8, 8, 1), {"train": 40, "validation": 4, "test": 4})
# What flags change of a step, beside the methods; together where nothing is hidden by that.
FLAGS = {
    "weights": {
        "awp_gamma": 0.01, "ema_decay": 0.9, "gradient_accumulation": 2,
        "epsilon_warmup_epochs": 1.0,
    },
    # Compared in L2: 16 bits round otherwise between operations, and signs turn with that.
    "float16": {"precision": "mixed_float16", "ema_decay": 0.9, "norm": "l2"},
    "bfloat16": {"precision": "mixed_bfloat16", "norm": "l2"},
    "remat": {"remat": True, "gradient_accumulation": 2},
    "batch": {"attack_batch_norm": "batch", "clean_start": 0.5, "label_smoothing": 0.1},
    "targeted": {"attack": "pgd-random"},
    "soft labels": {"mixup": 0.2},
    **{
        combination: {"norm_combination": combination, "norms": norms, "epsilons": ["8", "64"]}
        for combination, norms in (
            ("random", ["linf", "l2"]), ("biased", ["linf", "l1"]), ("max", ["linf", "l1"]),
            ("avg", ["linf", "l2"]),
        )
    },
}  # fmt: skip


def kind(name):
    """Says what two networks share that differ in size alone."""
    return re.match("[a-z]+", name)[0], name.endswith("_convstem"), models._body(name).func


def named(name):
    body = models._body(name)
    with pytest.MonkeyPatch.context() as patch:
        if name in SHALLOW:
            patch.setitem(models._BODIES, name, functools.partial(body.func, *SHALLOW[name]))
        return models.build(
            name, activation="swish", num_classes=3, image_size=8, num_channels=1, **NETWORKS[name]
        )


def activated(spec):
    """A convolution, the activation, and logits."""
    pixels = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(3, 3)(keras.layers.Rescaling(2 / 255, -1)(pixels))
    x = activations.make(spec)(x)
    return keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def tiny():
    """The same with batch norm, as a user's function that `--model` takes."""
    pixels = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(3, 3)(keras.layers.Rescaling(2 / 255, -1)(pixels))
    x = activations.make("swish")(models.BatchNormalization(momentum=0.5)(x))
    return keras.Model(pixels, keras.layers.Dense(3, dtype="float32")(keras.layers.Flatten()(x)))


def trained(method, network):
    """Makes a trainer by a method's name."""
    attack = attacks.PGD(epsilon=8, step_size=8, steps=2)
    trainer = methods.make(method).trainer(
        network(), attack, batch_size=4, validation_attack=attack
    )
    trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    return trainer


def logs_of_steps(make, jit_compile, soft=False):
    """Takes two steps and one of validation from the same weights; returns what they log."""
    keras.utils.set_random_seed(0)
    trainer = make()
    pixels = np.random.default_rng(0).uniform(0, 255, [4, 8, 8, 1])
    batch = (tf.constant(pixels, tf.float32), tf.constant([0, 1, 2, 0]))
    if soft:
        batch = (batch[0], 0.7 * tf.one_hot(batch[1], 3) + 0.3 * tf.one_hot([1, 1, 0, 0], 3))
    logs = {}
    for step, times in ((trainer.train_step, 2), (trainer.test_step, 1)):
        compiled = tf.function(step, jit_compile=jit_compile, autograph=False)
        for count in range(times):
            for name, one in compiled(batch).items():
                logs[f"{step.__name__} {count} {name}"] = float(one)
    assert len(logs) == 8
    return logs


def assert_compiles(make, same=1e-3, soft=False):
    """Compiles both steps; they log what they log uncompiled, or finite numbers at least."""
    found = logs_of_steps(make, True, soft)
    assert np.isfinite(list(found.values())).all(), found
    if same:
        assert found == pytest.approx(logs_of_steps(make, False, soft), rel=same, abs=same / 10)


@pytest.mark.slow
@pytest.mark.parametrize("method", list(methods.METHODS))
def test_the_steps_of_every_method_compile_and_log_what_they_log_uncompiled(method):
    assert_compiles(lambda: trained(method, lambda: named("resnet8")))


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_the_steps_that_flags_make_compile_and_log_what_they_log_uncompiled(name):
    with programs.imported("sat_tf.train"):
        given = {one: flags.FLAGS[one].default for one in programs.names()}
    given |= {
        "model": "tests.training_compiled_test:tiny", "activation": "keep", "batch_size": 4,
        "epsilon": 8.0, "attack_steps": 2, "validation_steps": 2, "jit_compile": True,
        **FLAGS[name],
    }  # fmt: skip
    keras.mixed_precision.set_global_policy(given["precision"])
    try:
        assert_compiles(
            lambda: parts.trainer(types.SimpleNamespace(**given), INFO, 1),
            same=1e-3 if given["precision"] == "float32" else 2e-2,
            soft=bool(given["mixup"]),
        )
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.slow
@pytest.mark.parametrize("activation", activations.NAMES)
def test_the_steps_of_every_activation_compile(activation):
    # Not compared: the sign of a gradient near 0 turns with rounding, and a pixel with it.
    assert_compiles(lambda: trained("pgd_at", lambda: activated(activation)), same=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "resnet8"])  # see methods
def test_the_steps_of_every_kind_of_network_compile(name):
    # Deep networks with batch norm on maps of one pixel: what they log depends on every rounding.
    same = 1e-3 if name in ("convnext_tiny_convstem", "vit_tiny") else 0
    assert_compiles(lambda: trained("pgd_at", lambda: named(name)), same)


def test_there_is_a_network_of_every_kind():
    assert {kind(name) for name in NETWORKS} == {kind(name) for name in models.NAMES}
