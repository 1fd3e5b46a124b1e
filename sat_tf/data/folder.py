"""A folder of class folders: folder/<class>/<image>.jpg, or the same below train/ and test/."""

import collections
import dataclasses
import functools
import multiprocessing.pool
import os
import pathlib

import numpy as np
import tensorflow as tf
from absl import logging

from sat_tf.data import crops, encoded, order
from sat_tf.data.info import Info, Request, check_validation_examples, cut_evenly

_SUFFIXES = (".jpg", ".jpeg", ".png")
_TEST_NAMES = ("test", "val", "validation")

_MOST_CORRUPT = 0.01
_MOST_NAMED = 10


class Folder:
    """Images below class folders; the sorted names of the class folders are the classes.

    Parts: `train/` and the first of `test/`, `val/`, `validation/` that is there; with both `test/`
    and one of the others that one is the validation part. What has no folder of its own is cut from
    the training images, evenly from the sorted list of files and so from every class: a tenth for
    "test", and "validation" as everywhere.

    Every image is decoded once when the folder is first opened (a JPEG at an eighth of its size:
    some 2 ms an image and core), so that a corrupt one is known before the first step and the
    number of steps is right.
    """

    has_lanes = False  # every file is read by itself

    def __init__(
        self,
        directory: str,
        validation_examples: int | None = None,
        max_pixels: int = crops.MAX_PIXELS,
    ):
        root = pathlib.Path(directory).expanduser().resolve()
        if not root.is_dir():
            raise ValueError(f"no directory {root}; give folder:<directory of class folders>")
        own = [root / name for name in _TEST_NAMES if (root / name).is_dir()]
        has_parts = (root / "train").is_dir()
        train = scan(root / "train" if has_parts else root, max_pixels)
        parts = {}
        indices = np.arange(len(train.files))
        if has_parts and own:
            parts["test"] = of_classes(scan(own[0], max_pixels), train.class_names, own[0])
        else:
            indices, test = cut_evenly(indices, len(indices) // 10)
            parts["test"] = (train.files[test], train.labels[test])
        if has_parts and len(own) > 1 and own[0].name == "test" and validation_examples is None:
            parts["validation"] = of_classes(scan(own[1], max_pixels), train.class_names, own[1])
        else:
            size = check_validation_examples(validation_examples, len(indices))
            indices, validation = cut_evenly(indices, size)
            parts["validation"] = (train.files[validation], train.labels[validation])
        parts["train"] = (train.files[indices], train.labels[indices])
        self._parts = parts
        self.info = Info(
            f"folder:{directory}",
            train.class_names,
            (*train.size, 3),
            {split: len(files) for split, (files, _) in parts.items()},
        )

    @property
    def default_augment(self) -> str:
        return encoded.default_augment(self.info)

    def files(self, split: str) -> list[str]:
        """Returns the paths of a part's images, in the order in which `load` reads them."""
        return self._parts[split][0].tolist()

    def load(self, split: str, request: Request) -> tf.data.Dataset:
        """Reads a part, "train", "validation" or "test"."""
        names, labels = self._parts[split]
        if request.training:
            name = request.augment or self.default_augment
            return encoded.training(training(names, labels, request), self.info, name, request)
        examples = tf.data.Dataset.from_tensor_slices((_encoded_names(names), labels))
        examples = order.own(examples, len(names), request).map(
            lambda file, label: (tf.io.read_file(file), label), tf.data.AUTOTUNE
        )
        return encoded.evaluation(examples, self.info, request)


def training(names: np.ndarray, labels: np.ndarray, request: Request) -> tf.data.Dataset:
    """Yields (place, encoded image, label) of files endlessly, as `encoded.training` takes them."""
    files, labels = tf.constant(_encoded_names(names)), tf.constant(labels)

    def read(place: tf.Tensor, index: tf.Tensor):
        return place, tf.io.read_file(files[index]), labels[index]

    return order.examples(len(names), request).map(read, tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True)
class Scan:
    """The images of a folder that decode: paths and labels in sorted order, and their one size."""

    class_names: tuple[str, ...]
    files: np.ndarray
    labels: np.ndarray
    size: tuple[int | None, int | None]


@functools.cache
def scan(directory: pathlib.Path, max_pixels: int = crops.MAX_PIXELS) -> Scan:
    """Lists the images of a folder of class folders, leaving out those that do not decode.

    Raises:
      ValueError: no class folder, a class without an image, classes that share a folder, more than
        1 % corrupt images, or one that claims more than `max_pixels` pixels.
    """
    class_names = sorted(d.name for d in directory.iterdir() if d.is_dir() and d.name[0] != ".")
    _check_class_folders(directory, class_names)
    listed, others = [], collections.Counter()
    for label, name in enumerate(class_names):
        for file in sorted((directory / name).rglob("*")):
            if file.name[0] == "." or file.is_dir():
                continue
            if file.suffix.lower() in _SUFFIXES:
                listed.append((str(file), label))
            else:
                others[file.suffix or "no ending"] += 1
    if others:
        kinds = ", ".join(f"{number} {suffix}" for suffix, number in sorted(others.items()))
        logging.warning("%s: left out, as no %s: %s", directory, " or ".join(_SUFFIXES), kinds)
    with multiprocessing.pool.ThreadPool(os.cpu_count()) as pool:
        sizes = pool.map(lambda listing: _size(listing[0], max_pixels), listed)
    corrupt = [file for (file, _), size in zip(listed, sizes, strict=True) if size is None]
    _report(directory, corrupt, len(listed))
    good = [example for example, size in zip(listed, sizes, strict=True) if size is not None]
    labels = np.array([label for _, label in good], np.int32)
    empty = [class_names[label] for label in set(range(len(class_names))) - set(labels.tolist())]
    if empty or not class_names:
        raise ValueError(
            f"expected folders of {', '.join(_SUFFIXES)} images, one a class, in {directory}; "
            + (f"no image in: {', '.join(sorted(empty))}" if empty else "there is no folder")
        )
    one = set(sizes) - {None}
    return Scan(
        tuple(class_names),
        np.array([file for file, _ in good]),
        labels,
        one.pop() if len(one) == 1 else (None, None),
    )


def _check_class_folders(directory: pathlib.Path, class_names: list[str]) -> None:
    """Refuses names that are no text, and links by which an image would be in two classes."""
    root, places = directory.resolve(), {}
    for name in class_names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the class folder {name!r} in {directory} is not UTF-8") from None
        place = (directory / name).resolve()
        if place == root or place in root.parents:
            raise ValueError(f"the class folder {directory / name} holds itself; remove the link")
        places.setdefault(place, []).append(name)
    for place, names in places.items():
        names = names + [name for parent in place.parents for name in places.get(parent, ())]
        if len(names) > 1:
            raise ValueError(
                f"the class folders {' and '.join(names[:2])} in {directory} are one, or one lies "
                "in the other: images would be in two classes; remove the link"
            )


def _size(file: str, max_pixels: int) -> tuple[int, int] | None:
    """Returns (height, width) of an image, or None where it does not decode.

    Raises:
      ValueError: its header claims more than `max_pixels` pixels.
    """
    if not os.path.isfile(file):  # to open a FIFO would wait for a writer
        return None
    try:
        image = tf.io.read_file(os.fsencode(file))
        height, width = crops.claimed_size(image).numpy().tolist()
        if height * width <= max_pixels:
            # An eighth: every byte of a JPEG is still read, most of the arithmetic is not done.
            tf.io.decode_jpeg(image, channels=3, ratio=8)
            return height, width
    except tf.errors.OpError:
        return None
    raise ValueError(
        f"{file} claims to be {height:,} x {width:,} pixels, more than --max_pixels={max_pixels}; "
        "make it smaller, delete it, or raise --max_pixels"
    )


def _report(directory: pathlib.Path, corrupt: list[str], num_images: int) -> None:
    """Names the corrupt images; stops where they are more than 1 %."""
    if not corrupt:
        return
    named = ", ".join(corrupt[:_MOST_NAMED])
    if len(corrupt) > _MOST_NAMED:
        named += f" and {len(corrupt) - _MOST_NAMED} more"
    found = (
        f"{len(corrupt)} of the {num_images} images in {directory} are corrupt, or neither JPEG "
        f"nor PNG: {named}"
    )
    if len(corrupt) > _MOST_CORRUPT * num_images:
        raise ValueError(f"{found}; at most 1 % may be: replace or delete them")
    logging.warning("%s; left out", found)


def of_classes(
    part: Scan, class_names: tuple[str, ...], directory: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the files of another part, labelled as the training part is."""
    unknown = sorted(set(part.class_names) - set(class_names))
    if unknown:
        raise ValueError(f"{directory} has classes that are not in train: {', '.join(unknown)}")
    labels = np.array([class_names.index(name) for name in part.class_names], np.int32)
    return part.files, labels[part.labels]


def _encoded_names(names: np.ndarray) -> list[bytes]:
    """Returns names as the file system has them: one need not be UTF-8."""
    return [os.fsencode(name) for name in names]
