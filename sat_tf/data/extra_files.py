"""The kinds of extra images: arrays of an npz file, records, and a folder of pictures."""

import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from sat_tf.data import archive, augment, encoded, folder, memory, order
from sat_tf.data.info import Info, Request

_KEYS = (("image", "label"), ("images", "labels"))
_ROWS = 2**16  # of labels that are looked at together
_TOLERANCE = 1e-3  # of the sum of a row of probabilities
_CRC = 4  # bytes of the checksums in a TFRecord file, after the length and after the record


class Pixels:
    """Images of an npz file as arrays, which stay on the disk until a batch asks for them."""

    def __init__(self, path: pathlib.Path, info: Info):
        names = [name for pair in _KEYS for name in pair]
        arrays = archive.arrays(str(path), names)
        pair = next((pair for pair in _KEYS if set(pair) <= set(arrays)), None)
        if pair is None:
            raise ValueError(f"{path} has {', '.join(arrays)}; expected image and label")
        self._images, labels = (arrays[name] for name in pair)
        wanted, shape = info.image_shape, self._images.shape
        if (
            self._images.dtype != np.uint8
            or len(shape) != 4
            or any(side not in (None, one) for side, one in zip(wanted, shape[1:], strict=True))
        ):
            raise ValueError(
                f"{path}: {pair[0]} is {self._images.dtype} {list(shape)}; expected uint8 [M, "
                f"{', '.join('any' if side is None else str(side) for side in wanted)}], the size "
                f"of {info.name}"
            )
        if labels.shape[:1] != shape[:1]:
            raise ValueError(f"{path}: {pair[1]} is {list(labels.shape)} for {shape[0]} images")
        self._labels, self.soft = _checked(labels, info, f"{path}: {pair[1]}")
        self.num_examples, self._size = shape[0], info.image_size

    def training(self, name: str, request: Request) -> tf.data.Dataset:
        """Makes batches, as `memory.training`."""
        augment.check_augment(name, augment.OF_BATCHES)
        shapes = self._images.shape[1:], self._labels.shape[1:]
        kinds = [tf.uint8, tf.float32 if self.soft else tf.int32]

        def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            labels = self._labels[indices]
            return self._images[indices], labels.astype(np.float32 if self.soft else np.int32)

        def make(step: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            images, labels = (
                tf.ensure_shape(part, [len(request.own), *shape])
                for part, shape in zip(
                    tf.numpy_function(read, [indices], kinds, stateful=False), shapes, strict=True
                )
            )
            seed = augment.seed_of(request.seed, step)
            images = augment.augment_batch(images, name, seed, request)
            return memory.to_pixels(images, request.image_size or self._size), labels

        return order.batches(self.num_examples, request).map(make, num_parallel_calls=2)


class Examples:
    """Pictures of TFRecord files in a row, which are found by their offsets."""

    def __init__(self, paths: Sequence[pathlib.Path], info: Info):
        self._info = info
        found = {path: _index(path, info.num_classes) for path in paths}
        found = {path: index for path, index in found.items() if index is not None}
        if not found:
            raise ValueError(f"{paths[0]} holds no record; expected pictures with labels")
        self._paths, indices = list(found), list(found.values())
        soft = [
            _checked(labels, info, f"{path}: label")[1] for path, (_, _, labels) in found.items()
        ]
        if len(set(soft)) > 1:
            raise ValueError(
                f"{self._paths[soft.index(True)]} has a float for each class as label, and "
                f"{self._paths[soft.index(False)]} an integer; write all in one way"
            )
        self.soft = soft[0]
        self._starts, self._sizes = (
            np.concatenate(column) for column in list(zip(*indices, strict=True))[:2]
        )
        self._files = np.repeat(np.arange(len(indices)), [len(sizes) for _, sizes, _ in indices])
        self.num_examples = len(self._starts)

    def training(self, name: str, request: Request) -> tf.data.Dataset:
        """Makes batches, as `encoded.training`."""

        def record(index: np.ndarray) -> np.ndarray:
            # Opened anew, as there may be more files than a process may hold open.
            with open(self._paths[self._files[index]], "rb") as file:
                file.seek(self._starts[index])
                return np.array(file.read(self._sizes[index]), object)

        def read(place: tf.Tensor, index: tf.Tensor):
            found = tf.numpy_function(record, [index], tf.string, stateful=False)
            found = tf.ensure_shape(found, [])
            return place, *_parsed(found, self._info.num_classes if self.soft else None)

        examples = order.examples(self.num_examples, request).map(read, tf.data.AUTOTUNE)
        return encoded.training(examples, self._info, name, request)


class Pictures:
    """Pictures of a folder of class folders."""

    soft = False

    def __init__(self, directory: pathlib.Path, info: Info, max_pixels: int):
        found = folder.scan(directory, max_pixels)
        self._files, self._labels = folder.of_classes(found, info.class_names, directory)
        self._info, self.num_examples = info, len(self._files)

    def training(self, name: str, request: Request) -> tf.data.Dataset:
        """Makes batches, as `encoded.training`."""
        examples = folder.training(self._files, self._labels, request)
        return encoded.training(examples, self._info, name, request)


def _checked(labels: np.ndarray, info: Info, where: str) -> tuple[np.ndarray, bool]:
    """Returns labels, and whether they are soft, after a look at every one.

    Raises:
      ValueError: neither integers [M] nor floats [M, classes]; labels beyond the classes; rows that
        are no probabilities.
    """
    classes = info.num_classes
    soft = labels.dtype.kind == "f" and labels.shape[1:] == (classes,)
    if not soft and (labels.dtype.kind not in "iu" or labels.ndim != 1):
        raise ValueError(
            f"{where} is {labels.dtype} {list(labels.shape)}; expected integers [M] or floats [M, "
            f"{classes}], a probability for each class of {info.name}"
        )
    for start in range(0, len(labels), _ROWS):
        some = np.asarray(labels[start : start + _ROWS])
        if soft:
            good = (some >= 0).all(1) & (np.abs(some.sum(1, np.float64) - 1) <= _TOLERANCE)
        else:
            good = (some >= 0) & (some < classes)
        if not good.all():
            bad = int(np.argmin(good))
            raise ValueError(
                f"{where} of image {start + bad} is {some[bad].tolist()}; expected "
                + ("probabilities that sum to 1" if soft else f"0 to {classes - 1} of {info.name}")
            )
    return labels, soft


def _parsed(record: tf.Tensor, num_classes: int | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes picture and label out of a `tf.train.Example`; soft ones have `num_classes` floats."""
    label = tf.io.FixedLenFeature([], tf.int64)
    if num_classes is not None:
        label = tf.io.FixedLenFeature([num_classes], tf.float32)
    found = tf.io.parse_single_example(
        record, {"image": tf.io.FixedLenFeature([], tf.string), "label": label}
    )
    return found["image"], found["label"]


@functools.cache
def _index(
    path: pathlib.Path, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Reads a TFRecord file once: where its records begin, their sizes, and the labels.

    None of a file that holds no record, as one of several may.

    Raises:
      ValueError: no TFRecord file, a damaged one, or records without picture and label.
    """
    failures = []
    for classes in (None, num_classes):

        def row(record: tf.Tensor, classes: int | None = classes) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.strings.length(record), _parsed(record, classes)[1]

        records = tf.data.TFRecordDataset(os.fsencode(path)).map(row).batch(_ROWS)
        try:
            columns = [[part.numpy() for part in some] for some in records]
        except tf.errors.OpError as error:
            failures.append(" ".join(error.message.split())[:200])
            continue
        if not columns:
            return None
        sizes, labels = map(np.concatenate, zip(*columns, strict=True))
        ends = np.cumsum(sizes.astype(np.int64) + 8 + 2 * _CRC)
        return ends - _CRC - sizes, sizes, labels
    raise ValueError(
        f"{path} cannot be read as records of tf.train.Example with image (bytes of a JPEG or PNG) "
        f"and label (one int64, or {num_classes} floats): {failures[0]}"
    )
