"""Random numbers that depend on a seed alone: not on the device, the replica or the batch.

A seed is an int32 tensor of shape [2], one for the whole batch (one fast operation: training), or
of shape [N, 2], one for each image (an image's numbers then do not depend on its batch:
evaluation).

Numbers in one seed's name are those of TensorFlow's stateless operations on a CPU, made so that XLA
makes them too. By those operations a step compiled with XLA would begin its attack elsewhere: of
the same 32 bits they take the lower 23 where a step is not compiled and the upper 23 where it is,
normal numbers by another transform, and a negative seed loses its sign.
"""

import math

import tensorflow as tf


def fresh_seed() -> tf.Tensor:
    """Draws a seed of shape [2] from TensorFlow's global generator (`tf.random.set_seed`)."""
    return tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)


def bits(seed: tf.Tensor, shape: tf.Tensor | list[int]) -> tf.Tensor:
    """Draws 32 random bits from a seed of shape [2] for each number, uint32 of a shape.

    Those of `tf.random.stateless_uniform(shape, seed, None, None, tf.uint32)` on a CPU: Philox,
    whose key and counter are a block that it makes of the seed under a key of TensorFlow's.
    """
    seed = tf.bitcast(tf.cast(seed, tf.int64), tf.uint64)  # with its sign
    block = _philox([2, 2], tf.constant([0x02461E293EC8F720], tf.uint64), seed)
    key, counter = tf.split(tf.bitcast(block, tf.uint64), 2)
    return _philox(shape, key, tf.concat([tf.zeros_like(counter), counter], 0))


def _philox(shape, key, counter):
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape, key=key, counter=counter, alg=1, dtype=tf.uint32
    )


def unit(seed: tf.Tensor, shape: tf.Tensor | list[int]) -> tf.Tensor:
    """Draws uniform numbers in [0, 1) from a seed of shape [2], float32 of a shape."""
    whole = tf.bitwise.bitwise_and(bits(seed, shape), tf.constant(2**23 - 1, tf.uint32))
    return tf.cast(whole, tf.float32) * 2.0**-23


def fold_in(seed: tf.Tensor, data: int | tf.Tensor) -> tf.Tensor:
    """Derives another seed of the same shape from a seed and an integer (scalar or [N])."""
    seed = tf.convert_to_tensor(seed, tf.int32)
    data = tf.cast(data, tf.int32)
    if seed.shape.rank == 1:
        return _folded(seed, data)
    data = tf.broadcast_to(data, tf.shape(seed)[:1])
    return tf.map_fn(
        lambda pair: _folded(*pair), (seed, data), fn_output_signature=tf.TensorSpec([2], tf.int32)
    )


def _folded(seed, data):
    return tf.stack([tf.bitcast(bits(seed, []), tf.int32), data])


def uniform(seed: tf.Tensor, like: tf.Tensor, minval: float, maxval: float) -> tf.Tensor:
    """Draws uniform numbers in [minval, maxval), float32 of the shape of `like`."""
    low, high = (tf.convert_to_tensor(end, tf.float32) for end in (minval, maxval))
    return _draw(lambda shape, key: unit(key, shape) * (high - low) + low, seed, like)


def normal(seed: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Draws standard normal numbers, float32 of the shape of `like`.

    Box and Muller's `sqrt(-2 log u) (sin(2 pi v), cos(2 pi v))`, as `tf.random.stateless_normal` on
    a CPU but for rounding.
    """
    return _draw(_normal, seed, like)


def _normal(shape, key):
    size = tf.reduce_prod(shape)
    first, second = tf.unstack(unit(key, [(size + 1) // 2, 2]), axis=1)
    radius = tf.sqrt(-2.0 * tf.math.log(tf.maximum(first, 1e-7)))
    angle = 2.0 * math.pi * second
    pairs = tf.stack([radius * tf.sin(angle), radius * tf.cos(angle)], 1)
    return tf.reshape(tf.reshape(pairs, [-1])[:size], shape)


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


def l1_unit_ball(seed: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Draws points uniform in the L1 unit ball of every image's space, shaped as `like`.

    `s * e / (sum e + e_0)` with `e`, `e_0` exponential and `s` signs.

    Source: Barthe, Guedon, Mendelson and Naor, A probabilistic approach to the geometry of the
    l_p^n-ball, Ann. Probab. 33 (2005), theorem 1.
    """
    numbers = uniform(seed, like, 0.0, 1.0)
    rest = uniform(fold_in(seed, 1), like[:, :1, :1, :1], 0.0, 1.0)
    return _l1_ball(numbers, rest)


def _l1_ball(numbers, rest):
    """Makes points of the L1 unit ball from uniform numbers in [0, 1), one more for each image."""
    signed = 2.0 * numbers - 1.0  # its sign and its size are independent
    size = -tf.math.log(tf.maximum(1.0 - tf.abs(signed), 2.0**-24))
    total = tf.reduce_sum(size, list(range(1, size.shape.rank)), keepdims=True)
    return tf.sign(signed) * size / (total - tf.math.log(1.0 - rest))


def _draw(sample, seed, like):
    seed = tf.convert_to_tensor(seed, tf.int32)
    shape = tf.shape(like)
    if seed.shape.rank == 1:
        return sample(shape, seed)
    drawn = tf.map_fn(
        lambda key: sample(shape[1:], key),
        seed,
        fn_output_signature=tf.TensorSpec(like.shape[1:], tf.float32),
    )
    return tf.ensure_shape(drawn, like.shape)


def hashed_uniform(seeds: tf.Tensor, counter: int | tf.Tensor, shape: list[int]) -> tf.Tensor:
    """Draws uniform numbers in [0, 1) for many images at once, each from its own seed and counter.

    Number `i` of an image is the upper 24 bits of `mix(mix(i * phi + k_0) ^ k_1) / 2^24`, where
    `mix` is the finaliser of MurmurHash3 (a bijection of 32 bits), `phi = 0x9E3779B9` and
    `k_0, k_1` are mixed from the seed and the counter. A few vector operations on whole batches,
    where one stateless draw an image costs a loop over the images. Good for starting points and
    proposals; not for cryptography.

    Args:
      seeds: int32 [N, 2], one for each image.
      counter: int32, scalar or [N], such as the image's step: another counter, other numbers.
      shape: the static shape of one image's numbers.

    Returns:
      float32 [N, *shape].

    Source: A. Appleby, MurmurHash3 (public domain), `fmix32`.
    """
    seeds = tf.bitcast(tf.convert_to_tensor(seeds, tf.int32), tf.uint32)
    counter = tf.bitcast(tf.cast(counter, tf.int32), tf.uint32)
    golden = tf.constant(0x9E3779B9, tf.uint32)
    first = _mix(tf.bitwise.bitwise_xor(_mix(seeds[:, 0] + golden), counter * golden + golden))
    first = _mix(tf.bitwise.bitwise_xor(first, seeds[:, 1]))
    second = _mix(tf.bitwise.bitwise_xor(_mix(first), seeds[:, 0]))
    index = tf.range(math.prod(shape), dtype=tf.int64)
    numbers = _mix(tf.cast(index, tf.uint32) * golden + first[:, None])
    numbers = _mix(tf.bitwise.bitwise_xor(numbers, second[:, None]))
    # 24 bits are what a float32 holds: the quotient is exact and below 1.
    numbers = tf.cast(tf.bitwise.right_shift(numbers, tf.constant(8, tf.uint32)), tf.float32)
    return tf.reshape(numbers * 2.0**-24, [-1, *shape])


def hashed_sign(seeds: tf.Tensor, counter: int | tf.Tensor, shape: list[int]) -> tf.Tensor:
    """Draws -1 or 1 with equal chances, as `hashed_uniform` draws."""
    return tf.where(hashed_uniform(seeds, counter, shape) < 0.5, -1.0, 1.0)


def hashed_normal(seeds: tf.Tensor, counter: int | tf.Tensor, shape: list[int]) -> tf.Tensor:
    """Draws standard normal numbers as `hashed_uniform` draws: `sqrt(-2 log u) cos(2 pi v)`.

    Source: Box and Muller 1958, with `u` in (0, 1].
    """
    pairs = hashed_uniform(seeds, counter, [2, *shape])
    radius = tf.sqrt(-2.0 * tf.math.log(1.0 - pairs[:, 0]))
    return radius * tf.cos(2.0 * math.pi * pairs[:, 1])


def hashed_unit_ball(seeds: tf.Tensor, counter: int | tf.Tensor, shape: list[int]) -> tf.Tensor:
    """Draws points uniform in the L2 unit ball of `shape`, as `hashed_uniform` draws."""
    direction = hashed_normal(seeds, counter, shape)
    axes = list(range(1, len(shape) + 1))
    direction /= tf.sqrt(tf.reduce_sum(tf.square(direction), axes, keepdims=True))
    # Another word of the seed: these numbers must not be those of the direction.
    radius = hashed_uniform(seeds[:, ::-1], counter, [1] * len(shape))
    return direction * radius ** (1.0 / math.prod(shape))


def hashed_l1_unit_ball(seeds: tf.Tensor, counter: int | tf.Tensor, shape: list[int]) -> tf.Tensor:
    """Draws points uniform in the L1 unit ball of `shape`, as `hashed_uniform` draws."""
    rest = hashed_uniform(seeds[:, ::-1], counter, [1] * len(shape))  # as `hashed_unit_ball`
    return _l1_ball(hashed_uniform(seeds, counter, shape), rest)


def _mix(x: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
        x = x * tf.constant(factor, tf.uint32)
    return x
