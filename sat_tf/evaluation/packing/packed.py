"""Keeps every slot of the batch filled with an image whose verdict is still open."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from sat_tf.attacks import stepped
from sat_tf.evaluation.packing.replicas import Replicas
from sat_tf.evaluation.packing.rungs import Rungs
from sat_tf.evaluation.packing.slots import PACKET, Slots, Waiting

# The host looks after this many steps at the latest, so that progress is seen and Ctrl-C heard.
CHUNK = 25
# Fraction of the slots that must be finished before the host stops to refill them.
REFILL = 0.125
# Least part of the slots that were asked for at which a smaller size, whose rows all have the same
# bits, is begun with; where there is none, the slots are as many as were asked for, and stay so.
ENOUGH = 0.75


class Verdict(NamedTuple):
    """What an attack did to one image.

    Attributes:
      index: the image's position in the data set.
      broken: whether the attack calls its image misclassified.
      steps: evaluations of the network until the image left its slot.
      image, adversarial: float32 [H, W, C] in pixels.
      label: int.
      entries: those of the attack's state that were asked for, this image's row of each.
      confirmed: whether a second evaluation agrees that it is broken; `Runner` fills it in.
      in_top5: whether the label is among the five largest logits there; `Runner` fills it in.
      distance: norm of the perturbation in pixels; `Runner` fills it in.
      slot_steps: evaluations paid for since the verdict before; `Runner` fills it in.
    """

    index: int
    broken: bool
    steps: int
    image: np.ndarray
    adversarial: np.ndarray
    label: int
    entries: dict[str, np.ndarray]
    confirmed: bool = False
    in_top5: bool = True
    distance: float = 0.0
    slot_steps: int = 0


class Packed:
    """Runs a stepped attack on a stream of images through the slots of a batch.

    An image leaves its slot as soon as the attack has broken it or has done its steps; the next
    waiting image takes the slot. When nobody waits any more, the images that are left move into
    fewer slots as soon as they fit. Only as many slots are used, from the beginning, as `Rungs`
    finds to give every row the same bits: the most of `num_slots`, if that is 3/4 of them or more,
    and then less. Otherwise slots stay as many, and so do those that are no multiple of `PACKET`
    and those of a strategy, whose shapes are static. Each of the graphs (fill all slots, refill
    some, advance) is traced once. Memory depends on the number of slots only.

    An image's noise comes from its own seed and its state is touched by nothing but its own row,
    so its verdict does not depend on its neighbours, its slot or its turn. What may remain is the
    order in which a kernel sums floats for batches of different sizes: within one engine only sizes
    are used between which there is no such difference, empty slots included.

    Args:
      network: maps pixels to logits [N, C] and takes `training`.
      attack: a `stepped.SteppedAttack`.
      num_slots: most images evaluated at once, over all replicas.
      entries: names of further entries of the state to hand out with each verdict.
      strategy: replicas that share the slots; the network must have been made in its scope.
      watch: called after every chunk with the steps that images in slots have done so far.
      rungs: what is known of the network at other sizes; None finds out.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        attack: stepped.SteppedAttack,
        num_slots: int,
        *,
        entries: tuple[str, ...] = (),
        strategy: tf.distribute.Strategy | None = None,
        watch: Callable[[int], None] | None = None,
        rungs: Rungs | None = None,
    ):
        self.replicas = Replicas(strategy)
        if num_slots < 1 or num_slots % self.replicas.count:
            raise ValueError(
                f"{num_slots} slots cannot be shared by {self.replicas.count} replicas; give a "
                "multiple of the replicas, at least 1 each"
            )
        self.attack, self.network, self.num_slots = attack, network, num_slots
        self.entries, self.watch = entries, watch
        self.rungs = Rungs(network) if rungs is None else rungs
        # Whether the slots stay as many to the end: on replicas, whose shapes are static, where the
        # last rows of a batch are computed in another way by the attack itself, and by the network.
        self._stays = strategy is not None or num_slots % PACKET != 0
        self.slot_steps = 0  # evaluations that were paid for: slots times steps
        self.image_steps = 0  # evaluations that an image needed
        self._fill = self.replicas.function(attack.start)
        self._refill = self.replicas.function(self._refill_slots)
        self._advance = self.replicas.function(self._advance_slots)

    def run(self, waiting: Iterable[Waiting]) -> Iterator[Verdict]:
        """Yields the verdict of every waiting image, in the order in which they fall."""
        waiting = iter(waiting)
        first = list(itertools.islice(waiting, PACKET))
        if not first:
            return
        waiting, slots, state = itertools.chain(first, waiting), Slots(self._size(first)), None
        while True:
            entering = slots.fill(waiting)
            if not slots.occupied.any():
                return
            if entering.any():
                arrive = self.replicas.split(*slots.arrays())
                if state is None:
                    state = self._fill(*arrive)
                else:
                    state = self._refill(state, *self.replicas.split(entering), *arrive)
            state = self._shrunk(slots, state)
            occupied, enough = self.replicas.split(slots.occupied, self._enough(slots))
            state, finished, steps, in_flight = self._advance(state, occupied, enough)
            steps = self.replicas.join(steps)
            self.slot_steps += int(steps.sum()) * slots.num_slots // self.replicas.count
            if self.watch:
                self.watch(int(self.replicas.join(in_flight).sum()))
            yield from self._verdicts(slots, state, self.replicas.join(finished))

    def _enough(self, slots):
        """Returns for each slot's replica how many must be finished before the host looks."""
        share = slots.occupied.reshape(self.replicas.count, -1).sum(1)
        if not slots.exhausted:
            share = np.minimum(share, max(1, int(self.num_slots / self.replicas.count * REFILL)))
        elif lower := self._rung_below(slots.num_slots, slots):
            share = np.minimum(share, np.maximum(share - lower, 1))
        return share.astype(np.int32)

    def _size(self, first):
        """Returns how many slots there are to be at the beginning."""
        if self._stays:
            return self.num_slots
        images = np.stack([first[row % len(first)].image for row in range(PACKET)])
        takes, least = self.attack.takes_gradients, int(np.ceil(ENOUGH * self.num_slots))
        size = self.rungs.largest(self.num_slots, images, takes, least)
        self._stays = size == 0
        return size or self.num_slots

    def _rung_below(self, size, slots):
        """Returns the next smaller number of slots, or 0 where there is none to go to."""
        if self._stays or not slots.exhausted:
            return 0
        return self.rungs.largest(size - 1, slots.images, self.attack.takes_gradients)

    def _shrunk(self, slots, state):
        """Moves the images that are left into the fewest slots that hold them."""
        size, left = slots.num_slots, slots.occupied.sum()
        while (lower := self._rung_below(size, slots)) and lower >= left:
            size = lower
        if size == slots.num_slots:
            return state
        kept = slots.shrink(size)
        return {name: tf.gather(value, kept) for name, value in state.items()}

    def _refill_slots(self, state, entering, images, labels, seeds, logits):
        return _select(entering, self.attack.start(images, labels, seeds, logits), state)

    def _advance_slots(self, state, occupied, enough):
        def finished(state):
            return occupied & ~stepped.unfinished(state, self.attack.num_steps)

        def proceed(state, steps):
            del steps
            return tf.reduce_sum(tf.cast(finished(state), tf.int32)) < enough[0]

        def body(state, steps):
            # A finished image waits in its slot until the host comes by. Its attack keeps whether
            # it is broken and by what; nobody reads the rest of its state any more.
            following = self.attack.step(self.network, state)
            kept = {name: state[name] for name in ("step", *self.entries)}
            return {**following, **_select(finished(state), kept, following)}, steps + 1

        state, steps = tf.while_loop(
            proceed, body, (state, tf.constant(0)), parallel_iterations=1, maximum_iterations=CHUNK
        )
        done = finished(state)
        in_flight = tf.reduce_sum(tf.where(occupied & ~done, state["step"], 0))
        return state, done, steps[None], in_flight[None]

    def _verdicts(self, slots, state, finished):
        for first, local in self.replicas.parts(state, slots.num_slots):
            size = slots.num_slots // self.replicas.count
            rows = np.flatnonzero(finished[first : first + size])
            if len(rows):
                names = ("broken", "step", "adversarial", *self.entries)
                found = {name: tf.gather(local[name], rows).numpy() for name in names}
                self.image_steps += int(found["step"].sum())
                yield from self._taken_out(slots, first + rows, found)

    def _taken_out(self, slots, positions, found):
        for row, slot in enumerate(positions):
            yield Verdict(
                index=int(slots.index[slot]),
                broken=bool(found["broken"][row]),
                steps=int(found["step"][row]),
                image=slots.images[slot].copy(),
                adversarial=found["adversarial"][row],
                label=int(slots.labels[slot]),
                entries={name: found[name][row] for name in self.entries},
            )
        slots.occupied[positions] = False


def _select(mask, yes, no):
    """Takes the rows of `yes` where the mask is true, else those of `no`, entry by entry."""
    return {name: stepped.where(mask, value, no[name]) for name, value in yes.items()}
