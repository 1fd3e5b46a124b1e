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
from sat_tf.training.recipe import Recipe


def headline(
    recipe: Recipe, info: datasets.Info, trainer: AdversarialTrainer, path: pathlib.Path
) -> str:
    """Writes what is trained, on what and where."""
    network, devices = trainer.network, trainer.distribute_strategy.extended.worker_devices
    weights, source = f"{models.num_parameters(network):,} weights", ""
    if recipe.initial_network is not None:
        trained = sum(math.prod(weight.shape) for weight in network.trainable_variables)
        weights, source = f"{weights}, {trained:,} trained", f"from {recipe.initial_network} "
    return (
        f"{network.name} ({weights}, {networks.activation(recipe, network)}) "
        f"{source}on {info.num_examples['train']:,} images of {info.name}, {len(devices)} x "
        f"{tf.DeviceSpec.from_string(devices[0]).device_type}\n"
        f"{recipe.norm} epsilon {recipe.epsilon:g} pixels of 255, workdir {path}"
    )


def metrics(
    recipe: Recipe, info: datasets.Info, network: keras.Model, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the `metrics.json` of a run.

    Args:
      recipe, info, network: of the run.
      record: that of its `callbacks.Checkpoint`: the logs of every epoch, and the best of them.
    """
    return {
        "schema": 1,
        "unit": "pixels (0-255)",
        "model": recipe.model or network.name,
        "activation": networks.activation(recipe, network),
        **({"initial_network": initial} if (initial := recipe.initial_network) else {}),
        "num_parameters": models.num_parameters(network),
        "dataset": recipe.dataset,
        "num_examples": dict(info.num_examples),
        "num_classes": info.num_classes,
        "class_names": list(info.class_names),
        "image_size": networks.image_size(recipe, info),
        "eval_resize": recipe.eval_resize or ("whole" if info.image_size else "center_crop"),
        "norm": recipe.norm,
        "epsilon": recipe.epsilon,
        "seed": recipe.seed,
        **workdir.provenance(),
        "best": record["best"],
        "history": record["history"],
    }
