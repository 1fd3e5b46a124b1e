"""Finds where a network applies its hidden activations.

A *site* is where a network applies an activation of the ReLU or SiLU family to hidden features: an
activation layer, a graph operation such as `keras.ops.relu`, or the `activation=` argument of a
convolution or dense layer. Gates and heads (sigmoid, hard sigmoid, tanh, softmax, linear) are no
sites. An activation that a layer applies inside itself cannot be replaced from outside: the layer
is refused by name, so that an injected network never keeps a kink unnoticed.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import tensorflow as tf
from keras.src.models.functional import Functional  # Keras has no public name for the class.

from sat_tf import activations

_HIDDEN = frozenset(
    "relu relu6 leaky_relu prelu elu celu selu silu swish hard_silu hard_swish gelu gelu_tanh "
    "mish softplus parametric_softplus squareplus sparse_plus smoothrelu pssilu".split()
)
_KEPT = frozenset(
    "linear sigmoid hard_sigmoid log_sigmoid sparse_sigmoid softmax log_softmax sparsemax tanh "
    "hard_tanh softsign exponential".split()
)
_SITE_LAYERS = {
    keras.layers.LeakyReLU: "leaky_relu",
    keras.layers.PReLU: "prelu",
    keras.layers.ELU: "elu",
    activations.SmoothReLU: "smoothrelu",
    activations.PSSiLU: "pssilu",
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


def hidden_activations(model: keras.Model) -> dict[str, str]:
    """Lists the sites of a network: `{"conv1_relu": "relu", ...}`.

    Args:
      model: a built functional or sequential model; models nested in it are searched too.

    Returns:
      The activation's name at each site in the order of the graph, by the name of the layer or
      operation; sites of a nested model are called `nested_name/layer_name`. Our own layers give
      their spec, such as "celu:alpha=1.6".

    Raises:
      ValueError: a part of the network that cannot be searched.
    """
    return dict(sites(model))


def sites(model: keras.Model) -> Iterator[tuple[str, str]]:
    """Yields what `hidden_activations` returns, in the order of the graph."""
    for operation in operations(model):
        if isinstance(operation, keras.Model):
            for name, activation in sites(operation):
                yield f"{operation.name}/{name}", activation
            continue
        activation = own_activation(operation) or fused_activation(operation)
        if activation:
            yield operation.name, activation
        else:
            _refuse_what_hides(operation)


def operations(model: keras.Model) -> list:
    """Lists the layers, models and graph operations that a model calls, without its inputs.

    Raises:
      ValueError: a model that is not built, or whose Python code hides what it calls.
    """
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        if not model.built:
            raise ValueError(f"model {model.name!r} is not built; call build() or give it an Input")
        return model.layers
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return [o for o in model.operations if not isinstance(o, keras.layers.InputLayer)]
    raise ValueError(
        f"model {model.name!r} is a {type(model).__name__}, whose graph cannot be seen; build it "
        "as a functional keras.Model(inputs, outputs), or hand the activation to its constructor"
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
        if name in _HIDDEN and not _is_written_out_hard_sigmoid(operation):
            return name
    return None


def fused_activation(operation) -> str | None:
    """Names the hidden activation in the `activation=` argument of a convolution or dense layer."""
    if isinstance(operation, _HOSTS) and type(operation).call.__module__.startswith("keras."):
        return _hidden_name(operation.activation, operation)
    return None


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
    if name in _HIDDEN or isinstance(function, activations.Activation):
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


def _refuse_what_hides(operation) -> None:
    """Raises ValueError if an operation that is no site applies a hidden activation inside."""
    found = _written_out(operation)
    if isinstance(operation, keras.layers.Lambda):
        found = "a Python function"
    elif isinstance(operation, keras.layers.Layer) and not found:
        found = _held(operation)
        if not found and not type(operation).__module__.startswith("keras."):
            found = _traced(operation)
    if found:
        raise ValueError(
            f"{type(operation).__name__} {operation.name!r} applies {found} inside, where it "
            "cannot be replaced; make the activation a layer of its own, such as "
            "keras.layers.ReLU(), and a Lambda one of Keras's own layers"
        )


def _held(layer: keras.layers.Layer) -> str | None:
    """Names a hidden activation kept as an attribute of a layer or of a layer inside it."""
    for part in layer._flatten_layers():
        if part is not layer and (name := own_activation(part)):
            return name
        for value in vars(part).values():
            name = getattr(value, "__name__", None)
            if callable(value) and name in _HIDDEN:
                return name
    return None


# Kinds of operation, in a Keras graph and in a TensorFlow graph, that act on each element alone.
_SCALING = frozenset(
    "Multiply Mul Divide TrueDivide RealDiv Negative Neg Cast Identity IdentityN".split()
)
_GATES = frozenset(
    "Sigmoid HardSigmoid Tanh Erf Erfc Relu Relu6 ReLU Activation Softplus Exp".split()
)
_ELEMENTWISE = _SCALING | frozenset(
    "Add AddV2 Subtract Sub Minimum Maximum Clip Log Rescaling".split()
)
_CONSTANTS = frozenset("Const ReadVariableOp".split())
_KINKS = frozenset("Relu Relu6 LeakyRelu Elu Selu Softplus".split())


def _any_gates_another(factors: Sequence, origin: Callable) -> bool:
    """Tells if one factor is a saturating function of another, as in x * sigmoid(x).

    Args:
      origin: `tensor -> (kind of operation, its inputs)`.
    """
    return any(g is not x and _gates(g, x, origin) for g in factors for x in factors)


def _gates(gate, x, origin: Callable) -> bool:
    sources, kinds = _sources(gate, _ELEMENTWISE | _GATES, origin)
    if not kinds & _GATES:
        return False
    scaled = _sources(x, _SCALING, origin)[0]
    return any(s is t for s in sources for t in scaled if origin(t)[0] not in _CONSTANTS)


def _sources(tensor, through: frozenset, origin: Callable) -> tuple[list, set]:
    """Lists a tensor and all it is computed from by operations of the given kinds."""
    found, kinds, index = [tensor], set(), 0
    while index < len(found):
        kind, inputs = origin(found[index])
        index += 1
        if kind in through:
            kinds.add(kind)
            found += [i for i in inputs if not any(i is f for f in found)]
    return found, kinds


def _written_out(operation) -> str | None:
    """Recognises max(x, 0) and x * gate(x) spelled as graph operations."""
    kind = type(operation).__name__
    if kind not in ("Multiply", "Maximum"):
        return None
    for node in operation._inbound_nodes:
        if kind == "Maximum":
            if any(isinstance(a, (int, float)) and a == 0 for a in node.arguments.args):
                return "max(x, 0)"
            continue
        if _any_gates_another(node.input_tensors, _keras_origin):
            return "x * gate(x)"
    return None


def _keras_origin(tensor) -> tuple[str, list]:
    operation, index, _ = tensor._keras_history
    return type(operation).__name__, operation._inbound_nodes[index].input_tensors


def _traced(layer: keras.layers.Layer) -> str | None:
    """Names a hidden activation among the TensorFlow operations of a layer that is not Keras's."""
    node = layer._inbound_nodes[0]
    tensors = node.input_tensors

    def call(*values):
        args, kwargs = node.arguments.fill_in(
            {id(t): v for t, v in zip(tensors, values, strict=True)}
        )
        return layer(*args, **kwargs)

    specs = [tf.TensorSpec(t.shape, t.dtype) for t in tensors]
    graph = tf.function(call).get_concrete_function(*specs).graph.as_graph_def()
    for body in (graph.node, *(f.node_def for f in graph.library.function)):
        if found := _among_nodes(body):
            return found
    return None


def _among_nodes(nodes: Iterable) -> str | None:
    by_name = {node.name: node for node in nodes}

    def origin(node):
        names = (i.removeprefix("^").partition(":")[0] for i in node.input)
        return node.op, [by_name[n] for n in names if n in by_name]

    for node in by_name.values():
        if node.op in _KINKS:
            return node.op
        factors = origin(node)[1] if node.op == "Mul" else ()
        if _any_gates_another(factors, origin):
            return "x * gate(x)"
    return None
