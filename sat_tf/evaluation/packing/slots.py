"""The slots of a packed attack as the host sees them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Of a batch that is a multiple of it, every row comes out of a CPU's elementwise operations with
# the same bits: they take up to 16 floats at a time, and what is left over one by one, otherwise.
PACKET = 16


class Waiting(NamedTuple):
    """An image on its way into a slot.

    Attributes:
      index: its position in the data set, which alone identifies it.
      image: float32 [H, W, C] in pixels.
      label: int.
      seed: int32 [2], the image's own.
      logits: float32 [C], the network's on the clean image.
    """

    index: int
    image: np.ndarray
    label: int
    seed: np.ndarray
    logits: np.ndarray


class Slots:
    """The host's side of the slots: which image sits where.

    Args:
      num_slots: how many there are.
    """

    def __init__(self, num_slots: int):
        self.num_slots = num_slots
        self.occupied = np.zeros(num_slots, bool)
        self.index = np.full(num_slots, -1, np.int64)
        self.labels = np.zeros(num_slots, np.int32)
        self.seeds = np.zeros((num_slots, 2), np.int32)
        self.images = self.logits = None
        self.exhausted = False

    def fill(self, waiting: Iterator[Waiting]) -> np.ndarray:
        """Seats waiting images in the free slots; returns the mask of the slots that changed."""
        entering = np.zeros(self.num_slots, bool)
        if self.exhausted:
            return entering
        for slot in np.flatnonzero(~self.occupied):
            one = next(waiting, None)
            if one is None:
                self.exhausted = True
                break
            if self.images is None:
                self.images = np.zeros((self.num_slots, *one.image.shape), np.float32)
                self.logits = np.zeros((self.num_slots, *one.logits.shape), np.float32)
            self.index[slot], self.labels[slot], self.seeds[slot] = one.index, one.label, one.seed
            self.images[slot], self.logits[slot] = one.image, one.logits
            entering[slot] = True
        self.occupied |= entering
        return entering

    def shrink(self, size: int) -> np.ndarray:
        """Moves all images into that many slots; returns the old slot of each new one."""
        kept = np.argsort(~self.occupied, kind="stable")[:size]
        self.num_slots = size
        self.occupied, self.index = self.occupied[kept], self.index[kept]
        self.labels, self.seeds = self.labels[kept], self.seeds[kept]
        self.images, self.logits = self.images[kept], self.logits[kept]
        return kept

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Returns images, labels, seeds and logits, a row a slot."""
        return self.images, self.labels, self.seeds, self.logits


def even_slots(
    num_images: int, at_most: int, strategy: tf.distribute.Strategy | None = None
) -> int:
    """Returns how many slots some images fill evenly, at most so many.

    Images that stand take all steps, so they leave in rounds; 130 images in 128 slots would take a
    second round for two of them. 65 slots take two rounds as well, at half the cost. One device
    gets the next multiple of `PACKET`, or the one before where there may not be so many, if all
    rounds together then take at most a quarter more: only such slots become fewer as images fall.

    Args:
      num_images: on their way.
      at_most: slots that there may be.
      strategy: replicas that share the slots evenly, or None.
    """
    replicas = 1 if strategy is None else strategy.num_replicas_in_sync
    rounds = max(1, -(-num_images // at_most))
    slots = max(1, -(-num_images // rounds))
    if strategy is not None:
        return -(-slots // replicas) * replicas
    rounded = min(-(-slots // PACKET), at_most // PACKET) * PACKET
    fits = rounded and 4 * -(-num_images // rounded) * rounded <= 5 * num_images
    return rounded if fits else slots
