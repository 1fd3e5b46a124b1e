"""A residual network of ours as a PyTorch module and its state_dict."""

import re
from collections.abc import Mapping, Sequence

import keras
import numpy as np

import sat_tf
from export.torch_template import TEMPLATE
from sat_tf.activations.functions import FUNCTIONS

_ACTIVATIONS = {
    "relu": "F.relu(x)",
    "swish": "x * torch.sigmoid({beta} * x)",
    "gelu": "F.gelu(x)",
    "gelu_tanh": 'F.gelu(x, approximate="tanh")',
    "elu": "F.elu(x, {alpha})",
    "celu": "F.celu(x, {alpha})",
    "softplus": "F.softplus(x)",
    "parametric_softplus": "F.softplus(x, {alpha})",
    "mish": "F.mish(x)",
}
_SCOPE = r"(?:conv0|last|pool0?|group\d+_block\d+(?:_conv[123]|_convshortcut|_shortcut|_add)?)"
_KNOWN = rf"pixels|normalise|logits|{_SCOPE}(?:_pad|_bn|_act)?"
_KINDS = {"gamma": "weight", "beta": "bias", "bias": "bias", "kernel": "weight"} | {
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# TensorFlow's SAME at a stride of 2: a row more after maps of even size.
_SAME = "F.max_pool2d(F.pad(x, (x.shape[3] % 2, 1, x.shape[2] % 2, 1), value=-torch.inf), 3, 2)"
_POOLS = {"same": _SAME, "valid": "F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)"}


def state_dict(network: keras.Model) -> dict[str, np.ndarray]:
    """Returns the arrays of the module that `source` writes, by their names there.

    Raises:
      ValueError: a network that the module cannot be; see `source`.
    """
    layers = _layers(network)
    order = {name: n for n, name in enumerate(_blocks(layers))}
    arrays = {}
    for weight in network.weights:
        value, (layer, _, kind) = weight.numpy(), weight.path.rpartition("/")
        arrays[f"{_torch_name(layer, order)}.{_KINDS[kind]}"] = as_torch(value)
    return arrays | statistics(network)


def as_torch(value: np.ndarray) -> np.ndarray:
    """Returns a weight as PyTorch keeps it: kernels [out, in, h, w], matrices [out, in]."""
    if value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    return np.ascontiguousarray(value.T if value.ndim == 2 else value, np.float32)


def statistics(network: keras.Model) -> dict[str, np.ndarray]:
    """Returns mean and deviation of images in [0, 1], [1, C, 1, 1], of the layer "normalise"."""
    normalise, channels = network.get_layer("normalise"), network.input_shape[-1]
    scale, offset = (
        np.broadcast_to(np.asarray(one, np.float64), channels)
        for one in (normalise.scale, normalise.offset)
    )
    values = {"mean": -offset / (255 * scale), "std": 1 / (255 * scale)}
    return {
        name: value.astype(np.float32).reshape(1, channels, 1, 1) for name, value in values.items()
    }


def source(network: keras.Model) -> str:
    """Returns the file of a PyTorch module that needs nothing but PyTorch.

    Args:
      network: a ResNet, wide ResNet or ResNeXt of `sat_tf.models` or of `sat_tf.robustbench`.

    Raises:
      ValueError: another network, named by the layer that has no counterpart, or an activation with
        trained scalars.
    """
    layers = _layers(network)
    stem, pool = layers["conv0"], layers.get("pool0")
    before, after, norm = "x", "self.blocks(x)", "None"
    if "conv0_bn" in layers:
        before, norm = "act(self.norm(x))", f"nn.BatchNorm2d({stem.filters})"
    if pool is not None:
        before += f"\n        x = {_POOLS[pool.padding]}"
    if "last_bn" in layers:
        after, norm = "act(self.norm(self.blocks(x)))", "nn.BatchNorm2d(channels)"
    _, height, width, channels = network.input_shape
    return TEMPLATE.format(
        name=network.name,
        version=sat_tf.__version__,
        channels=channels,
        height=height,
        width=width,
        classes=network.output_shape[-1],
        activation=activation_of(layers),
        stem=stem.filters,
        stem_side=stem.kernel_size[0],
        stem_stride=stem.strides[0],
        norm=norm,
        before=before,
        after=after,
        **_of_blocks(layers),
    )


def _layers(network):
    """Returns the layers by name, none of which is without a counterpart."""
    layers = {layer.name: layer for layer in network.layers}
    unknown = [name for name in layers if not re.fullmatch(_KNOWN, name)]
    if unknown or not {"normalise", "conv0", "logits"} <= layers.keys() or not _blocks(layers):
        raise without_counterpart(network, unknown)
    return layers


def without_counterpart(network: keras.Model, unknown: Sequence[str]) -> ValueError:
    """Returns what is said of a network with layers that PyTorch's modules here do not have."""
    which = f"its layer {unknown[0]} has" if unknown else "its layers have"
    return ValueError(
        f"{network.name} cannot be written for PyTorch, where {which} no counterpart; the ResNets, "
        "wide ResNets, ResNeXts and ConvNeXts of sat_tf.models, and converted ones, can"
    )


def _blocks(layers):
    names = (re.match(r"group\d+_block\d+", name) for name in layers)
    return list(dict.fromkeys(match[0] for match in names if match))


def _torch_name(layer, order):
    if match := re.fullmatch(r"(group\d+_block\d+)_(.+)", layer):
        block, part = f"blocks.{order[match[1]]}", match[2]
        if part.startswith("convshortcut"):
            return f"{block}.shortcut.{int(part.endswith('_bn'))}"
        number = int(part[len("conv")]) - 1
        return f"{block}.{'norms' if part.endswith('_bn') else 'convs'}.{number}"
    return {"conv0": "stem", "conv0_bn": "norm", "last_bn": "norm"}.get(layer, layer)


def activation_of(layers: Mapping[str, keras.layers.Layer]) -> str:
    """Returns the activation of all layers that end in "_act" as an expression in x.

    Raises:
      ValueError: more than one, or one that has no counterpart.
    """
    found = {
        (getattr(layer, "function", type(layer).__name__), str(getattr(layer, "parameters", "")))
        for name, layer in layers.items()
        if name.endswith("_act")
    }
    names = sorted(name for name, _ in found)
    if len(found) != 1 or names[0] not in _ACTIVATIONS:
        raise ValueError(
            f"the activation {', '.join(names)} has no counterpart in PyTorch that is known; known "
            f"are: {', '.join(_ACTIVATIONS)}"
        )
    (layer,) = [one for name, one in layers.items() if name.endswith("_act")][:1]
    return _ACTIVATIONS[names[0]].format(**FUNCTIONS[names[0]].defaults | layer.parameters)


def _of_blocks(layers):
    """Returns the constants of the blocks, and how their shortcuts are made."""
    blocks = _blocks(layers)
    numbers = [n for n in (1, 2, 3) if f"{blocks[0]}_conv{n}" in layers]
    groups = []
    for group in dict.fromkeys(block.partition("_")[0] for block in blocks):
        own = [block for block in blocks if block.startswith(f"{group}_")]
        convs = [layers[f"{own[0]}_conv{n}"] for n in numbers]
        stride = max(conv.strides[0] for conv in convs)
        groups.append((len(own), convs[0].filters, convs[-1].filters, stride))
    pads = [one for name, one in layers.items() if re.fullmatch(r"group.+_conv\d_pad", name)]
    after = any(one.padding[0][0] == 0 for one in pads)
    projections = [block for block in blocks if f"{block}_convshortcut" in layers]
    shortcut, source = "nn.Sequential(Padded(i, o, stride))", "out"
    if projections:
        scope = f"{projections[0]}_convshortcut"
        norm = ", nn.BatchNorm2d(o)" if f"{scope}_bn" in layers else ""
        side = layers[scope].kernel_size[0]
        shortcut = f"nn.Sequential(Conv(i, o, {side}, stride){norm})"
        start = layers.get(f"{scope}_pad", layers[scope]).input._keras_history.operation.name
        source = "out" if start.endswith("_conv1_act") else "x"
    return {
        "groups": tuple(groups),
        "sides": tuple(layers[f"{blocks[0]}_conv{n}"].kernel_size[0] for n in numbers),
        "cardinality": layers[f"{blocks[0]}_conv2"].groups,
        "preactivation": "conv0_bn" not in layers,
        "strided": "0, side - 2" if after else "side // 2, side // 2",
        "shortcut": shortcut,
        "source": source,
    }
