"""What stands behind a training step: sums over pieces and replicas, an average over steps."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from sat_tf.attacks import noise
from sat_tf.runs import distribution
from sat_tf.training import batches

Gradients = list[tf.Tensor | None]  # None is that of a weight that plays no part


def gradients_over_pieces(
    gradients: Callable[[tf.Tensor, tf.Tensor, tf.Tensor, Any], Gradients],
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    num_pieces: int,
) -> Gradients:
    """Sums the gradients of the pieces of a replica's batch, one piece after the other.

    Args:
      gradients: of (images, labels, seed, parts): a piece, a seed of its own, and the number of
        such pieces that the global batch would have, by which its mean loss is divided.
      images, labels: of the replica.
      seed: int32 [2].
      num_pieces: at least 1.
    """
    total = batches.global_count(images)
    summed: Gradients | None = None
    for index, (some, theirs) in enumerate(batches.pieces(images, labels, num_pieces)):
        if summed is not None:
            # Only if a piece waits for the one before is there memory for one piece alone.
            with tf.control_dependencies([g for g in summed if g is not None]):
                some = tf.identity(some)
        parts = total / batches.count(some)
        more = gradients(some, theirs, noise.fold_in(seed, index), parts)
        summed = more if summed is None else list(map(_sum, summed, more))
    return summed


def logs_over_replicas(means: Sequence[keras.metrics.Mean]) -> dict[str, tf.Tensor]:
    """Returns the running means over the images of all replicas.

    Keras averages the logs of replicas, however many images each of them has seen.
    """
    sums = tf.stack([[mean.total.value, mean.count.value] for mean in means])
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1:
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
    # Keras joins the logs of several workers along an axis, which a scalar does not have.
    shape = [1] if distribution.has_workers(tf.distribute.get_strategy()) else []
    results = tf.unstack(tf.math.divide_no_nan(sums[:, 0], sums[:, 1]))
    return {mean.name: tf.reshape(one, shape) for mean, one in zip(means, results, strict=True)}


def average_statistics_over_replicas(network: keras.Model) -> None:
    """Gives every replica the mean of all replicas' batch-norm statistics.

    Keras moves each replica's by that replica's images alone, and saves those of the first. Those
    of frozen layers do not move: a mean of equal numbers may differ from them by rounding.
    """
    context = tf.distribute.get_replica_context()
    names = ("moving_mean", "moving_variance")
    layers = network._flatten_layers()
    frozen = {id(v) for layer in layers if not layer.trainable for v in layer.variables}
    statistics = [v.value for v in network.variables if v.name in names and id(v) not in frozen]
    if context.num_replicas_in_sync == 1 or not statistics:
        return
    means = context.all_reduce(tf.distribute.ReduceOp.MEAN, list(map(tf.identity, statistics)))
    for variable, mean in zip(statistics, means, strict=True):
        variable.assign(mean)


def move_average(average: keras.Model, network: keras.Model, decay: float) -> None:
    """Moves the average of a network's weights: `a <- d a + (1 - d) w`.

    What is no real number, such as a count, is taken over as it is.
    """

    def moved(mean, weight):
        if not mean.dtype.is_floating:
            return mean.assign(weight)
        # So written that what stands still, as a frozen weight does, stays to the last bit.
        return mean.assign(mean + (1 - decay) * (weight - mean))

    def move(strategy, means, weights):
        for mean, weight in zip(means, weights, strict=True):
            strategy.extended.update(mean, moved, args=(weight,))

    means = [variable.value for variable in average.weights]
    weights = [variable.value for variable in network.weights]
    tf.distribute.get_replica_context().merge_call(move, args=(means, weights))


def take_average(
    average: keras.Model, network: keras.Model, averaged: Callable[[keras.Variable], tf.Tensor]
) -> None:
    """Gives a second network the averages of the weights, and of all else the values themselves.

    Args:
      averaged: of a weight that is trained, its average.
    """
    trained = {id(weight) for weight in network.trainable_variables}
    values = [averaged(w) if id(w) in trained else tf.identity(w.value) for w in network.weights]

    def take(strategy, means, values):
        for mean, value in zip(means, values, strict=True):
            strategy.extended.update(mean, lambda m, v: m.assign(v), args=(value,))

    means = [variable.value for variable in average.weights]
    tf.distribute.get_replica_context().merge_call(take, args=(means, values))


def _sum(gradient, more):
    return None if more is None else gradient + more
