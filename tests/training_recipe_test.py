"""Every value of a recipe reaches its part: a table of ablations is many runs, not one."""

import dataclasses
import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from sat_tf import activations, attacks, injection
from sat_tf.attacks.divergence import DivergencePGD
from sat_tf.data import Info
from sat_tf.training import methods, networks, optimizers, parts, recipe
from sat_tf.training.free import FreeTrainer
from tests import programs

INFO = Info("pictures", tuple("abcdefg"), (12, 12, 2), {"train": 100, "validation": 9, "test": 9})
# Unlike every default, and unlike each other.
PGD_AT = {
    "norm": "l2", "epsilon": 90.0, "epsilon_warmup_epochs": 1.3, "attack_steps": 3,
    "step_size": 21.0, "clean_start": 0.25, "attack_batch_norm": "batch", "validation_steps": 7,
    "epochs": 5, "batch_size": 12,
    "learning_rate": 0.3, "schedule": "step", "warmup_epochs": 0.7, "boundary": [1.5, 3.0],
    "factor": 0.2, "momentum": 0.6, "nesterov": False, "weight_decay": 0.003,
    "label_smoothing": 0.15, "ema_decay": 0.75, "gradient_accumulation": 3, "seed": 11,
    "jit_compile": True, "steps_per_execution": 4,
}  # fmt: skip
GRADIENTS = {"attack_gradient": "softplus", "update_gradient": "parametric_softplus"}
# Flags that other laws of this file give another value, and those that the program reads itself.
ELSEWHERE = {
    "model", "activation", "image_size", "attack", "random_start", "method", "beta", "replays",
    "awp_gamma", "attack_gradient", "update_gradient", "activation_weight_decay", "optimizer",
    "learning_rate_base_size", "decay_epochs", "decay_factor",  # of training_optimizers_test.py
    "synchronized_batch_norm", "remat",  # of training_synchronized_ and rematerialization_test.py
    "initial_network", "freeze", "body_learning_rate_multiplier",  # of training_finetuning_test.py
    "norms", "epsilons", "norm_combination",  # of training_norms_test.py
}  # fmt: skip
OF_THE_PROGRAM = {
    "dataset", "data_dir", "download", "augment", "eval_resize", "on_overfitting", "workdir",
    "overwrite", "strategy", "logical_cpus", "threads", "precision", "deterministic",
    "checkpoint_every", "picture_grid", "test_steps", "worker_timeout", "max_pixels",
    "profile", "lanes", "cluster", "mixup", "cutmix", "extra_data", "extra_fraction",
    "data_service",
}  # fmt: skip


@pytest.fixture(scope="module")
def defaults():
    with programs.imported("sat_tf.train"):
        yield {name: flags.FLAGS[name].default for name in programs.names()}


@pytest.fixture(scope="module")
def given(defaults):
    network = {"model": "resnet8", "activation": "swish"}  # as `completed` fills them in
    defaults = {**defaults, **network, "epsilon": 8.0}
    return lambda **values: types.SimpleNamespace(**{**defaults, **values})


@pytest.fixture
def built(monkeypatch):
    """Gives every recipe a tiny network; yields what the builder was asked for."""
    asked = []

    def build(name, *, image_size, num_channels, num_classes, activation, **options):
        asked.append((name, image_size, num_channels, num_classes, activation, options))
        inputs = keras.Input((image_size, image_size, num_channels))
        x = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
        x = activations.make(activation)(x)
        return keras.Model(inputs, keras.layers.Dense(num_classes)(x), name="tiny")

    monkeypatch.setattr(networks.models, "build", build)
    return asked


def test_every_flag_of_training_has_a_law(defaults):
    assert defaults.keys() == PGD_AT.keys() | ELSEWHERE | OF_THE_PROGRAM
    assert not [name for name, value in PGD_AT.items() if defaults[name] == value]
    assert len(PGD_AT) + len(ELSEWHERE) + len(OF_THE_PROGRAM) == len(defaults)


def test_a_recipe_has_a_field_of_every_flag_and_no_other(defaults):
    fields = [field.name for field in dataclasses.fields(recipe.Recipe)]
    assert sorted(fields) == sorted(defaults)
    values = {name: object() for name in fields}
    assert vars(recipe.Recipe.of(types.SimpleNamespace(**values, more=1))) == values


def test_steps_that_do_not_divide_an_epoch_are_refused_with_those_that_do(given, built):
    with pytest.raises(ValueError, match="divide the 8 steps of an epoch; use one of: 1, 2, 4, 8"):
        parts.trainer(given(**{**PGD_AT, "steps_per_execution": 3}), INFO, 1)


def test_every_value_reaches_the_trainer(given, built):
    values = given(**PGD_AT)
    made = parts.trainer(values, INFO, 2)
    assert vars(made.attack) == {
        "epsilon": 90.0, "step_size": 21.0, "steps": 3, "random_start": 0.75, "norm": "l2",
        "batch_norm": "batch",
    }  # fmt: skip
    assert type(made.attack) is attacks.PGD
    assert vars(made.validation_attack) == vars(
        attacks.PGD(epsilon=90.0, step_size=22.5, steps=7, norm="l2")
    )
    assert (made.seed, made.weight_decay, made.activation_weight_decay) == (11, 0.003, 0.0)
    assert (made.ema_decay, made.gradient_accumulation, made.jit_compile) == (0.75, 3, True)
    assert made.steps_per_execution == 4
    assert made.epsilon_warmup_steps == math.ceil(1.3 * (100 // 12)) == 11
    assert made.average is not None and made.average is not made.network
    assert (made.optimizer.momentum, made.optimizer.nesterov) == (0.6, False)
    steps = 100 // 12
    rates = [float(made.optimizer._learning_rate(t)) for t in range(5 * steps)]
    warm = math.ceil(0.7 * steps)
    expected = [
        0.3 * (t + 1) / warm if t < warm else 0.3 * 0.2 ** ((t >= 12) + (t >= 24))
        for t in range(5 * steps)
    ]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    images, labels = np.full((2, 12, 12, 2), 0.9, np.float32), tf.constant([0, 6])
    losses, logits = made.objective(made.network, None, images, labels)
    log_p = np.float64(tf.nn.log_softmax(logits))
    targets = 0.85 * np.eye(7)[[0, 6]] + 0.15 / 7
    np.testing.assert_allclose(losses, -(targets * log_p).sum(1), rtol=1e-5)


def test_the_defaults_are_those_of_the_help(given, built):
    made = parts.trainer(given(epochs=4, batch_size=10), INFO, 1)
    assert vars(made.attack) == vars(attacks.PGD(epsilon=8, step_size=8, steps=1))
    assert vars(made.validation_attack) == vars(attacks.PGD(epsilon=8, step_size=2, steps=10))
    assert (made.ema_decay, made.average, made.jit_compile, made.seed) == (0.0, None, False, 0)
    assert made.epsilon_warmup_steps == 0
    assert (made.weight_decay, made.gradient_accumulation) == (5e-4, 1)
    assert (made.optimizer.momentum, made.optimizer.nesterov) == (0.9, True)
    rates = [float(made.optimizer._learning_rate(t)) for t in range(40)]
    t = np.arange(40)  # a quarter of 4 epochs of warm-up, then one_cycle
    expected = np.where(t < 10, 0.1 * (t + 1) / 10, 0.1 * (40 - t) / 30)
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="the trainer is no network; save .*best_network.save"):
        made.save("mine.keras")
    long = optimizers.schedule(given(epochs=30), 10)
    assert (long.warmup_steps, long.num_steps, long.boundaries) == (20, 300, ())
    # 0.29 times 100 is 28.999… in floating point.
    halves = given(schedule="step", boundary=[0.29, 0.5, 1.25])
    assert optimizers.schedule(halves, 100).boundaries == (29, 50, 125)
    # A part of a step warms up too.
    assert optimizers.schedule(given(epochs=3), 3).warmup_steps == 3


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
def test_the_step_sizes_are_those_of_the_help(given, steps):
    values = given(epsilon=10.0, attack_steps=steps)
    assert parts.training_attack(values).step_size == (10 if steps < 3 else 25 / steps)
    (strong,) = parts.strong_attacks(values, steps)
    assert (strong.step_size, strong.steps) == (10 / min(4, steps), steps)
    assert (strong.random_start, strong.batch_norm) == (True, "inference")


@pytest.mark.parametrize(
    "random_start, clean_start, probability",
    [(True, 0.0, 1), (True, 0.2, 0.8), (False, 0.0, 0), (False, 0.2, 0), (True, 1.0, 0)],
)
def test_the_probability_of_a_random_start(given, random_start, clean_start, probability):
    made = parts.training_attack(given(random_start=random_start, clean_start=clean_start))
    assert made.random_start == probability


def test_no_attack_is_clean_training_and_an_unknown_one_is_refused(given):
    assert parts.training_attack(given(attack="none", epsilon=None)) is attacks.identity
    with pytest.raises(ValueError, match="--attack is 'fgsm'; use one of: pgd, pgd-random, .*none"):
        parts.training_attack(given(attack="fgsm"))


def test_a_radius_below_a_pixel_is_asked_about_and_no_other(given, capsys):
    parts.training_attack(given(epsilon=0.0))
    parts.training_attack(given(epsilon=1.0))
    assert capsys.readouterr().err == ""
    parts.training_attack(given(epsilon=8 / 255))
    assert "if 8/255 is meant, give 8\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "values",
    [
        {"method": "trades", "beta": 2.5},
        {"method": "mart", "beta": 3.5, "awp_gamma": 0.02},
        {"method": "free", "replays": 3},
        GRADIENTS,
    ],
)
def test_every_value_reaches_the_method(given, values):
    settings = {name: value for name, value in values.items() if name != "method"}
    expected = methods.make(values.get("method", "pgd_at"), **settings)
    assert parts.method(given(**values)) == expected != methods.Method()


def test_the_method_decides_which_trainer_is_built(given, built):
    values = {"batch_size": 6, "step_size": 3.0, "activation_weight_decay": 0.04}
    trades = parts.trainer(given(**values, method="trades", activation="smoothrelu"), INFO, 1)
    assert type(trades.attack) is DivergencePGD and trades.attack.step_size == 3
    assert (trades.activation_weight_decay, trades.weight_decay) == (0.04, 5e-4)
    free = parts.trainer(given(method="free", batch_size=6, step_size=3.0, seed=5), INFO, 1)
    assert type(free) is FreeTrainer and free.seed == 5
    assert (free.epsilon, free.step_size, free.perturbation.shape) == (8, 3, (6, 12, 12, 2))


def test_the_network_is_that_of_the_model_the_activation_and_the_data(given, built):
    values = given(model="resnet18:width=16", activation="celu:alpha=1.6")
    assert networks.make(values, INFO).output_shape == (None, 7)
    values.image_size = 10
    networks.make(values, INFO)
    first = ("resnet18", 12, 2, 7, "celu:alpha=1.6", {"width": 16})
    assert built == [first, (first[0], 10, *first[2:])]
    anyhow = Info("pictures", ("a", "b"), (None, None, 3), {"train": 9})
    with pytest.raises(ValueError, match="give the side they are cut to"):
        networks.image_size(given(), anyhow)
    for option in ("num_channels", "image_size", "num_classes"):
        with pytest.raises(ValueError, match=f"sets {option}, which comes from the data"):
            networks.make(given(model=f"resnet8:{option}=1"), INFO)


@pytest.mark.parametrize(
    "dataset, epsilon", [("digits", 32), ("cifar10", 8), ("cifar100", 8), ("imagenet2012", 4)]
)
def test_the_usual_epsilon_of_a_data_set(dataset, epsilon):
    assert recipe.default_epsilon(dataset, "linf") == epsilon
    with pytest.raises(ValueError, match="no default epsilon for l2"):
        recipe.default_epsilon(dataset, "l2")


@pytest.mark.parametrize(
    "dataset, workdir",
    [
        ("digits", "runs/digits"),
        ("folder:cats", "runs/cats"),
        ("folder:/my/cats/", "runs/cats"),
    ],
)
def test_a_run_without_a_workdir_is_named_after_its_data(given, dataset, workdir):
    values = recipe.Recipe.of(given(dataset=dataset))
    assert values.completed() == dataclasses.replace(values, workdir=workdir)
    chosen = dataclasses.replace(values, workdir="mine")
    assert chosen.completed() == chosen


def test_what_cannot_be_shared_out_or_scheduled_is_refused(given, built):
    with pytest.raises(ValueError, match="no usual epsilon for folder:cats"):
        recipe.default_epsilon("folder:cats", "linf")
    with pytest.raises(ValueError, match="a batch of 12 cannot be cut into 2 .* multiple of 10"):
        parts.trainer(given(batch_size=12, gradient_accumulation=5), INFO, 2)
    with pytest.raises(ValueError, match="--attack=none, which has no epsilon"):
        parts.trainer(given(attack="none", epsilon_warmup_epochs=1.0, batch_size=10), INFO, 1)
    with pytest.raises(ValueError, match="31 and --epochs=30, so epsilon would not be reached"):
        parts.trainer(given(epsilon_warmup_epochs=31.0, batch_size=10), INFO, 1)
    with pytest.raises(ValueError, match="--attack_batch_norm=batch and batch norm is synchron"):
        parts.training_attack(given(attack_batch_norm="batch", synchronized_batch_norm=True))
    for wrong in ({"schedule": "step"}, {"schedule": "cosine", "boundary": [3.0]}):
        with pytest.raises(ValueError, match="'step' needs at least one --boundary"):
            optimizers.schedule(given(**wrong), 10)


def pretrained():
    pixels = keras.Input((12, 12, 2))
    x = keras.layers.Conv2D(3, 5, strides=4, name="conv")(pixels)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(x))
    return keras.Model(pixels, keras.layers.Dense(7, name="top")(keras.layers.Flatten()(x)))


def of_body(made):
    """How far a step takes the body, over how far it takes the head."""
    weights = made.network.trainable_variables
    before = [weight.numpy() for weight in weights]
    made.optimizer.apply_gradients([(100 * tf.ones(w.shape), w) for w in weights])
    moves = [np.abs(w - old).mean() for w, old in zip(weights, before, strict=True)]
    return pytest.approx(np.mean(moves[:-2]) / np.mean(moves[-2:]), rel=1e-3)


def kernels_decay(made):
    return made.weight_decay, made.optimizer.weight_decay


# What tells each flag in the trainer that is built, its default and what is given.
SWITCHES = {
    "freeze": (lambda made: [x.name for x in made.network.layers if not x.trainable],
               [], (["conv"], ["conv"])),
    "synchronized_batch_norm": (lambda made: made.network.get_layer("norm").synchronized,
                                False, (True, True)),
    "remat": (lambda made: ["call" in vars(one) for one in (made.network, made.average)],
              [False, False], (True, [True, True])),
    "body_learning_rate_multiplier": (of_body, 1.0, (0.25, 0.25)),
    "optimizer": (kernels_decay, (5e-4, None), ("adamw", (0.0, 5e-4))),
    "activation": (lambda made: list(injection.hidden_activations(made.network).values()),
                   ["relu"], ("swish", ["swish"])),
}  # fmt: skip


@pytest.mark.parametrize("name", SWITCHES)
def test_a_flag_of_the_network_or_its_gradients_is_on_where_it_is_given(given, name):
    look, before, (value, after) = SWITCHES[name]
    common = {"initial_network": f"{__name__}:pretrained", "model": None, "batch_size": 10}
    common |= {"activation": "keep", "ema_decay": 0.5 if name == "remat" else 0.0}
    assert look(parts.trainer(given(**common), INFO, 1)) == before
    made = parts.trainer(given(**common | {name: value}), INFO, 1)
    assert look(made) == after
