"""Random numbers that depend on a seed alone: not on the device, the replica or the batch.

A seed is an int32 tensor of shape [2], one for the whole batch (one fast operation: training), or
of shape [N, 2], one for each image (an image's numbers then do not depend on its batch:
evaluation).
"""

import tensorflow as tf


def fresh_seed() -> tf.Tensor:
    """Draws a seed of shape [2] from TensorFlow's global generator (`tf.random.set_seed`)."""
    return tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)


def fold_in(seed: tf.Tensor, data: int | tf.Tensor) -> tf.Tensor:
    """Derives another seed of the same shape from a seed and an integer (scalar or [N])."""
    seed = tf.convert_to_tensor(seed, tf.int32)
    data = tf.cast(data, tf.int32)
    if seed.shape.rank == 1:
        return tf.random.experimental.stateless_fold_in(seed, data)
    data = tf.broadcast_to(data, tf.shape(seed)[:1])
    return tf.map_fn(
        lambda pair: tf.random.experimental.stateless_fold_in(pair[0], pair[1]),
        (seed, data),
        fn_output_signature=tf.int32,
    )


def uniform(seed: tf.Tensor, like: tf.Tensor, minval: float, maxval: float) -> tf.Tensor:
    """Draws uniform numbers in [minval, maxval) of the shape and dtype of `like`."""
    return _draw(
        lambda shape, key: tf.random.stateless_uniform(shape, key, minval, maxval, like.dtype),
        seed,
        like,
    )


def normal(seed: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Draws standard normal numbers of the shape and dtype of `like`."""
    return _draw(
        lambda shape, key: tf.random.stateless_normal(shape, key, dtype=like.dtype), seed, like
    )


def unit_ball(seed: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Draws points uniform in the L2 unit ball of every image's space, shaped as `like`.

    `u^(1/d) * g / |g|` with `g` standard normal, `u` uniform in [0, 1) and `d = H * W * C`.
    """
    direction = normal(seed, like)
    axes = list(range(1, like.shape.rank))
    direction /= tf.sqrt(tf.reduce_sum(tf.square(direction), axes, keepdims=True))
    dimension = tf.cast(tf.reduce_prod(tf.shape(like)[1:]), like.dtype)
    one_value = like[:, :1, :1, :1]
    radius = uniform(fold_in(seed, 1), one_value, 0.0, 1.0) ** (1.0 / dimension)
    return direction * radius


def _draw(sample, seed, like):
    seed = tf.convert_to_tensor(seed, tf.int32)
    shape = tf.shape(like)
    if seed.shape.rank == 1:
        return sample(shape, seed)
    drawn = tf.map_fn(
        lambda key: sample(shape[1:], key),
        seed,
        fn_output_signature=tf.TensorSpec(like.shape[1:], like.dtype),
    )
    return tf.ensure_shape(drawn, like.shape)
