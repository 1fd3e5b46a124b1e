"""Rematerialisation: gradients compute a network's blocks again where memory would keep them."""

import itertools
import math
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from sat_tf import activations


def rematerialize(network: keras.Model) -> None:
    """Has a network keep the maps between its blocks alone, and compute the rest once more.

    With n operations in a row the maps between about sqrt(n) blocks are kept, and those inside one
    block at a time: memory falls from n to sqrt(n), for one more forward pass a gradient, that of
    an attack included. Blocks begin where one tensor is all that the rest of the network needs, as
    between two residual blocks.

    The network computes what it computed: batch norm's moving averages move once, and dropout drops
    again what it dropped. It is `keras.remat` (`tf.recompute_grad`) around each block, and not
    `keras.RematScope`: that keeps what stands between any two layers, and moves the averages twice.

    Source: Chen et al. 2016, arXiv 1604.06174, section 4.1.

    Args:
      network: functional model with one input and one output; its `call` is replaced, in this
        process alone: what is saved, and copies, are the plain network.

    Raises:
      ValueError: a network that cannot be cut, or whose layers add to the loss, by
        `activity_regularizer` at once or by `add_loss` when it is called: recomputed terms would
        have no gradient.
    """
    for layer in network._flatten_layers():
        if getattr(layer, "activity_regularizer", None) is not None:
            raise ValueError(_adds_to_the_loss(layer))
    tensors = _cuts(network)
    blocks = [keras.Model(*ends) for ends in itertools.pairwise(tensors)]

    def call(inputs, training=None, mask=None):
        del mask  # images have none
        for block in blocks:
            inputs = _recomputed(block, training)(inputs)
        return inputs

    network.call = call


def _recomputed(block: keras.Model, training: bool | None) -> Callable[[tf.Tensor], tf.Tensor]:
    """Makes one call of a block, whose gradient calls it again from the state that it began in."""
    # Read now: batch norm's averages and what dropout draws from, which the call itself moves.
    before = [(v, tf.identity(v.value)) for v in block.non_trainable_variables]
    calls, again = itertools.count(), activations.drawing_again()

    def run(maps):
        if next(calls) == 0:
            outputs = block(maps, training=training)
            for layer in block._flatten_layers():
                if layer._losses:
                    raise ValueError(_adds_to_the_loss(layer))
            return outputs
        with keras.StatelessScope(before), again():
            return block(maps, training=training)

    return keras.remat(run)


def _cuts(network: keras.Model) -> list[keras.KerasTensor]:
    """Returns a network's input, the tensors between its blocks, and its output."""
    nodes = list(_nodes(network))
    last_use = {id(x): step for step, node in enumerate(nodes) for x in node.input_tensors}
    needed, found = {id(x): last_use.get(id(x), 0) for x in network.inputs}, list(network.inputs)
    size, since = math.isqrt(len(nodes)), 0
    for step, node in enumerate(nodes[:-1]):
        needed |= {id(x): last_use.get(id(x), step) for x in node.output_tensors}
        needed = {key: last for key, last in needed.items() if last > step}
        since += 1
        if since >= size and len(needed) == 1 and id(node.output_tensors[0]) in needed:
            found.append(node.output_tensors[0])
            since = 0
    if len(found) == 1:
        raise ValueError(
            f"the network {network.name!r} has no place where one tensor is all that the rest "
            "needs, and cannot be cut into blocks; leave --remat out, or use "
            "--gradient_accumulation"
        )
    return [*found, *network.outputs]


def _nodes(network: keras.Model) -> Iterator:
    """Yields the calls of a network's operations in the order of computing, without its input."""
    for _, nodes in sorted(network._nodes_by_depth.items(), reverse=True):
        yield from (node for node in nodes if node.input_tensors)


def _adds_to_the_loss(layer):
    return (
        f"layer {layer.name!r} adds to the loss (activity_regularizer or add_loss), and "
        "rematerialization would give that no gradient; leave remat out"
    )
