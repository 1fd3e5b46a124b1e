"""A network on a data set: clean verdicts, and attacks whose every break is proved twice."""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from sat_tf.attacks import losses
from sat_tf.evaluation import ball
from sat_tf.evaluation.packing.packed import Packed, Verdict
from sat_tf.evaluation.packing.rungs import Rungs
from sat_tf.evaluation.packing.slots import Waiting, even_slots
from sat_tf.evaluation.stream import Stream, seeds_of
from sat_tf.evaluation.sweep import Sweep


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
    """A network on a data set: judges clean images and drives attacks.

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
        self.rungs = Rungs(network)

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
        sweep: Sweep,
        candidates: np.ndarray,
        watch: Callable[[int], None] | None = None,
    ) -> Iterator[Verdict]:
        """Attacks the candidates that are not done; yields a verdict for each.

        Args:
          sweep: which attack, with which noise, and what is done; it is left as it is.
          candidates: bool [N].
          watch: see `Packed`.

        Raises:
          ball.OutsideBall: the attack left the ball or the pixel range.
        """
        attack, paid = sweep.attack, 0
        engine = Packed(
            self.network,
            attack,
            # Of all candidates, those done before included: a resumed run has the same slots.
            even_slots(int(candidates.sum()), self.stream.batch_size, self.strategy),
            entries=("wrong",) if sweep.is_trajectory else (),
            strategy=self.strategy,
            watch=watch,
            rungs=self.rungs,
        )
        waiting = self._waiting(candidates & ~sweep.done, sweep.noise)
        for verdict in self._proved(engine.run(waiting)):
            # Before anybody else sees it: an image outside the ball is no result.
            distance = ball.assert_inside(
                verdict.image,
                verdict.adversarial,
                attack.epsilon,
                attack.norm,
                f"{attack.name} on image {verdict.index}",
            )
            yield verdict._replace(distance=distance, slot_steps=engine.slot_steps - paid)
            paid = engine.slot_steps

    def _waiting(self, images, noise):
        noise_number = zlib.crc32(noise.encode()) & 0x7FFFFFFF  # not negative, as an int32
        for batch in self.stream:
            inside = images[batch.indices[: batch.count]]
            if not inside.any():
                continue
            logits = self.forward(batch.images).numpy()
            seeds = seeds_of(self.seed, batch.indices, noise_number)
            for row in np.flatnonzero(inside):
                yield Waiting(
                    int(batch.indices[row]),
                    batch.images[row],
                    int(batch.labels[row]),
                    seeds[row],
                    logits[row],
                )

    def _proved(self, verdicts):
        """Yields every verdict once its break, if it is one, was evaluated a second time."""
        held = []
        for verdict in verdicts:
            if not verdict.broken:
                yield verdict
                continue
            # A full batch of breaks at a time: the shape for which the network is traced already.
            held.append(verdict)
            if len(held) == self.stream.batch_size:
                yield from self._evaluated_again(held)
                held = []
        if held:
            yield from self._evaluated_again(held)

    def _evaluated_again(self, held):
        missing = self.stream.batch_size - len(held)
        padded = held + [held[0]] * missing
        logits = self.forward(np.stack([verdict.adversarial for verdict in padded]))
        labels = tf.constant([verdict.label for verdict in padded])
        wrong = losses.misclassified(logits, labels).numpy()
        for verdict, confirmed in zip(held, wrong, strict=False):
            yield verdict._replace(confirmed=bool(confirmed))


def _check_logits(logits, labels):
    if logits.shape.rank != 2:
        raise ValueError(f"the network returns shape {logits.shape}; expected logits [N, classes]")
    num_classes = logits.shape[1]
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, and the network has "
            f"{num_classes} classes; evaluate it on the data it was made for"
        )
