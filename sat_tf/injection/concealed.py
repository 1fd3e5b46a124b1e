"""Recognises hidden activations that a layer applies inside itself or a graph spells out."""

from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

from sat_tf.injection.kinds import HIDDEN, own_activation


def refuse(operation) -> None:
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
        for operation in getattr(part, "operations", ()):  # of a model that the layer holds
            if name := own_activation(operation) or _written_out(operation):
                return name
        for value in vars(part).values():
            name = getattr(value, "__name__", None)
            if callable(value) and name in HIDDEN:
                return name
    return None


# Kinds of operation, in a Keras graph and in a TensorFlow graph, that act on each element alone.
_SCALING = frozenset(
    "Multiply Mul Divide TrueDivide RealDiv Negative Neg Cast Identity IdentityN".split()
)
_COMPARISONS = frozenset("Greater GreaterEqual Less LessEqual".split())
_GATES = _COMPARISONS | frozenset(
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


def _chosen_by_itself(tensors: Sequence, origin: Callable) -> bool:
    """Tells if a tensor is chosen where it compares with something, as in where(x > 0, x, 0)."""
    conditions = [origin(t)[1] for t in tensors if origin(t)[0] in _COMPARISONS]
    compared = [s for inputs in conditions for s in inputs if origin(s)[0] not in _CONSTANTS]
    sources = [s for t in tensors for s in _sources(t, _SCALING, origin)[0]]
    return any(s is c for s in sources for c in compared)


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
    """Recognises max(x, 0), min(x, 0), where(x > 0, …) and x * gate(x) as graph operations."""
    kind = type(operation).__name__
    if kind not in ("Multiply", "Maximum", "Minimum", "Where"):
        return None
    for node in operation._inbound_nodes:
        if kind == "Where":
            if _chosen_by_itself(node.input_tensors, _keras_origin):
                return "where(x > 0, …)"
            continue
        if kind != "Multiply":
            given = [*node.arguments.args, *node.arguments.kwargs.values()]
            if any(_is_zero(a) for a in given):
                return f"{kind.lower()[:3]}(x, 0)"
            continue
        if _any_gates_another(node.input_tensors, _keras_origin):
            return "x * gate(x)"
    return None


def _is_zero(argument) -> bool:
    """Tells if a number or an array of numbers, not a tensor of the graph, is zero everywhere."""
    if argument is None or isinstance(argument, (keras.KerasTensor, keras.Variable)):
        return False
    return not np.any(argument)


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
        if node.op in ("Maximum", "Minimum"):
            constants = [n for n in origin(node)[1] if n.op == "Const"]
            if any(_is_zero(tf.make_ndarray(n.attr["value"].tensor)) for n in constants):
                return f"{node.op.lower()[:3]}(x, 0)"
        if node.op == "SelectV2" and _chosen_by_itself(origin(node)[1], origin):
            return "where(x > 0, …)"
        factors = origin(node)[1] if node.op == "Mul" else ()
        if _any_gates_another(factors, origin):
            return "x * gate(x)"
    return None
