"""What a run says about itself: on the terminal, and in `metrics.json`."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from sat_tf import data as datasets
from sat_tf import models
from sat_tf.runs import workdir
from sat_tf.training import AdversarialTrainer, networks
from sat_tf.training.recipe import Recipe, several_balls


def headline(
    recipe: Recipe, info: datasets.Info, trainer: AdversarialTrainer, path: pathlib.Path
) -> str:
    """Writes what is trained, on what and where."""
    network, devices = trainer.network, trainer.distribute_strategy.extended.worker_devices
    weights, source = f"{models.num_parameters(network):,} weights", ""
    if recipe.initial_network is not None:
        trained = sum(math.prod(weight.shape) for weight in network.trainable_variables)
        weights, source = f"{weights}, {trained:,} trained", f"from {recipe.initial_network} "
    extra = "" if recipe.extra_data is None else f" and of {recipe.extra_data}"
    return (
        f"{network.name} ({weights}, {networks.activation(recipe, network)}) "
        f"{source}on {info.num_examples['train']:,} images of {info.name}{extra}, {len(devices)} x "
        f"{tf.DeviceSpec.from_string(devices[0]).device_type}\n"
        f"{balls(recipe)} pixels of 255, workdir {path}"
    )


def balls(recipe: Recipe) -> str:
    """Names the ball that a run trains in, or all of several and how they are combined."""
    several = several_balls(recipe)
    if not several:
        return f"{recipe.norm} epsilon {recipe.epsilon:g}"
    named = ", ".join(f"{norm} epsilon {epsilon:g}" for norm, epsilon in several)
    return f"{named} ({recipe.norm_combination})"


def metrics(
    recipe: Recipe, info: datasets.Info, network: keras.Model, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the `metrics.json` of a run.

    Args:
      recipe, info, network: of the run.
      record: that of its `callbacks.Checkpoint`: the logs of every epoch, and the best of them.
    """
    several = several_balls(recipe)
    norms = {
        "norms": [norm for norm, _ in several],
        "epsilons": [epsilon for _, epsilon in several],
        "norm_combination": recipe.norm_combination,
    }
    return {
        "schema": 1,
        "unit": "pixels (0-255)",
        "model": recipe.model or network.name,
        "activation": networks.activation(recipe, network),
        **({"initial_network": initial} if (initial := recipe.initial_network) else {}),
        "num_parameters": models.num_parameters(network),
        "dataset": recipe.dataset,
        **({"extra_data": extra} if (extra := recipe.extra_data) else {}),
        "num_examples": dict(info.num_examples),
        "num_classes": info.num_classes,
        "class_names": list(info.class_names),
        "image_size": networks.image_size(recipe, info),
        "eval_resize": recipe.eval_resize or ("whole" if info.image_size else "center_crop"),
        "norm": recipe.norm,
        "epsilon": recipe.epsilon,
        **(norms if several else {}),
        "seed": recipe.seed,
        **workdir.provenance(),
        "best": record["best"],
        "history": record["history"],
    }
