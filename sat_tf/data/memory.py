"""Sets small enough to be held decoded in memory: a batch is one gather."""

import dataclasses

import numpy as np
import tensorflow as tf

from sat_tf.data import augment, crops, order
from sat_tf.data.info import Request


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Decoded images, held once for all the splits that are cut from them.

    Attributes:
      images: uint8 tensor [N, H, W, C] on the host.
      labels: int32 tensor [N].
    """

    images: tf.Tensor
    labels: tf.Tensor

    @classmethod
    def of(cls, images: np.ndarray, labels: np.ndarray) -> "Arrays":
        # The host's memory: a data set must not sit on an accelerator.
        with tf.device("CPU:0"):
            return cls(tf.constant(images, tf.uint8), tf.constant(labels, tf.int32))


def training(arrays: Arrays, indices: np.ndarray, name: str, request: Request) -> tf.data.Dataset:
    """Yields the batches of steps `request.start_step`, ... of an endless stream.

    Args:
      arrays: where the examples lie.
      indices: int64 [n], which of them are trained on.
      name: the augmentation, one that works on batches.
      request: what was asked for.
    """
    augment.check_augment(name, augment.OF_BATCHES)
    crops.check_resize(request.eval_resize or "whole", ("whole",))
    indices = tf.constant(indices, tf.int64)

    def make(step: tf.Tensor, places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        chosen = tf.gather(indices, places)
        images = tf.gather(arrays.images, chosen)
        seed = augment.seed_of(request.seed, step)
        images = augment.augment_batch(images, name, seed, request)
        return to_pixels(images, request.image_size), tf.gather(arrays.labels, chosen)

    return order.batches(len(indices), request).map(make, num_parallel_calls=2)


def evaluation(arrays: Arrays, indices: np.ndarray, request: Request) -> tf.data.Dataset:
    """Yields every image of `indices` once, in that order; the last batch may be smaller."""
    crops.check_resize(request.eval_resize or "whole", ("whole",))

    def make(chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = to_pixels(tf.gather(arrays.images, chosen), request.image_size)
        return images, tf.gather(arrays.labels, chosen)

    chosen = tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int64))
    chosen = order.own(chosen, len(indices), request)
    return chosen.batch(len(request.own)).map(make, num_parallel_calls=2)


def to_pixels(images: tf.Tensor, image_size: int | None) -> tf.Tensor:
    """Casts uint8 images to float32 pixels and resizes them to another side by `crops.bilinear`."""
    if image_size is None or images.shape[1:3] == (image_size, image_size):
        return tf.cast(images, tf.float32)
    return crops.bilinear(images, image_size, image_size)
