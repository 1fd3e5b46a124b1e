"""Fine-tuning: a network that was trained before gets the classes of other data."""

import fnmatch
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from sat_tf.injection.kinds import own_activation
from sat_tf.injection.layer_state import copy_state

_SOFTMAX = ("softmax", "log_softmax")


def with_logits(
    network: keras.Model, num_classes: int, *, same_classes: bool = True
) -> keras.Model:
    """Gives a network logits of the data's classes.

    A softmax at the end is taken off, as losses take logits. Where the classes are others, the last
    dense layer, the head, is replaced by one with small random weights and the same name. All other
    layers are those of `network`.

    Args:
      network: functional or sequential, pixels to one output [N, classes].
      num_classes: of the data.
      same_classes: whether equally many classes are known to be the same ones.

    Raises:
      ValueError: the classes are others, and no dense layer makes the network's logits.
    """
    operation, node = _last(network)
    replaced = not same_classes or network.output_shape[-1] != num_classes
    if isinstance(operation, keras.Model):
        inner = with_logits(operation, num_classes, same_classes=same_classes)
        kept = node.output_tensors[0]
        logits = kept if inner is operation else inner(*node.input_tensors)
    elif isinstance(operation, keras.layers.Dense) and (replaced or _is_softmax(operation)):
        logits = _head_like(operation, num_classes, replaced)(*node.input_tensors)
    elif replaced:
        raise ValueError(
            f"the network ends with {type(operation).__name__} {operation.name!r}, and has "
            f"{network.output_shape[-1]} classes where the data have {num_classes}; only a Dense "
            "layer at the end can be replaced: build the head of these classes in a function, and "
            "give module:function"
        )
    else:
        logits = node.output_tensors[0]
    if logits is network.outputs[0]:
        return network
    return keras.Model(network.inputs[0], logits, name=network.name)


def head(network: keras.Model) -> keras.layers.Layer:
    """Returns the layer that makes a network's logits; all others are its body."""
    operation, _ = _last(network)
    return head(operation) if isinstance(operation, keras.Model) else operation


def in_body(network: keras.Model) -> list[bool]:
    """Tells of every weight that is trained whether it belongs to the body.

    Raises:
      ValueError: the network ends with a layer that has no weights.
    """
    own = {id(weight) for weight in _weighted_head(network).weights}
    return [id(weight) not in own for weight in network.trainable_variables]


def freeze(network: keras.Model, patterns: Sequence[str]) -> None:
    """Freezes layers of a network's body; all others are trained, also those that were frozen.

    The weights of a frozen layer stay, and frozen batch norm normalises with its statistics, which
    stay too, in training as in inference.

    Args:
      network: as `with_logits` takes.
      patterns: of layer names, with the wild cards * ? and [...]; layers of a nested model are
        called "model/layer". "*" is the whole body.

    Raises:
      ValueError: a pattern that matches no layer of the body, or the network ends with a layer that
        has no weights.
    """
    if patterns:
        _weighted_head(network)
    for layer in network._flatten_layers():
        layer.trainable = True  # one by one: a model that is trainable hands nothing down
    body = [(path, layer) for path, layer in _layers(network) if layer is not head(network)]
    for pattern in patterns:
        matching = [layer for path, layer in body if fnmatch.fnmatchcase(path, pattern)]
        if not matching:
            names = [path for path, layer in body if layer.weights]
            shown = ", ".join(names[:8]) + (f", … {names[-1]}" if len(names) > 8 else "")
            raise ValueError(
                f"the pattern {pattern!r} of --freeze matches no layer before the head of "
                f"{network.name}; its layers with weights are: {shown}"
            )
        for layer in matching:
            layer.trainable = False


def _weighted_head(network):
    found = head(network)
    if not found.weights:
        raise ValueError(
            f"{network.name} ends with {type(found).__name__} {found.name!r}, which has no "
            "weights, so there is no head to tell its body from; train all of it at one rate, "
            "or give a network that ends with the layer that makes its logits"
        )
    return found


def slow_down(
    optimizer: keras.optimizers.Optimizer, in_body: Sequence[bool], multiplier: float
) -> None:
    """Multiplies an optimiser's learning rate for the weights of the body.

    Discriminative learning rates (Howard and Ruder 2018, arXiv 1801.06146, section 3.2) with two
    groups, the body and the head.

    Args:
      optimizer: of Keras, not yet used.
      in_body: for every weight that it will be built with, in their order.
      multiplier: of the body's rate.
    """
    step = optimizer.update_step

    def update_step(gradient, variable, learning_rate):
        slower = in_body[optimizer._get_variable_index(variable)]
        step(gradient, variable, learning_rate * multiplier if slower else learning_rate)

    optimizer.update_step = update_step


def take_weights(network: keras.Model, source: keras.Model, name: str) -> None:
    """Gives a network the weights of one of the same architecture, which may have other images.

    Layers with weights are compared in the order of the graph. The head is taken over where its
    shapes agree, and so are the scalars of trained activations.

    Args:
      network: gets them.
      source: has them.
      name: what messages call the source.

    Raises:
      ValueError: the bodies differ; the message names the first layer that does.
    """
    pairs = list(
        itertools.zip_longest(_weighted(network), _weighted(source), fillvalue=(None, None))
    )
    for (own_path, own), (path, theirs) in pairs:
        if _shapes(own) != _shapes(theirs):
            raise ValueError(
                f"{name} is no {network.name}: {_described(path, theirs)} stands there where "
                f"{network.name} has {_described(own_path, own)}; give the --model that it was "
                "trained as, or leave --model out to take the network as it is"
            )
    rest = [(head(network), head(source)), *zip(*map(_scalars, (network, source)), strict=False)]
    for own, theirs in [(own, theirs) for (_, own), (_, theirs) in pairs] + rest:
        if _shapes(own) == _shapes(theirs):
            copy_state(theirs, own)


def _last(network) -> tuple[Any, Any]:
    """Returns the operation that makes a network's logits, and the node of its call."""
    if not getattr(network, "outputs", None):
        raise ValueError(
            f"the network {network.name!r} is a {type(network).__name__}, whose last layer cannot "
            "be seen; build it as a functional keras.Model(images, logits)"
        )
    operation, index, _ = network.outputs[0]._keras_history
    while _is_softmax(operation) and not isinstance(operation, keras.layers.Dense):
        operation, index, _ = operation._inbound_nodes[index].input_tensors[0]._keras_history
    return operation, operation._inbound_nodes[index]


def _is_softmax(operation):
    if isinstance(operation, keras.layers.Dense | keras.layers.Activation):
        return getattr(operation.activation, "__name__", None) in _SOFTMAX
    return type(operation).__name__ in ("Softmax", "LogSoftmax")


def _head_like(old, num_classes, replaced):
    if not replaced:
        new = keras.layers.Dense.from_config({**old.get_config(), "activation": "linear"})
        new.build(old.kernel.shape[:1])
        new.set_weights(old.get_weights())
        return new
    initializer = keras.initializers.RandomNormal(stddev=0.01)  # as `models`
    return keras.layers.Dense(
        num_classes, kernel_initializer=initializer, dtype="float32", name=old.name
    )


def _layers(network, prefix="") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields all layers that are no models, with their paths, in the order of the graph."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer, f"{prefix}{layer.name}/")
        else:
            yield f"{prefix}{layer.name}", layer


def _weighted(network):
    own_head = head(network)
    return [
        (path, layer)
        for path, layer in _layers(network)
        if layer.weights and layer is not own_head and own_activation(layer) is None
    ]


def _scalars(network):
    return [layer for _, layer in _layers(network) if layer.weights and own_activation(layer)]


def _shapes(layer):
    return layer and [(weight.name, tuple(weight.shape)) for weight in layer.weights]


def _described(path, layer):
    if layer is None:
        return "nothing"
    return f"{path} ({', '.join(f'{name} {list(shape)}' for name, shape in _shapes(layer))})"
