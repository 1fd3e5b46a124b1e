"""Keeps every slot of the batch filled with an image whose verdict is still open."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

State = dict[str, tf.Tensor]

# The host looks after this many steps at the latest, so that progress is seen and Ctrl-C heard.
CHUNK = 25
# Fraction of the slots that must be finished before the host stops to refill them.
REFILL = 0.125


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


class Verdict(NamedTuple):
    """What an attack did to one image.

    Attributes:
      index: the image's position in the data set.
      broken: whether the attack calls its image misclassified.
      steps: evaluations of the network until the image left its slot.
      image, adversarial: float32 [H, W, C] in pixels.
      label: int.
      extras: the attack's own entries of the state, this image's row of each.
    """

    index: int
    broken: bool
    steps: int
    image: np.ndarray
    adversarial: np.ndarray
    label: int
    extras: dict[str, np.ndarray]


class Packed:
    """Runs a stepped attack on a stream of images through a fixed number of slots.

    An image leaves its slot as soon as the attack has broken it or has done its steps; the next
    waiting image takes the slot. Steps are counted per image, shapes never change, and each of the
    two graphs (fill the slots, advance them) is traced once. Memory depends on the number of slots
    only.

    An image's noise comes from its own seed and its state is touched by nothing but its own row,
    so its verdict does not depend on its neighbours, its slot or its turn.

    Args:
      network: maps pixels to logits [N, C] and takes `training`.
      attack: a stepped attack: `name`, `num_steps`, `start(images, labels, seeds, logits)` and
        `step(network, state)` on a dict of tensors [N, ...] with at least the keys "step",
        "broken", "adversarial", "images", "labels" and "seeds".
      num_slots: images evaluated at once.
      extras: names of further entries of the state to hand out with each verdict.
    """

    def __init__(
        self, network: Callable[..., Any], attack: Any, num_slots: int, extras: tuple = ()
    ):
        if num_slots < 1:
            raise ValueError(f"num_slots is {num_slots}; give at least 1 image at a time")
        self.attack, self.network, self.num_slots = attack, network, num_slots
        self.extras = extras
        self.steps_run = 0  # evaluations of the full batch
        self.image_steps = 0  # evaluations an image needed, summed over the images
        self._fill = tf.function(self._fill_slots, autograph=False)
        self._first_fill = tf.function(attack.start, autograph=False)
        self._advance = tf.function(self._advance_slots, autograph=False)

    def run(self, waiting: Iterable[Waiting]) -> Iterator[Verdict]:
        """Yields the verdict of every waiting image, in the order in which they fall."""
        waiting, slots, state = iter(waiting), _Slots(self.num_slots), None
        while True:
            entering = slots.fill(waiting)
            if not slots.occupied.any():
                return
            if entering.any():
                fresh = slots.tensors()
                if state is None:
                    state = self._first_fill(*fresh)
                else:
                    state = self._fill(state, tf.constant(entering), *fresh)
            state, finished, steps = self._advance(
                state, tf.constant(slots.occupied), tf.constant(self._enough(slots))
            )
            self.steps_run += int(steps)
            yield from self._verdicts(slots, state, finished.numpy())

    def _enough(self, slots):
        if slots.exhausted:
            return int(slots.occupied.sum())
        return max(1, int(self.num_slots * REFILL))

    def _fill_slots(self, state, entering, images, labels, seeds, logits):
        fresh = self.attack.start(images, labels, seeds, logits)
        return _select(entering, fresh, state)

    def _advance_slots(self, state, occupied, enough):
        def finished(state):
            return occupied & (state["broken"] | (state["step"] >= self.attack.num_steps))

        def proceed(state, steps):
            del steps
            return tf.reduce_sum(tf.cast(finished(state), tf.int32)) < enough

        def body(state, steps):
            # A finished image waits in its slot untouched until the host comes by.
            return _select(finished(state), state, self.attack.step(self.network, state)), steps + 1

        state, steps = tf.while_loop(
            proceed, body, (state, tf.constant(0)), parallel_iterations=1, maximum_iterations=CHUNK
        )
        return state, finished(state), steps

    def _verdicts(self, slots, state, finished):
        positions = np.flatnonzero(finished)
        if not len(positions):
            return
        names = ("broken", "step", "adversarial", *self.extras)
        rows = {name: tf.gather(state[name], positions).numpy() for name in names}
        self.image_steps += int(rows["step"].sum())
        for row, slot in enumerate(positions):
            yield Verdict(
                index=int(slots.index[slot]),
                broken=bool(rows["broken"][row]),
                steps=int(rows["step"][row]),
                image=slots.images[slot].copy(),
                adversarial=rows["adversarial"][row],
                label=int(slots.labels[slot]),
                extras={name: rows[name][row] for name in self.extras},
            )
        slots.occupied[positions] = False


class _Slots:
    """The host's side of the slots: which image sits where."""

    def __init__(self, num_slots):
        self.num_slots = num_slots
        self.occupied = np.zeros(num_slots, bool)
        self.index = np.full(num_slots, -1, np.int64)
        self.labels = np.zeros(num_slots, np.int32)
        self.seeds = np.zeros((num_slots, 2), np.int32)
        self.images = self.logits = None
        self.exhausted = False

    def fill(self, waiting):
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

    def tensors(self):
        return tuple(map(tf.constant, (self.images, self.labels, self.seeds, self.logits)))


def _select(mask, yes, no):
    """Takes the rows of `yes` where the mask is true, else those of `no`, entry by entry."""
    return {
        name: tf.where(tf.reshape(mask, [-1] + [1] * (no[name].shape.rank - 1)), yes[name], value)
        for name, value in no.items()
    }
