"""The optimisers of a run by name, with their options: `adamw:beta_2=0.95`, `tfa:Lookahead(sgd)`.

    spec = name [":" option {"," option}], or as in `sat_tf.addons.optimizers` after "tfa:"

| name | source | options with their defaults | kernels are decayed |
|---|---|---|---|
| sgd | Sutskever et al. 2013 | none: momentum, nesterov are the recipe's | in the loss |
| rmsprop | Hinton 2012; momentum is the recipe's | rho=0.9, epsilon=1e-7 | in the loss |
| adam | Kingma and Ba, arXiv 1412.6980 | beta_1=0.9, beta_2=0.999, epsilon=1e-7 | in the loss |
| adamw | Loshchilov and Hutter, arXiv 1711.05101 | as adam | by itself |
| lamb | You et al., arXiv 1904.00962 | as adam | by itself |
| lion | Chen et al., arXiv 2302.06675 | beta_1=0.9, beta_2=0.99 | by itself |

These are Keras's classes. Learning rate and schedule are the recipe's, and so is the coefficient of
weight decay: where a step decays kernels by itself, `w <- w - rate * weight_decay * w` comes before
it, and there is none in the loss.

Deviations: Keras adds epsilon inside RMSProp's root, as TensorFlow 1 did (EfficientNet's 1e-3 means
the same there), and starts its mean square at 0, where TensorFlow 1 had 1. LAMB's ratio
`|w| / |update|` has neither the decay in it, which You et al. add to the update first, nor an
exception for biases and scales of batch norm; `tfa:LAMB` has both.
"""

import math

import keras

from sat_tf import specs
from sat_tf.addons import optimizers as addons
from sat_tf.training import finetuning, objectives, schedules
from sat_tf.training.recipe import Recipe

_ADAM = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
# Keras's classes, and what their specs may set.
KERAS = {
    "sgd": (keras.optimizers.SGD, {}),
    "rmsprop": (keras.optimizers.RMSprop, {"rho": 0.9, "epsilon": 1e-7}),
    "adam": (keras.optimizers.Adam, _ADAM),
    "adamw": (keras.optimizers.AdamW, _ADAM),
    "lamb": (keras.optimizers.Lamb, _ADAM),
    "lion": (keras.optimizers.Lion, {"beta_1": 0.9, "beta_2": 0.99}),
}
_DECAY_THEMSELVES = ("adamw", "lamb", "lion")


def make(recipe: Recipe, steps_per_epoch: int, network: keras.Model) -> keras.optimizers.Optimizer:
    """Makes the optimiser with its schedule.

    Args:
      recipe: of the run.
      steps_per_epoch: optimiser steps in an epoch.
      network: what it will train.

    Raises:
      ValueError: an unknown name or option; boundaries that the schedule has no use for, or lacks;
        a rate that cannot be scaled; TensorFlow Addons is asked for and not installed.
    """
    name = specs.one_of("--optimizer", _name(recipe.optimizer), OPTIMIZERS)
    made = OPTIMIZERS[name](schedule(recipe, steps_per_epoch), recipe, network)
    multiplier = recipe.body_learning_rate_multiplier
    if multiplier == 1:
        return made
    if name.startswith("tfa:") or (decays_itself(recipe.optimizer) and recipe.weight_decay):
        raise ValueError(
            f"--body_learning_rate_multiplier={multiplier:g} and --optimizer="
            f"{recipe.optimizer}; those of TensorFlow Addons, and the weight decay of adamw, lamb "
            "and lion, have one rate for all weights: use --optimizer=sgd, or leave it at 1"
        )
    finetuning.slow_down(made, finetuning.in_body(network), multiplier)
    return made


def schedule(recipe: Recipe, steps_per_epoch: int) -> schedules.Schedule:
    """Makes the learning rate as a function of the step.

    Raises:
      ValueError: as `make`.
    """
    if (recipe.schedule == "step") != bool(recipe.boundary):
        raise ValueError(
            f"--schedule={recipe.schedule} got {len(recipe.boundary)} boundaries; 'step' needs "
            "at least one --boundary=EPOCH, the others none"
        )
    warmup_epochs = recipe.warmup_epochs
    if warmup_epochs is None:
        warmup_epochs = min(2, recipe.epochs / 4)
    return schedules.Schedule(
        recipe.schedule,
        peak=_peak(recipe),
        num_steps=recipe.epochs * steps_per_epoch,
        warmup_steps=math.ceil(warmup_epochs * steps_per_epoch),
        boundaries=tuple(round(epoch * steps_per_epoch) for epoch in recipe.boundary),
        factor=recipe.decay_factor if recipe.schedule == "exponential" else recipe.factor,
        decay_steps=max(1, round(recipe.decay_epochs * steps_per_epoch)),
    )


def decays_itself(spec: str) -> bool:
    """Tells whether an optimiser decays kernels in its step, so that the loss must not."""
    if spec.strip().startswith("tfa:"):
        return addons.parse(spec).decays
    return _name(spec) in _DECAY_THEMSELVES


def _peak(recipe):
    """Returns the peak rate; a base size scales it with the batch (Goyal et al., section 2.1)."""
    size = recipe.learning_rate_base_size
    if not size:
        return recipe.learning_rate
    if "lamb" in recipe.optimizer.lower():
        raise ValueError(
            f"--learning_rate_base_size={size} and --optimizer={recipe.optimizer}: LAMB scales "
            "each layer's step to its weights, and its rate grows with the square root of the "
            "batch; give the rate of the batch itself as --learning_rate, and leave the size at 0"
        )
    return recipe.learning_rate * recipe.batch_size / size


def _name(spec):
    spec = spec.strip()
    return addons.name_of(spec) if spec.startswith("tfa:") else specs.split(spec)[0]


def _of_keras(rate, recipe, network):
    name, given = specs.parse(recipe.optimizer)
    kind, options = KERAS[name]
    for key, value in given.items():
        if key not in options:
            valid = ", ".join(options) or "none; --momentum and --nesterov are flags"
            raise ValueError(f"optimizer {name} has no option {key!r}; options: {valid}")
        if not (isinstance(value, int | float) and 0 < value < 1):
            raise ValueError(
                f"optimizer {name}: {key}={value!r}; give a number above 0 and below 1"
            )
    options = {**options, **given}
    if name in ("sgd", "rmsprop"):
        options["momentum"] = recipe.momentum
    if name == "sgd":
        options["nesterov"] = recipe.nesterov
    if name not in _DECAY_THEMSELVES:
        return kind(rate, **options)
    made = kind(rate, weight_decay=recipe.weight_decay, **options)
    rest = [v for v in network.trainable_variables if not _is_kernel(v)]
    made.exclude_from_weight_decay(var_list=rest)
    return made


def _of_addons(rate, recipe, network):
    del network
    return addons.make(
        recipe.optimizer,
        rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        decays=_is_kernel,
    )


def _is_kernel(weight):
    return weight.name.endswith(objectives.KERNELS)


OPTIMIZERS = {**dict.fromkeys(KERAS, _of_keras), **dict.fromkeys(addons.NAMES, _of_addons)}
