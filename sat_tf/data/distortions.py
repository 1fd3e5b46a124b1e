"""Random changes of single images beside crop and mirror, decided by (seed, place in the stream).

A distortion maps an image float32 [H, W, C] in [0, 255] and an integer seed [2] to such an image.
"""

import inspect
from collections.abc import Callable

import tensorflow as tf

from sat_tf import specs

Distortion = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Of the colours of ImageNet's images in [0, 1], red first (Krizhevsky et al. 2012, as published by
# their followers): eigenvalues, and eigenvectors in columns.
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
_ATTEMPTS = 64


def color_jitter(
    *, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4
) -> Distortion:
    """Scales brightness, contrast and saturation, each by its own factor `f` in [1 - s, 1 + s].

    In this order `x <- f x`, `x <- m + f (x - m)` with `m` the mean grey of the image, and
    `x <- g + f (x - g)` with `g` the pixel's grey; clipped to [0, 255] at the end.

    Source: the image loader of the paper's reference code (0.4 each). Deviation: there the order is
    random, and PCA lighting is one of its steps.

    Args:
      brightness: s of the first, from 0 to 1.
      contrast: of the second.
      saturation: of the third, which changes no grey image.
    """
    strengths = tf.constant([brightness, contrast, saturation], tf.float32)

    def distort(image, seed):
        factors = 1.0 + strengths * tf.random.stateless_uniform([3], seed, -1.0, 1.0)
        image = factors[0] * image
        mean = tf.reduce_mean(_grey(image))
        image = mean + factors[1] * (image - mean)
        grey = _grey(image)
        return tf.clip_by_value(grey + factors[2] * (image - grey), 0.0, 255.0)

    return distort


def pca_lighting(*, deviation: float = 0.1) -> Distortion:
    """Adds `255 P (a l)` to every pixel, `a` three normal numbers, clipped to [0, 255].

    `l` and the columns of `P` are the eigenvalues and -vectors of the colours of ImageNet.

    Source: Krizhevsky et al. 2012, section 4.1.

    Args:
      deviation: standard deviation of `a`, from 0 to 10.
    """
    matrix = 255.0 * tf.constant(_EIGENVECTORS) * tf.constant(_EIGENVALUES)

    def distort(image, seed):
        numbers = tf.random.stateless_normal([3], seed, stddev=deviation)
        return tf.clip_by_value(image + tf.linalg.matvec(matrix, numbers), 0.0, 255.0)

    return distort


def random_erasing(
    *,
    probability: float = 0.5,
    min_area: float = 0.02,
    max_area: float = 0.4,
    min_aspect: float = 0.3,
) -> Distortion:
    """Fills a rectangle with random pixels.

    Its area is uniform between two shares of the image's, height over width uniform between
    `min_aspect` and its inverse, its first corner uniform in the image; drawn again until it fits
    (64 times at most).

    Source: Zhong et al., arXiv 1708.04896, algorithm 1, with its settings.

    Args:
      probability: that an image gets one, from 0 to 1.
      min_area: share of the image, from 0 to 1.
      max_area: likewise.
      min_aspect: from 0.01 to 1.

    Raises:
      ValueError: min_area above max_area.
    """
    if min_area > max_area:
        raise ValueError(f"min_area={min_area} of random_erasing is above max_area={max_area}")

    def distort(image, seed):
        seeds = tf.random.experimental.stateless_split(seed, 3)
        numbers = tf.random.stateless_uniform([_ATTEMPTS, 4], seeds[0])
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        area = (min_area + (max_area - min_area) * numbers[:, 0]) * tf.reduce_prod(sides)
        aspect = min_aspect + (1 / min_aspect - min_aspect) * numbers[:, 1]
        size = tf.round(tf.sqrt(tf.stack([area * aspect, area / aspect], 1)))
        first = tf.floor(numbers[:, 2:] * sides)
        fits = tf.reduce_all(first + size <= sides, 1)
        one = tf.argmax(tf.cast(fits, tf.int32))
        rows, columns = (
            (tf.range(sides[k]) >= first[one, k]) & (tf.range(sides[k]) < (first + size)[one, k])
            for k in (0, 1)
        )
        drawn = tf.random.stateless_uniform([], seeds[1]) < probability
        inside = rows[:, None] & columns & drawn & fits[one]
        pixels = tf.random.stateless_uniform(tf.shape(image), seeds[2], 0, 256, tf.int32)
        return tf.where(inside[..., None], tf.cast(pixels, tf.float32), image)

    return distort


def rand_augment(*, num_ops: int = 2, factor: float = 0.5) -> Distortion:
    """Distorts by `keras.layers.RandAugment`, each image by operations of its own.

    Source: Cubuk et al., arXiv 1909.13719. Deviation: operations and strengths are Keras's (a
    rotation of up to `factor` times 360 degrees).

    Args:
      num_ops: operations in a row, from 1 to 10.
      factor: their strength, from 0 to 1.
    """
    import keras  # not needed by the other distortions

    if num_ops != int(num_ops):
        raise ValueError(f"num_ops={num_ops} of rand_augment; give a whole number from 1 to 10")
    layer = keras.layers.RandAugment((0, 255), int(num_ops), factor, dtype="float32")
    layer.build([None, None, None, 3])

    def distort(image, seed):
        # The layer draws from a state of its own, which is the seed while the scope lasts.
        with keras.StatelessScope([(layer.generator.state, seed)]):
            return tf.clip_by_value(layer(image, training=True), 0.0, 255.0)

    return distort


def _grey(image):
    if image.shape[-1] == 1:
        return image
    return tf.reduce_sum(image * tf.constant(_GREY), -1, keepdims=True)


DISTORTIONS = {
    "color_jitter": color_jitter,
    "pca_lighting": pca_lighting,
    "random_erasing": random_erasing,
    "rand_augment": rand_augment,
}
_OF_COLOURS = ("pca_lighting", "rand_augment")
_RANGES = {"num_ops": (1, 10), "deviation": (0, 10), "min_aspect": (0.01, 1)}  # others: 0 to 1


def make(spec: str, num_channels: int) -> Distortion:
    """Makes a distortion from its name and options, such as `color_jitter:contrast=0.2`.

    Raises:
      ValueError: an unknown distortion or option, a value out of range, colours of grey images.
    """
    name, options = specs.parse(spec)
    maker = DISTORTIONS[specs.one_of("augmentation after +", name, DISTORTIONS)]
    if name in _OF_COLOURS and num_channels != 3:
        raise ValueError(f"{name} is of colours, and the images have {num_channels} channel")
    for key, value in options.items():
        specs.one_of(f"option of {name}", key, inspect.signature(maker).parameters)
        low, high = _RANGES.get(key, (0, 1))
        if isinstance(value, bool | str) or not low <= value <= high:
            raise ValueError(f"{key}={value} of {name}; give a number from {low} to {high}")
    return maker(**options)
