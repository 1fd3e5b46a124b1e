"""Tells hidden activations from gates and heads, an operation at a time (see `injection.sites`)."""

import re

import keras

from sat_tf import activations

# Ours, and what only Keras has.
HIDDEN = frozenset(
    (
        *activations.NAMES,
        *"relu6 leaky_relu prelu selu hard_silu hard_swish squareplus sparse_plus".split(),
    )
)
_KEPT = frozenset(
    "linear sigmoid hard_sigmoid log_sigmoid sparse_sigmoid softmax log_softmax sparsemax tanh "
    "hard_tanh softsign exponential".split()
)
_SITE_LAYERS = {
    keras.layers.LeakyReLU: "leaky_relu",
    keras.layers.PReLU: "prelu",
    keras.layers.ELU: "elu",
    **{layer: name for name, layer in activations.TRAINED.items()},
}
# They apply their `activation` last, so a layer after them does the same.
_HOSTS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def own_activation(operation) -> str | None:
    """Names the hidden activation that an operation is, if it is one."""
    for layer_class, name in _SITE_LAYERS.items():
        if isinstance(operation, layer_class):
            return name
    if isinstance(operation, activations.Activation):
        return operation.spec
    if isinstance(operation, keras.layers.ReLU):
        if _is_written_out_hard_sigmoid(operation):
            return None
        return "relu6" if operation.max_value == 6 else "relu"
    if isinstance(operation, keras.layers.Activation):
        return _hidden_name(operation.activation, operation)
    if not isinstance(operation, keras.layers.Layer):
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(operation).__name__).lower()
        if name in HIDDEN and not _is_written_out_hard_sigmoid(operation):
            return name
    return None


def fused_activation(operation) -> str | None:
    """Names the hidden activation in the `activation=` argument of a convolution or dense layer."""
    if isinstance(operation, _HOSTS) and type(operation).call.__module__.startswith("keras."):
        return _hidden_name(operation.activation, operation)
    return None


def is_gate(layer: keras.layers.Layer) -> bool:
    """Tells if an activation layer is a gate or a head: sigmoid, tanh, softmax, linear …"""
    function = getattr(layer, "activation", None)
    name = getattr(function, "__name__", type(layer).__name__).lower()
    return name in _KEPT or _is_written_out_hard_sigmoid(layer)


def _hidden_name(function, operation) -> str | None:
    """Names a function if it is a hidden activation; gives None for a gate or a head.

    Raises:
      ValueError: a function known neither as the one nor as the other.
    """
    if function is None:
        return None
    if isinstance(function, keras.layers.Layer):
        name = own_activation(function)
    else:
        function = getattr(function, "func", function)  # of a functools.partial
        name = getattr(function, "__name__", type(function).__name__)
    if name in HIDDEN or isinstance(function, activations.Activation):
        return name
    if name in _KEPT or name is None:
        return None
    raise ValueError(
        f"layer {operation.name!r} applies the function {name!r}, which may be a hidden activation "
        "or a gate; build the network with one of Keras's own activations there"
    )


def _is_written_out_hard_sigmoid(operation) -> bool:
    """Tells if a ReLU6 belongs to `relu6(x + 3) / 6`, the gate of MobileNetV3."""
    is_relu6 = getattr(operation, "max_value", None) == 6 or type(operation).__name__ == "Relu6"
    if not is_relu6 or not operation._inbound_nodes:
        return False
    source = operation._inbound_nodes[0].input_tensors[0]._keras_history
    if type(source.operation).__name__ != "Add":
        return False
    arguments = source.operation._inbound_nodes[source.node_index].arguments
    return 3 in [a for a in arguments.args if isinstance(a, (int, float))]
