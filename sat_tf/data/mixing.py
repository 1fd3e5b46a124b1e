"""MixUp and CutMix: two images of a batch become one, and so do their labels."""

import tensorflow as tf

from sat_tf.data import augment
from sat_tf.data.info import Request

_STREAM = 0x6D6978  # of seeds


def mixed(
    batches: tf.data.Dataset, request: Request, num_classes: int, mixup: float, cutmix: float
) -> tf.data.Dataset:
    """Mixes every image of a training stream with its neighbour; labels become float32 [N, C].

    MixUp: `x = l x_a + (1 - l) x_b`, `l` from Beta(alpha, alpha), one a batch.
    CutMix: `x = x_a` outside and `x_b` inside a box of sides `sqrt(1 - l)` times the image's around
    a uniform centre, cut off at the border, one a batch; then `l` is the share outside of it.
    Labels: `y = l y_a + (1 - l) y_b`. With both, each batch takes one or the other with probability
    1/2. The numbers depend on the seed and the step alone.

    Source: Zhang et al., arXiv 1710.09412, equation 1; Yun et al., arXiv 1905.04899, equations 1
    and 2. Deviation: images are paired with their neighbours, places 2k and 2k + 1 of the batch,
    and not by a permutation of their own. The order of the batch is a random one already, and so
    every worker has both images of its pairs.

    Args:
      batches: images float32 [N, H, W, C] in pixels, and labels int32 [N] or float32 [N, C].
      request: of the stream.
      num_classes: C.
      mixup: alpha of MixUp; 0 is none.
      cutmix: alpha of CutMix; 0 is none.

    Raises:
      ValueError: an alpha below 0 or not a number; a batch, or a worker's part of one, that is no
        multiple of 2.
    """
    for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
        if not 0 <= alpha < float("inf"):
            raise ValueError(
                f"--{name}={alpha:g}; give the alpha of a Beta distribution, 0 for none"
            )
    if not (mixup or cutmix):
        return batches
    pieces = 2 * request.shard.count
    if request.batch_size % pieces:
        raise ValueError(
            "--mixup and --cutmix mix neighbours, two by two, and a batch of "
            f"{request.batch_size} on {request.shard.count} workers leaves one alone; make it a "
            f"multiple of {pieces}"
        )

    def mix(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]):
        images, labels = batch
        if labels.shape.rank == 1:
            labels = tf.one_hot(labels, num_classes)
        seeds = tf.unstack(
            tf.random.experimental.stateless_split(augment.seed_of(request.seed, step, _STREAM), 3)
        )
        others = _neighbours(images)
        ways = [
            lambda: _mixup(images, others, _beta(mixup, seeds[0])),
            lambda: _cutmix(images, others, _beta(cutmix, seeds[0]), seeds[1]),
        ]
        if mixup and cutmix:
            images, share = tf.cond(tf.random.stateless_uniform([], seeds[2]) < 0.5, *ways)
        else:
            images, share = ways[0 if mixup else 1]()
        return images, share * labels + (1 - share) * _neighbours(labels)

    return batches.enumerate(request.start_step).map(mix, num_parallel_calls=2)


def _neighbours(values):
    pairs = tf.reshape(values, [-1, 2, *values.shape[1:]])
    return tf.ensure_shape(tf.reshape(pairs[:, ::-1], tf.shape(values)), values.shape)


def _beta(alpha, seed):
    # Of a small alpha both may underflow: then the other image alone is as likely as the image.
    numbers = tf.random.stateless_gamma([2], seed, tf.constant(alpha, tf.float64), dtype=tf.float64)
    return tf.cast(tf.math.divide_no_nan(numbers[0], tf.reduce_sum(numbers)), tf.float32)


def _mixup(images, others, share):
    # So written that two equal pixels stay what they are; rounding could leave the pixel range.
    return tf.clip_by_value(others + share * (images - others), 0.0, 255.0), share


def _cutmix(images, others, share, seed):
    sides = tf.cast(tf.shape(images)[1:3], tf.float32)
    half = tf.sqrt(1.0 - share) * sides / 2
    centre = sides * tf.random.stateless_uniform([2], seed)
    first = tf.maximum(tf.round(centre - half), 0.0)
    last = tf.minimum(tf.round(centre + half), sides)
    rows, columns = (
        (tf.range(sides[k]) >= first[k]) & (tf.range(sides[k]) < last[k]) for k in (0, 1)
    )
    inside = (rows[:, None] & columns)[..., None]
    outside = 1.0 - tf.reduce_prod(last - first) / tf.reduce_prod(sides)
    return tf.where(inside, others, images), outside
