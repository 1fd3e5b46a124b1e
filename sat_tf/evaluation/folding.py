"""Batch norm folded into the layer before it: the same logits for less, if nothing is trained."""

import functools
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras.src.models.functional import Functional  # Keras has no public name for the class.

from sat_tf.loading import Adapted
from sat_tf.models import BatchNormalization
from sat_tf.models.layers import GroupedConv2D

# Linear layers by their exact type, as a subclass may do anything with its kernel, and the kernel
# whose entries are multiplied: one output channel along the last axis, of depthwise the last two.
_KERNELS = {
    keras.layers.Conv2D: "kernel",
    keras.layers.DepthwiseConv2D: "kernel",
    keras.layers.SeparableConv2D: "pointwise_kernel",
    keras.layers.Dense: "kernel",
    GroupedConv2D: "kernel",
}
_NORMS = (keras.layers.BatchNormalization, BatchNormalization)


def fold(network: Any) -> Any:
    """Returns a network of the same logits, in inference mode, with fewer operations.

    Batch norm is then `s x + (beta - s mean)`, `s = gamma / sqrt(variance + epsilon)`. Where it
    follows a convolution or dense layer, `s` goes into the kernel and the rest into the bias, which
    leaves float32 rounding as the only difference. All other layers are those of `network`, with
    their variables. Batch norm stays where there is no such layer before it, where that layer
    activates, is quantised, is called twice or is looked at by others too, and where it does not
    compute in float32; and so does all of a network whose graph cannot be seen, such as a function.

    Args:
      network: a Keras model, one behind `loading.adapt`, or anything that maps pixels to logits.

    Returns:
      The folded network, or `network` itself where there is nothing to fold.
    """
    if isinstance(network, Adapted):
        folded = fold(network.network)
        return network if folded is network.network else Adapted(folded, network.prepare)
    if isinstance(network, keras.Sequential) and network.built and _calls_as_keras(network):
        (inputs,) = network.inputs
        x = keras.Input(batch_shape=inputs.shape, dtype=inputs.dtype, name=inputs.name)
        outputs = functools.reduce(lambda y, layer: layer(y), network.layers, x)
        folded = _fold_graph(keras.Model(x, outputs, name=network.name))
        return network if folded is None else folded
    if isinstance(network, Functional) and _calls_as_keras(network):
        folded = _fold_graph(network)
        return network if folded is None else folded
    return network


def checked(network: Any, stream: Iterable[Any]) -> Any | None:
    """Returns the folded network if it answers as the network does, else None.

    Asked are the first images of a `Stream`. Logits may differ by 1e-4 of the largest: rounding is
    far below; what a layer does that is not known here, or statistics with which rounding decides,
    is above. A difference is told on stderr.
    """
    folded, batch = fold(network), next(iter(stream), None)
    if folded is network or batch is None:
        return None
    plain, found = (np.asarray(one(batch.images, training=False)) for one in (network, folded))
    difference, largest = np.abs(found - plain).max(), np.abs(plain).max()
    if difference <= 1e-4 * largest:
        return folded
    print(
        f"note: batch norm is not folded, as that moves a logit by {difference:.3g} (the largest "
        f"is {largest:.3g}); the network is attacked as it is",
        file=sys.stderr,
    )
    return None


def _calls_as_keras(model):
    """Tells whether a model does what its graph says, and nothing of its own."""
    return type(model).call in (Functional.call, keras.Sequential.call)


def _fold_graph(model):
    """Returns the folded model, or None where there is nothing to fold."""
    new = {}  # id(old layer) -> what takes its place
    pairs = _pairs(model)
    for norm, layer in pairs:
        new[id(layer)] = _folded_layer(layer, norm)
    for operation in model.operations:
        if isinstance(operation, keras.Model):
            folded = fold(operation)
            if folded is not operation:
                new[id(operation)] = folded
    if not new:
        return None
    gone = {id(norm) for norm, _ in pairs}
    return keras.models.clone_model(
        model,
        clone_function=lambda operation: new.get(id(operation), operation),
        call_function=lambda operation, *args, **kwargs: (
            args[0] if id(operation) in gone else operation(*args, **kwargs)
        ),
    )


def _pairs(model):
    """Lists every batch norm that can be folded, with the layer before it."""
    nodes = [one for level in model._nodes_by_depth.values() for one in level if not one.is_input]
    calls = Counter(id(node.operation) for node in nodes)
    made_by = {id(tensor): node for node in nodes for tensor in node.outputs}
    taken = defaultdict(int, Counter(id(tensor) for tensor in model.outputs))
    for node in nodes:
        for tensor in node.arguments.keras_tensors:
            taken[id(tensor)] += 1
    found = []
    for node in nodes:
        if type(node.operation) not in _NORMS:
            continue
        tensor = node.arguments.keras_tensors[0]
        before = made_by.get(id(tensor))
        alone = before and taken[id(tensor)] == 1
        if alone and calls[id(node.operation)] == calls[id(before.operation)] == 1:
            if _fits(before.operation, node.operation, len(tensor.shape)):
                found.append((node.operation, before.operation))
    return found


def _fits(layer, norm, rank):
    return (
        type(layer) in _KERNELS
        and layer.activation is keras.activations.linear
        and norm.axis in (-1, rank - 1)
        and getattr(layer, "data_format", "channels_last") == "channels_last"
        and layer.compute_dtype == norm.compute_dtype == "float32"
        and not getattr(layer, "lora_enabled", False)
        and not getattr(layer, "quantization_mode", None)
    )


def _folded_layer(layer, norm):
    """Makes the layer that computes what the layer and the batch norm after it do."""
    value = {v.name: np.asarray(v, np.float64) for v in norm.variables}
    scale = value.get("gamma", 1.0) / np.sqrt(value["moving_variance"] + norm.epsilon)
    shift = value.get("beta", 0.0) - scale * value["moving_mean"]
    folded = type(layer).from_config({**layer.get_config(), "use_bias": True})
    folded.build(layer.input.shape)
    for name in {"kernel", "depthwise_kernel", "pointwise_kernel", _KERNELS[type(layer)]}:
        if (variable := getattr(layer, name, None)) is not None:
            getattr(folded, name).assign(variable)
    kernel = getattr(folded, _KERNELS[type(layer)])
    depthwise = type(layer) is keras.layers.DepthwiseConv2D
    factors = scale.reshape(kernel.shape[-2:]) if depthwise else scale
    kernel.assign(np.asarray(kernel, np.float64) * factors)
    bias = np.asarray(layer.bias, np.float64) * scale if layer.use_bias else 0.0
    folded.bias.assign(bias + shift)
    return folded
