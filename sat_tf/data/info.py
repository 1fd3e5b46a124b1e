"""What a data set is, and what is asked of it."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sat_tf.data import crops

SPLITS = ("train", "validation", "test")

# More than this adds hours of attacks and hardly any precision to the choice of a checkpoint.
_MOST_VALIDATION_EXAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Info:
    """Describes an image classification set as the project sees it.

    Attributes:
      name: the name it was asked for by.
      class_names: one string a class, in the order of the labels.
      image_shape: (height, width, channels) as stored; height and width are None where they vary.
      num_examples: how many images each of "train", "validation" and "test" holds. "train" is what
        is trained on: the validation part is already taken out of it.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]
    num_examples: Mapping[str, int]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_channels(self) -> int:
        return self.image_shape[2]

    @property
    def image_size(self) -> int | None:
        """Side of the stored images in pixels; None where they vary or are not square."""
        height, width, _ = self.image_shape
        return height if height == width else None

    def check_classes(
        self, num_classes: int | None, class_names: Sequence[str] | None = None
    ) -> None:
        """Refuses a network of other classes: another number, or names or an order of its own.

        Args:
          num_classes: of the network; None where it is not known.
          class_names: of the network, in the order of its logits; None where they are not known.

        Raises:
          ValueError: the classes differ.
        """
        mend = "take the data it was made for, or say which class is which (evaluate: --classes)"
        if num_classes not in (None, self.num_classes):
            raise ValueError(
                f"the network has {num_classes} classes and {self.name} has {self.num_classes} "
                f"({_some(self.class_names)}); {mend}"
            )
        if class_names is None or tuple(class_names) == self.class_names:
            return
        if len(class_names) != self.num_classes:
            raise ValueError(
                f"the network has the names of {len(class_names)} classes and {self.name} has "
                f"{self.num_classes} classes; {mend}"
            )
        pairs = enumerate(zip(class_names, self.class_names, strict=True))
        number, (own, other) = next((k, pair) for k, pair in pairs if pair[0] != pair[1])
        raise ValueError(
            f"class {number} is {own!r} to the network and {other!r} in {self.name}; {mend}"
        )

    def steps_per_epoch(self, batch_size: int) -> int:
        """Counts the full batches of an epoch: `floor(num_examples["train"] / batch_size)`.

        Raises:
          ValueError: not one batch can be filled, or there is no training image.
        """
        if not self.num_examples["train"]:
            raise ValueError(
                f"{self.name} has no training images, it is there to be evaluated on: "
                f"python -m sat_tf.evaluate --workdir=RUN --dataset={self.name}"
            )
        steps = self.num_examples["train"] // batch_size if batch_size > 0 else 0
        if not steps:
            raise ValueError(
                f"batch size {batch_size} cannot be filled from the {self.num_examples['train']} "
                f"training images of {self.name}; give 1 to {self.num_examples['train']}"
            )
        return steps


class Shard(NamedTuple):
    """What one of several workers reads of every batch: one of equal parts, in their order.

    Attributes:
      index: which part, from 0.
      count: how many parts there are.
      replicas: elements in a row that the part comes in, one for each replica of the worker.
    """

    index: int = 0
    count: int = 1
    replicas: int = 1

    def places(self, size: int) -> range:
        """Returns the part's places in a batch of so many images, which need not divide."""
        borders = self._borders(size)
        return range(borders[0], borders[-1])

    def sizes(self, size: int) -> list[int]:
        """Returns how many of the images of such a batch each of its replicas gets."""
        borders = self._borders(size)
        return [stop - start for start, stop in itertools.pairwise(borders)]

    def _borders(self, size):
        # Any two parts differ by one image at most.
        pieces, first = self.count * self.replicas, self.index * self.replicas
        return [-(-piece * size // pieces) for piece in range(first, first + self.replicas + 1)]


@dataclasses.dataclass(frozen=True)
class Request:
    """What `load` was asked for, beside the name and the split; see there."""

    batch_size: int
    image_size: int | None = None
    training: bool = False
    seed: int = 0
    start_step: int = 0
    augment: str | None = None
    eval_resize: str | None = None
    max_pixels: int = crops.MAX_PIXELS
    shard: Shard = Shard()
    lanes: int = 1
    part: range | None = None  # of a batch, where it is not the shard's

    @property
    def own(self) -> range:
        """The places of a batch that are read."""
        return self.shard.places(self.batch_size) if self.part is None else self.part


def _some(names):
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def default_validation_examples(num_train: int) -> int:
    """Sizes the validation part of a training split.

    2 % of the split, but at least 1,000 images, at most a tenth of the split or 10,000 images:
    digits 143, CIFAR 1,000, ImageNet 10,000.
    """
    return min(num_train // 10, max(1_000, num_train // 50), _MOST_VALIDATION_EXAMPLES)


def check_validation_examples(requested: int | None, num_train: int) -> int:
    """Returns the size of the validation part, the default where none was requested.

    Raises:
      ValueError: the part is negative or leaves nothing to train on.
    """
    size = default_validation_examples(num_train) if requested is None else requested
    if not 0 <= size < num_train:
        raise ValueError(
            f"validation_examples={size} of a training split of {num_train} images; "
            f"give 0 to {num_train - 1}"
        )
    return size


def cut_evenly(indices: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Takes `size` evenly spread entries out of `indices`: returns (the others, those taken).

    Of examples sorted by class this takes the same share of every class.
    """
    places = (np.arange(size) * 2 + 1) * len(indices) // (2 * max(size, 1))
    return np.delete(indices, places), indices[places]
