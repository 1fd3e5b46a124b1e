"""From a recipe to the process and the parts of a run."""

import math
from functools import partial

import keras
import tensorflow as tf

from sat_tf import attacks
from sat_tf import data as datasets
from sat_tf.attacks import names, several
from sat_tf.attacks.targeted import TARGETS, TargetedPGD
from sat_tf.runs import distribution
from sat_tf.training import (
    AdversarialTrainer,
    methods,
    networks,
    optimizers,
    rematerialization,
)
from sat_tf.training.recipe import Recipe, several_balls


def set_up_process(recipe: Recipe) -> None:
    """Sets seeds, threads, precision and determinism, before TensorFlow starts."""
    if recipe.logical_cpus > 1:
        distribution.split_cpu(recipe.logical_cpus)
    if recipe.threads:
        tf.config.threading.set_intra_op_parallelism_threads(recipe.threads)
        tf.config.threading.set_inter_op_parallelism_threads(recipe.threads)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(recipe.seed)
    keras.mixed_precision.set_global_policy(recipe.precision)


def images(recipe: Recipe, split: str, **options) -> tf.data.Dataset:
    """Reads the batches of a part of the data set; `options` are of `data.load`."""
    return datasets.load(
        recipe.dataset,
        split,
        batch_size=recipe.batch_size,
        image_size=recipe.image_size,
        data_dir=recipe.data_dir,
        seed=recipe.seed,
        eval_resize=recipe.eval_resize,
        max_pixels=recipe.max_pixels,
        **options,
    )


def training_stream(
    recipe: Recipe, start_step: int, shard: datasets.Shard = datasets.WHOLE
) -> tf.data.Dataset:
    """Reads the endless stream that a run goes on with, one element an optimiser step."""

    def load(batch):
        names = ("augment", "mixup", "cutmix", "extra_data", "extra_fraction", "lanes")
        options = {name: getattr(recipe, name) for name in (*names, "data_service")}
        return images(recipe, "train", training=True, start_step=batch, shard=shard, **options)

    return method(recipe).batches(load, start_step)


def check_images(recipe: Recipe, info: datasets.Info) -> None:
    """Tries to read what a run will read.

    Raises:
      ValueError: a part of the data set has no image, or cannot be read.
    """
    if empty := [split for split, number in info.num_examples.items() if not number]:
        raise ValueError(
            f"{info.name} is too small: no image is left for {', '.join(empty)}; give it at least "
            "20 images"
        )
    training_stream(recipe, 0)
    images(recipe, "validation")


def training_attack(recipe: Recipe) -> attacks.Attack:
    """Makes the attack inside training.

    Raises:
      ValueError: an unknown name, or settings that PGD refuses.
    """
    return _named(ATTACKS, "attack", recipe.attack)(recipe)


def _pgd(kind, recipe):
    if recipe.synchronized_batch_norm and recipe.attack_batch_norm == "batch":
        raise ValueError(
            "--attack_batch_norm=batch and batch norm is synchronized: each replica attacks its "
            "own images by their own statistics; leave --synchronized_batch_norm out, or attack "
            "with --attack_batch_norm=inference"
        )
    made = [_pgd_in(kind, norm, epsilon, recipe) for norm, epsilon in _balls(recipe)]
    return made[0] if len(made) == 1 else several.COMBINATIONS[recipe.norm_combination](made)


def _pgd_in(kind, norm, epsilon, recipe):
    names.warn_of_fraction(epsilon)
    step_size = recipe.step_size
    if step_size is None:
        step_size = names.training_step_size(epsilon, recipe.attack_steps)
    return kind(
        epsilon=epsilon,
        step_size=step_size,
        steps=recipe.attack_steps,
        # --clean_start is the probability of a start at the images themselves.
        random_start=recipe.random_start and 1 - recipe.clean_start,
        norm=norm,
        batch_norm=recipe.attack_batch_norm,
    )


def _balls(recipe):
    return several_balls(recipe) or [(recipe.norm, recipe.epsilon)]


ATTACKS = {
    "pgd": partial(_pgd, attacks.PGD),
    **{f"pgd-{one}": partial(_pgd, partial(TargetedPGD, one)) for one in TARGETS},
    "none": lambda recipe: attacks.identity,
}


def _epsilon_warmup_steps(recipe, steps_per_epoch):
    epochs = recipe.epsilon_warmup_epochs
    if epochs and recipe.attack == "none":
        raise ValueError(
            f"--epsilon_warmup_epochs={epochs:g} and --attack=none, which has no epsilon; leave "
            "one of them out"
        )
    if epochs > recipe.epochs:
        raise ValueError(
            f"--epsilon_warmup_epochs={epochs:g} and --epochs={recipe.epochs}, so epsilon would "
            "not be reached; make the warm-up shorter than the run"
        )
    return math.ceil(epochs * steps_per_epoch)


def strong_attacks(recipe: Recipe, steps: int) -> list[attacks.PGD]:
    """Makes the attack of validation and test in each ball, as `evaluate` makes it."""
    return [names.pgd(steps, epsilon=epsilon, norm=norm) for norm, epsilon in _balls(recipe)]


def validation_attack(recipe: Recipe) -> attacks.Attack:
    """Makes the attack that chooses the best epoch; of several balls it takes the worst."""
    made = strong_attacks(recipe, recipe.validation_steps)
    return made[0] if len(made) == 1 else several.Worst(made, by="margin")


def method(recipe: Recipe) -> methods.Method:
    """Makes the choice of objective, trainer and gradients."""
    return methods.make(
        recipe.method,
        beta=recipe.beta,
        replays=recipe.replays,
        awp_gamma=recipe.awp_gamma,
        attack_gradient=recipe.attack_gradient,
        update_gradient=recipe.update_gradient,
    )


def _named(table, kind, name):
    if name not in table:
        raise ValueError(f"--{kind} is {name!r}; use one of: {', '.join(table)}")
    return table[name]


def trainer(recipe: Recipe, info: datasets.Info, num_replicas: int) -> AdversarialTrainer:
    """Builds the compiled trainer; call it in the scope of the strategy.

    Raises:
      ValueError: a batch that cannot be shared out, an unknown name, settings that do not fit.
    """
    pieces = num_replicas * recipe.gradient_accumulation
    if recipe.batch_size % pieces:
        raise ValueError(
            f"a batch of {recipe.batch_size} cannot be cut into {num_replicas} replicas times "
            f"{recipe.gradient_accumulation} accumulated pieces; make --batch_size a multiple of "
            f"{pieces}"
        )
    steps_per_epoch = info.steps_per_epoch(recipe.batch_size)
    if steps_per_epoch % recipe.steps_per_execution:
        fitting = [n for n in range(1, steps_per_epoch + 1) if steps_per_epoch % n == 0]
        raise ValueError(
            f"--steps_per_execution={recipe.steps_per_execution}, which does not divide the "
            f"{steps_per_epoch} steps of an epoch; use one of: {', '.join(map(str, fitting))}"
        )
    made = method(recipe).trainer(
        networks.make(recipe, info),
        training_attack(recipe),
        batch_size=recipe.batch_size,
        label_smoothing=recipe.label_smoothing,
        validation_attack=validation_attack(recipe),
        seed=recipe.seed,
        epsilon_warmup_steps=_epsilon_warmup_steps(recipe, steps_per_epoch),
    )
    decays_itself = optimizers.decays_itself(recipe.optimizer)
    made.compile(
        optimizers.make(recipe, steps_per_epoch, made.network),
        weight_decay=0.0 if decays_itself else recipe.weight_decay,
        activation_weight_decay=recipe.activation_weight_decay,
        ema_decay=recipe.ema_decay,
        gradient_accumulation=recipe.gradient_accumulation,
        jit_compile=recipe.jit_compile,
        steps_per_execution=recipe.steps_per_execution,
    )
    if recipe.remat:
        _rematerialize(recipe, made)
    return made


def _rematerialize(recipe, made):
    others = ("awp_gamma", "attack_gradient", "update_gradient")
    given = [name for name in others if getattr(recipe, name)]
    if given:
        raise ValueError(
            f"--remat is given and so is --{' and --'.join(given)}, which a block that is computed "
            "once more would not see; leave one of them out, or use --gradient_accumulation"
        )
    for network in filter(None, (made.network, made.average)):
        rematerialization.rematerialize(network)
