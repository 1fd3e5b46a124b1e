"""A network on a data set: clean verdicts, and passes whose every break is proved twice."""

import hashlib
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from sat_tf.attacks import losses
from sat_tf.evaluation import ball
from sat_tf.evaluation.packing.packed import Packed, Verdict, Waiting
from sat_tf.evaluation.passes import Pass
from sat_tf.evaluation.stream import Stream, seeds_of


class Clean(NamedTuple):
    """What the network makes of the clean images.

    Attributes:
      labels: int32 [N].
      correct: bool [N].
      finite: bool [N], whether all logits of the image are finite numbers.
      num_classes: of the network.
      images_sha256: of all images and labels in their order.
    """

    labels: np.ndarray
    correct: np.ndarray
    finite: np.ndarray
    num_classes: int
    images_sha256: str


class Runner:
    """A network on a data set: judges clean images and drives passes.

    Args:
      network: maps pixels to logits [N, C] and takes `training`.
      stream: the images.
      seed: where all noise comes from.
      strategy: replicas that share the work.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        stream: Stream,
        seed: int,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self.network, self.stream, self.seed, self.strategy = network, stream, seed, strategy
        self.forward = tf.function(
            lambda images: tf.cast(network(images, training=False), tf.float32), autograph=False
        )

    def clean(self) -> Clean:
        """Judges every clean image.

        Raises:
          ValueError: no image; a label beyond the classes; logits that are not [N, classes].
        """
        labels, correct, finite, digest, num_classes = [], [], [], hashlib.sha256(), 0
        for batch in self.stream:
            logits = self.forward(batch.images)
            _check_logits(logits, batch.labels)
            num_classes = int(logits.shape[1])
            wrong = losses.misclassified(logits, tf.constant(batch.labels)).numpy()
            labels.append(batch.labels[: batch.count])
            correct.append(~wrong[: batch.count])
            finite.append(np.isfinite(logits.numpy()).all(1)[: batch.count])
            digest.update(batch.images[: batch.count].tobytes() + labels[-1].tobytes())
        if not labels:
            raise ValueError("the data set has no image")
        columns = (np.concatenate(column) for column in (labels, correct, finite))
        return Clean(*columns, num_classes, digest.hexdigest())

    def run(
        self,
        work: Pass,
        candidates: np.ndarray,
        *,
        salt: str,
        watch: Callable[[int], None] | None = None,
        keep: Callable[[Verdict], None] | None = None,
    ) -> Iterator[None]:
        """Attacks the candidates that are not done; yields after each verdict that is noted.

        Args:
          work: is filled in.
          candidates: bool [N].
          salt: the noise of an image depends on the seed, its position and this text.
          watch: see `Packed`.
          keep: called with each confirmed verdict.

        Raises:
          ball.OutsideBall: the attack left the ball or the pixel range.
        """
        engine = Packed(
            self.network,
            work.attack,
            # Of all candidates, those done before included: a resumed run has the same slots.
            balanced_slots(int(candidates.sum()), self.stream.batch_size, self.strategy),
            extras=("wrong",) if work.wrong.shape[1] else (),
            strategy=self.strategy,
            watch=watch,
        )
        before = work.slot_steps
        clock = time.monotonic()
        verdicts = engine.run(self._waiting(candidates & ~work.done, salt))
        for verdict, confirmed in self._confirmed(verdicts):
            if keep:
                # Before it is noted: an image that cannot be kept is not done.
                keep(verdict._replace(broken=confirmed))
            self._note(work, verdict, confirmed)
            work.slot_steps = before + engine.slot_steps
            now = time.monotonic()
            work.seconds, clock = work.seconds + now - clock, now
            yield

    def _waiting(self, candidates, salt):
        salt = zlib.crc32(salt.encode()) & 0x7FFFFFFF
        for batch in self.stream:
            inside = candidates[batch.indices[: batch.count]]
            if not inside.any():
                continue
            logits = self.forward(batch.images).numpy()
            seeds = seeds_of(self.seed, batch.indices, salt)
            for row in np.flatnonzero(inside):
                yield Waiting(
                    int(batch.indices[row]),
                    batch.images[row],
                    int(batch.labels[row]),
                    seeds[row],
                    logits[row],
                )

    def _confirmed(self, verdicts):
        """Pairs every verdict with that of a second evaluation of the image returned."""
        held, size = [], self.stream.batch_size
        for verdict in verdicts:
            if not verdict.broken:
                yield verdict, False
                continue
            held.append(verdict)
            if len(held) == size:
                yield from self._judged(held)
                held = []
        if held:
            yield from self._judged(held)

    def _judged(self, held):
        missing = self.stream.batch_size - len(held)
        padded = held + [held[0]] * missing
        logits = self.forward(np.stack([verdict.adversarial for verdict in padded]))
        labels = tf.constant([verdict.label for verdict in padded])
        wrong = losses.misclassified(logits, labels).numpy()
        for verdict, one in zip(held, wrong, strict=False):
            yield verdict, bool(one)

    def _note(self, work, verdict, confirmed):
        index, attack = verdict.index, work.attack
        distance = ball.assert_inside(
            verdict.image,
            verdict.adversarial,
            attack.epsilon,
            attack.norm,
            f"{attack.name} on image {index}",
        )
        work.done[index] = True
        work.broken[index] = confirmed
        work.unconfirmed[index] = verdict.broken and not confirmed
        work.steps[index] = verdict.steps
        work.distance[index] = distance
        if work.wrong.shape[1]:
            work.wrong[index] = verdict.extras["wrong"]


def balanced_slots(
    num_images: int, at_most: int, strategy: tf.distribute.Strategy | None = None
) -> int:
    """Returns how many slots some images fill evenly, at most so many.

    Images that stand take all steps, so they leave in rounds; 130 images in 128 slots would take a
    second round for two of them. 65 slots take two rounds as well, at half the cost.

    Args:
      num_images: on their way.
      at_most: slots that there may be.
      strategy: replicas that share the slots evenly, or None.
    """
    replicas = 1 if strategy is None else strategy.num_replicas_in_sync
    rounds = max(1, -(-num_images // at_most))
    slots = max(1, -(-num_images // rounds))
    return -(-slots // replicas) * replicas


def _check_logits(logits, labels):
    if logits.shape.rank != 2:
        raise ValueError(f"the network returns shape {logits.shape}; expected logits [N, classes]")
    num_classes = logits.shape[1]
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, and the network has "
            f"{num_classes} classes; evaluate it on the data it was made for"
        )
