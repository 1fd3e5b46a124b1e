"""The order of training: which examples the batch of a given step holds.

The step number alone decides: step `s` lies in epoch `e = floor(s / S)`, with `S = floor(n / B)`
full batches an epoch, and holds the places `(s - e S) B, ...` of a permutation drawn from
`(seed, e)`. A run that starts at a late step therefore sees what it would have seen anyway, and
nothing needs to be read to get there.
"""

import tensorflow as tf

from sat_tf.data.info import Request

# Far more epochs than anyone trains, far from the end of int64.
_ENDLESS = 2**31 - 1


def permutation(seed: int, epoch: tf.Tensor, num_examples: int) -> tf.Tensor:
    """Draws the order of an epoch, int64 [num_examples], from `(seed, epoch)` alone.

    The sort of random keys is exact. `tf.random.experimental.index_shuffle` would need no memory,
    but its four rounds leave successive epochs correlated: 0.7 at 49,000 examples.
    """
    keys = tf.random.stateless_uniform(
        [num_examples], tf.stack([tf.cast(seed, tf.int64), epoch]), None, None, tf.int32
    )
    return tf.cast(tf.argsort(keys, stable=True), tf.int64)


def epochs(start_step: int, steps_per_epoch: int) -> tf.data.Dataset:
    """Counts the epochs from that of `start_step` on: pairs (epoch, steps to leave out of it)."""
    first = start_step // steps_per_epoch

    def with_offset(epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return epoch, tf.where(epoch == first, tf.cast(start_step % steps_per_epoch, tf.int64), 0)

    return tf.data.Dataset.range(first, _ENDLESS).map(with_offset)


def batches(num_examples: int, request: Request) -> tf.data.Dataset:
    """Yields (step, indices below num_examples) from `request.start_step` on.

    The indices, int64, are those at the places `request.own` of the step's batch.
    """
    seed, batch_size, own = request.seed, request.batch_size, request.own
    steps_per_epoch = num_examples // batch_size

    def of_epoch(epoch: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
        order = permutation(seed, epoch, num_examples)[: steps_per_epoch * batch_size]
        steps = epoch * steps_per_epoch + tf.range(steps_per_epoch, dtype=tf.int64)
        order = tf.reshape(order, [steps_per_epoch, batch_size])[:, own.start : own.stop]
        return tf.data.Dataset.from_tensor_slices((steps[offset:], order[offset:]))

    return epochs(request.start_step, steps_per_epoch).flat_map(of_epoch)


def examples(num_examples: int, request: Request) -> tf.data.Dataset:
    """Yields the same one by one: (place in the endless stream, index below num_examples)."""

    def placed(step: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        own = tf.range(request.own.start, request.own.stop, dtype=tf.int64)
        return step * request.batch_size + own, indices

    return batches(num_examples, request).map(placed).unbatch()


def own(examples: tf.data.Dataset, num_examples: int, request: Request) -> tf.data.Dataset:
    """Leaves those of all examples in a row that are the shard's, of a short last batch as well."""
    if request.shard.count == 1:
        return examples
    whole = num_examples - num_examples % request.batch_size
    last = request.shard.places(num_examples - whole)

    def is_own(number: tf.Tensor, *example) -> tf.Tensor:
        place, in_last = number % request.batch_size, number >= whole
        start = tf.where(in_last, last.start, request.own.start)
        stop = tf.where(in_last, last.stop, request.own.stop)
        return (place >= tf.cast(start, tf.int64)) & (place < tf.cast(stop, tf.int64))

    return examples.enumerate().filter(is_own).map(lambda _, example: example)
