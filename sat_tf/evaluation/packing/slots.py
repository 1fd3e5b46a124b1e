"""The slots of a packed attack as the host sees them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


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

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Returns images, labels, seeds and logits, a row a slot."""
        return self.images, self.labels, self.seeds, self.logits
