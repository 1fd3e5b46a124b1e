"""The images of an evaluation, again and again in the same order, in batches of one shape."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from sat_tf.attacks import geometry, noise
from sat_tf.data.selection import Selected


class Batch(NamedTuple):
    """Images of neighbouring positions; rows from `count` on are padding.

    Attributes:
      indices: int64 [B], positions in the data set.
      images: float32 [B, H, W, C] in pixels.
      labels: int32 [B].
      count: how many rows are real.
    """

    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    count: int


class Stream:
    """Reads a data set in batches of one size, padded at the end, so that no image is dropped.

    Args:
      dataset: batches `(images, labels)` of any sizes that can be read more than once in one
        order, such as a `tf.data.Dataset`; or a pair of arrays.
      batch_size: images a batch.
      num_images: how many images to read from the beginning; None reads all.
    """

    def __init__(self, dataset: Any, batch_size: int, num_images: int | None = None):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1")
        if num_images is not None and num_images < 1:
            raise ValueError(f"num_images is {num_images}; give at least 1, or none for all")
        # Where the images stand in their data set; None if they begin it.
        self.positions = dataset.wanted[:num_images] if isinstance(dataset, Selected) else None
        if isinstance(dataset, tuple) and len(dataset) == 2:
            dataset = [dataset]
        self.dataset, self.batch_size, self.num_images = dataset, batch_size, num_images
        self.image_shape: tuple[int, ...] | None = None  # known once the first batch was read

    def __iter__(self) -> Iterator[Batch]:
        start = 0
        for images, labels in _regroup(self._limited(), self.batch_size):
            self.image_shape = images.shape[1:]
            count, missing = len(labels), self.batch_size - len(labels)
            indices = np.arange(start, start + self.batch_size)
            if missing:
                # Padding with real pixels: the network sees nothing that it does not know.
                images = np.concatenate([images, np.repeat(images[:1], missing, 0)])
                labels = np.concatenate([labels, np.repeat(labels[:1], missing, 0)])
            yield Batch(indices, images, labels, count)
            start += count

    def _limited(self) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        left = self.num_images
        for images, labels in self.dataset:
            images = np.asarray(images, np.float32)
            labels = np.asarray(labels, np.int32)
            _check(images, labels)
            if left is not None:
                images, labels = images[:left], labels[:left]
                left -= len(labels)
            yield images, labels
            if left == 0:
                return


def seeds_of(seed: int, indices: np.ndarray, noise_number: int) -> np.ndarray:
    """Derives the seed of every image from the seed, its position and which noise it is.

    Returns:
      int32 [N, 2]: equal for an image whatever batch it is read in.
    """
    return _derive(
        tf.constant([seed, noise_number], tf.int32), tf.constant(indices, tf.int32)
    ).numpy()


@tf.function(
    input_signature=[tf.TensorSpec([2], tf.int32), tf.TensorSpec([None], tf.int32)],
    autograph=False,
)
def _derive(seed, indices):
    return noise.fold_in(tf.tile(seed[None], [tf.shape(indices)[0], 1]), indices)


def _regroup(batches, size):
    images, labels, held = [], [], 0
    for more_images, more_labels in batches:
        images.append(more_images)
        labels.append(more_labels)
        held += len(more_labels)
        if held < size:
            continue
        all_images, all_labels = np.concatenate(images), np.concatenate(labels)
        whole = held - held % size
        for start in range(0, whole, size):
            yield all_images[start : start + size], all_labels[start : start + size]
        images, labels, held = [all_images[whole:]], [all_labels[whole:]], held - whole
    if held:
        yield np.concatenate(images), np.concatenate(labels)


def _check(images, labels):
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"a batch has images of shape {images.shape} and labels of shape {labels.shape}; "
            "expected [N, height, width, channels] and [N]"
        )
    if not len(images):
        return
    low, high = float(images.min()), float(images.max())
    if not (geometry.PIXEL_MIN <= low and high <= geometry.PIXEL_MAX):
        raise ValueError(
            f"images hold values from {low:.9g} to {high:.9g}; expected pixels in [0, 255]: undo "
            "the normalisation (the network normalises inside) and clip after resizing"
        )
