"""Chosen images of a data set, such as RobustBench's 5,000 of ImageNet."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sat_tf.data import crops
from sat_tf.data.folder import Folder


class Selected:
    """The images at some positions of a data set, in the data set's order.

    Args:
      dataset: batches `(images, labels)`.
      positions: numbers from 0, each once.
    """

    def __init__(self, dataset: Any, positions: Sequence[int]):
        self.dataset, self.wanted = dataset, np.sort(np.asarray(positions, np.int64))

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        start = 0
        for images, labels in self.dataset:
            images, labels = np.asarray(images), np.asarray(labels)
            here = self.wanted[(self.wanted >= start) & (self.wanted < start + len(labels))] - start
            start += len(labels)
            if len(here):
                yield images[here], labels[here]
        if len(self.wanted) and self.wanted[-1] >= start:
            raise ValueError(f"image {self.wanted[-1]} is asked for; the data set has {start}")


def positions(path: str, dataset: str, split: str, max_pixels: int = crops.MAX_PIXELS) -> list[int]:
    """Reads which images are wanted from a text file, one a line.

    Args:
      path: of the file. A line is a number from 0, or for `folder:` sets the end of an image's
        path, such as `n01440764/ILSVRC2012_val_00000293.JPEG`.
      dataset: name of the data set.
      split: part of it.
      max_pixels: as in `data.load`.

    Raises:
      ValueError: no such file, an image that is not there, one that is given twice, or names for
        a set that has none.
    """
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the list of images {path} cannot be read: {error}") from error
    if not lines:
        raise ValueError(f"the list of images {path} is empty; write one image a line")
    if all(line.isdigit() for line in lines):
        found = [int(line) for line in lines]
    elif dataset.startswith("folder:"):
        found = _by_name(
            lines, Folder(dataset.removeprefix("folder:"), None, max_pixels).files(split)
        )
    else:
        raise ValueError(
            f"{path} names images, and {dataset!r} has no names; give numbers from 0, or the same "
            "images as folder:PATH"
        )
    if len(set(found)) < len(found):
        raise ValueError(f"the list of images {path} holds an image twice")
    return found


def _by_name(lines, files):
    depth = max(line.count("/") for line in lines) + 1
    by_name = {"/".join(pathlib.Path(file).parts[-depth:]): n for n, file in enumerate(files)}
    missing = [line for line in lines if line not in by_name]
    if missing:
        raise ValueError(f"{len(missing)} images are not in the folder: {missing[0]} …")
    return [by_name[line] for line in lines]
