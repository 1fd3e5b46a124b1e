"""A ConvNeXt of ours as a PyTorch module and its state_dict, under timm's names."""

import math
import re

import keras
import numpy as np

import sat_tf
from export.torch_convnext_template import TEMPLATE
from export.torch_module import activation_of, as_torch, statistics, without_counterpart
from sat_tf import injection
from sat_tf.robustbench.families import FAMILIES
from sat_tf.robustbench.files import TOLD

_BLOCK = r"stage\d_block\d+_(?:depthwise|norm|expand|act|project|scale|drop|add)"
_STEM = r"stem_(?:conv|norm|conv[123](?:_pad|_norm|_act)?)"
_KNOWN = rf"pixels|normalise|{_STEM}|stage\d_down(?:_norm)?|{_BLOCK}|pool|head_norm|logits"


def is_convnext(network: keras.Model) -> bool:
    """Tells whether a network's layers are called as those of our ConvNeXts."""
    return {"stage0_block0_depthwise", "head_norm"} <= {layer.name for layer in network.layers}


def state_dict(network: keras.Model) -> dict[str, np.ndarray]:
    """Returns the arrays of the module that `source` writes, by their names there."""
    family = FAMILIES["convnext-convstem" if _stem(_layers(network))[1:] else "convnext"]
    arrays = {}
    for weight in network.weights:
        value = weight.numpy()
        if weight.path.endswith("_depthwise/kernel"):
            value = value.swapaxes(2, 3)  # [h, w, C, 1] here, one input channel a group there
        arrays[family.tensor(weight.path)] = as_torch(value)
    return arrays | statistics(network)


def told(network: keras.Model) -> dict[str, str]:
    """Returns what the arrays do not show, as `robustbench.files.TorchCheckpoint.told` reads it."""
    layers = _layers(network)
    (activation,) = set(injection.hidden_activations(network).values())
    strides = [one.strides[0] for one in _stem(layers)]
    return {
        f"{TOLD}activation": activation,
        f"{TOLD}image_size": str(network.input_shape[1]),
        f"{TOLD}patch_size": str(math.prod(strides)),
    }


def source(network: keras.Model) -> str:
    """Returns the file of a PyTorch module that needs nothing but PyTorch.

    Stochastic depth, which does nothing in inference, is left out.

    Args:
      network: a ConvNeXt of `sat_tf.models` or of `sat_tf.robustbench`.

    Raises:
      ValueError: a layer without a counterpart, or an activation with trained scalars.
    """
    layers = _layers(network)
    blocks = [re.match(r"stage(\d)_block\d+_depthwise$", name) for name in layers]
    stages = [int(match[1]) for match in blocks if match]
    depths = tuple(stages.count(stage) for stage in range(max(stages) + 1))
    _, height, width, channels = network.input_shape
    return TEMPLATE.format(
        name=network.name,
        version=sat_tf.__version__,
        channels=channels,
        height=height,
        width=width,
        classes=network.output_shape[-1],
        activation=activation_of(layers),
        depths=depths,
        stem=tuple((one.filters, one.kernel_size[0], one.strides[0]) for one in _stem(layers)),
        scaled="stage0_block0_scale" in layers,
    )


def _layers(network):
    layers = {layer.name: layer for layer in network.layers}
    unknown = [name for name in layers if not re.fullmatch(_KNOWN, name)]
    if unknown or "normalise" not in layers:
        raise without_counterpart(network, unknown)
    return layers


def _stem(layers):
    """Returns the stem's convolutions: one of patches, or more."""
    return [layers[name] for name in layers if re.fullmatch(r"stem_conv\d?", name)]
