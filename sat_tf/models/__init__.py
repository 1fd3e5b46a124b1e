"""Networks by name, their activation handed in: pixels > normalise > body > logits."""

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import keras

from sat_tf import specs
from sat_tf.models import cifar, convnext, efficientnet, resnet, vit
from sat_tf.models.batch_norm import BatchNormalization, synchronize
from sat_tf.models.layers import Activation, activation_sites

_FAMILIES = (cifar, resnet, efficientnet, convnext, vit)
_BODIES = {name: body for family in _FAMILIES for name, body in family.NETWORKS.items()}
NAMES = tuple(_BODIES)

__all__ = [
    "NAMES", "Activation", "BatchNormalization", "build", "num_parameters", "parse", "synchronize",
]  # fmt: skip


def build(
    name: str,
    *,
    activation: Activation,
    num_classes: int,
    image_size: int | tuple[int, int],
    num_channels: int = 3,
    **options,
) -> keras.Model:
    """Builds a network from float32 pixels [N, H, W, C] in [0, 255] to float32 logits [N, classes].

    Pixels x are normalised inside, as x * 2 / 255 - 1, in float32 whatever the dtype policy is.
    Layer names depend on nothing but the arguments. Weight decay is left to the trainer.

    Args:
      name: one of `NAMES`, or any wide ResNet as "wrn-<depth>-<width>".
      activation: a spec for `sat_tf.activations`, such as "swish", or a callable that makes a layer
        from a name; called at every site.
      num_classes: number of logits, at least 2.
      image_size: side of a square image or (height, width), in pixels.
      num_channels: channels of an image: 3, or 1 for the digits.
      **options: the network's own, such as `width` and `zero_gamma` of a ResNet.

    Returns:
      A functional model named `name`.

    Raises:
      ValueError: an unknown name or option, or a size, channel or class number that cannot be.

    Source: Xie et al. 2020, arXiv 2006.14536, for the range [-1, 1]; CIFAR networks keep it.
    """
    body = _body(name)
    _check_options(name, body, options)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, not {num_classes}.")
    height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
    if min(height, width, num_channels) < 1:
        raise ValueError(
            f"An image needs a positive height, width and number of channels, not {height} x "
            f"{width} x {num_channels}."
        )
    pixels = keras.Input((height, width, num_channels), dtype="float32", name="pixels")
    images = keras.layers.Rescaling(2 / 255, offset=-1.0, dtype="float32", name="normalise")(pixels)
    logits = body(images, activation_sites(activation), num_classes, **options)
    return keras.Model(pixels, logits, name=name)


def num_parameters(network: Any) -> int:
    """Counts the weights, as the literature does: no batch-norm statistics.

    Weights of frozen layers count, where layers are seen: in a Keras model.
    """
    weights = network.trainable_variables
    if isinstance(network, keras.Model):
        # A frozen layer lists its weights among the statistics everywhere else.
        layers = network._flatten_layers()
        weights = {id(v): v for layer in layers for v in layer._trainable_variables}.values()
    return sum(math.prod(variable.shape) for variable in weights)


def parse(spec: str) -> tuple[str, dict[str, int | float | bool | str]]:
    """Splits a spec such as `resnet18:width=16` into a network's name and its own options.

    Raises:
      ValueError: an option that `build` takes from elsewhere: the data or the activation.
    """
    name, options = specs.parse(spec)
    taken = inspect.signature(build).parameters.keys() & options.keys()
    if taken:
        raise ValueError(
            f"the network {spec!r} sets {', '.join(sorted(taken))}, which comes from the data or "
            "has a flag of its own; leave it out"
        )
    return name, options


def _body(name: str) -> Callable[..., keras.KerasTensor]:
    if name in _BODIES:
        return _BODIES[name]
    if wide := re.fullmatch(r"wrn-(\d+)-(\d+)", name):
        return cifar.wide_resnet(*map(int, wide.groups()))
    raise ValueError(
        f"Unknown network {name!r}; expected wrn-<depth>-<width> or one of: {', '.join(NAMES)}."
    )


def _check_options(name: str, body: Callable[..., keras.KerasTensor], options: dict) -> None:
    parameters = inspect.signature(body).parameters.values()
    types = {p.name: p.annotation for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    if unknown := sorted(set(options) - set(types)):
        raise ValueError(
            f"Network {name!r} has no option {', '.join(unknown)}; its options are: "
            f"num_channels, {', '.join(types)}."
        )
    for option, value in options.items():
        expected = types[option] if types[option] is bool else types[option] | int
        if not isinstance(value, expected) or isinstance(value, bool) != (expected is bool):
            sort = getattr(types[option], "__name__", types[option])
            raise ValueError(f"Option {option}={value!r} of {name!r} must be of type {sort}.")
