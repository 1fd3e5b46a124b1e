"""The network of a run: by name, one's own, or one that was trained before."""

import dataclasses
import re

import keras

from sat_tf import data as datasets
from sat_tf import injection, loading, models
from sat_tf.loading import applications
from sat_tf.runs import places
from sat_tf.training import finetuning
from sat_tf.training.recipe import Recipe

_KERAS = "keras:"  # of a --model of keras.applications


def make(recipe: Recipe, info: datasets.Info) -> keras.Model:
    """Makes the network for the classes and images of the data.

    Raises:
      ValueError: an unknown name, a network that does not fit the data, or what `finetuning` says.
    """
    if recipe.initial_network is None:
        _refuse_without_initial(recipe)
        network = _named(recipe, info)
    else:
        network = _initial(recipe, info)
        finetuning.freeze(network, recipe.freeze)
    if recipe.synchronized_batch_norm:
        models.synchronize(network)
    return network


def image_size(recipe: Recipe, info: datasets.Info) -> int:
    """Returns the side of the network's images in pixels.

    Raises:
      ValueError: the data has no one size and none is given.
    """
    size = recipe.image_size or info.image_size
    if size is None:
        raise ValueError(
            f"the images of {info.name} differ in size; give the side they are cut to, such as "
            "--image_size=224"
        )
    return size


def sized(recipe: Recipe, info: datasets.Info, network: keras.Model) -> Recipe:
    """Gives a recipe that says no size the network's, where the data have another or none."""
    side = network.input_shape[1]
    if recipe.image_size is not None or side in (None, info.image_size):
        return recipe
    return dataclasses.replace(recipe, image_size=side)


def activation(recipe: Recipe, network: keras.Model) -> str:
    """Says what a network's hidden activation is: the recipe's, or those that it keeps."""
    if recipe.activation != "keep":
        return recipe.activation
    try:
        found = sorted(set(injection.hidden_activations(network).values()))
    except ValueError:  # a part of the network that cannot be searched, and need not be
        found = []
    return " and ".join(found) or "keep"


def _named(recipe, info):
    """Builds the network of --model with fresh weights, or its function's own."""
    kind, rest = recipe.model.partition(":")[::2]
    if recipe.model.startswith(_KERAS):
        size, channels = image_size(recipe, info), info.num_channels
        made = applications.build(
            rest,
            weights=None,
            num_classes=info.num_classes,
            image_size=size,
            num_channels=channels,
        )
        return _activated(made, recipe)
    place = places.of(recipe.model)
    if places.is_remote(place) or place.suffix == ".keras" or place.is_dir():
        raise ValueError(
            f"--model={recipe.model} is a file, and a model an architecture by name; to go on from "
            f"its weights, give --initial_network={recipe.model}"
        )
    if kind not in models.NAMES and re.fullmatch(r"[^=:]+", rest):
        made = loading.load(recipe.model)
        _check_form(recipe.model, made, recipe, info)
        if made.output_shape[-1] != info.num_classes:
            raise ValueError(
                f"the network {recipe.model} has {made.output_shape[-1]} classes and {info.name} "
                f"has {info.num_classes}; build it with as many, or give it as --initial_network, "
                "where its head is replaced"
            )
        return _activated(made, recipe)
    if recipe.activation == "keep":
        raise ValueError(
            f"the network {recipe.model} is built with an activation and has none to keep; give "
            "its name, such as --activation=swish"
        )
    name, options = models.parse(recipe.model)
    return models.build(
        name,
        activation=recipe.activation,
        num_classes=info.num_classes,
        image_size=image_size(recipe, info),
        num_channels=info.num_channels,
        **options,
    )


def _initial(recipe, info):
    """Returns the network that the run goes on from, with the data's classes."""
    source = recipe.initial_network
    if recipe.workdir and places.of(source).resolve() == places.of(recipe.workdir).resolve():
        raise ValueError(
            f"the run {source} cannot be trained in its own place; use another --workdir"
        )
    if source.startswith(applications.PREFIX) and recipe.model is None:
        given = applications.build(
            source.removeprefix(applications.PREFIX),
            weights="imagenet",
            download=recipe.download,
            num_classes=info.num_classes,
            image_size=image_size(recipe, info),
            num_channels=info.num_channels,
        )
        return _activated(given, recipe)
    given = loading.load(source, download=recipe.download)
    if not isinstance(given, keras.Model):
        raise ValueError(
            f"{source} is a SavedModel, which cannot be trained; give the run or the .keras file "
            "that it was exported from"
        )
    if recipe.model is not None:
        network = _named(recipe, info)
        loading.image_form(given)
        finetuning.take_weights(network, given, source)
        return network
    _check_form(source, given, recipe, info)
    names = loading.class_names(source)
    same = names is None or tuple(names) == info.class_names
    return _activated(finetuning.with_logits(given, info.num_classes, same_classes=same), recipe)


def _activated(network, recipe):
    if recipe.activation == "keep":
        return network
    return injection.inject(network, recipe.activation)


def _check_form(source, network, recipe, info):
    try:
        loading.check_images(network, recipe.image_size, info.num_channels)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _refuse_without_initial(recipe):
    for flag, value, default in (
        ("freeze", recipe.freeze, []),
        ("body_learning_rate_multiplier", recipe.body_learning_rate_multiplier, 1.0),
    ):
        if value != default:
            raise ValueError(
                f"--{flag} is of a network that was trained before, and this one begins with "
                "random weights: give --initial_network, or leave it out"
            )
