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
      in_top5: bool [N], whether the label is among the five largest logits.
      finite: bool [N], whether all logits of the image are finite numbers.
      num_classes: of the network.
      images_sha256: of all images and labels in their order.
    """

    labels: np.ndarray
    correct: np.ndarray
    in_top5: np.ndarray
    finite: np.ndarray
    num_classes: int
    images_sha256: str


def inference(network: Callable[..., Any]) -> Callable[[Any], tf.Tensor]:
    """Returns a network's float32 logits in inference mode, as a graph."""
    return tf.function(
        lambda images: tf.cast(network(images, training=False), tf.float32), autograph=False
    )


def judged(forward: Callable[[Any], tf.Tensor], stream: Stream) -> Clean:
    """Judges every image of a stream.

    Args:
      forward: the network in inference mode.
      stream: the images.

    Raises:
      ValueError: no image; a label beyond the classes; logits that are not [N, classes].
    """
    labels, correct, top5, finite, digest = [], [], [], [], hashlib.sha256()
    num_classes = 0
    for batch in stream:
        logits = forward(batch.images)
        _check_logits(logits, batch.labels)
        num_classes = int(logits.shape[1])
        wrong = losses.misclassified(logits, tf.constant(batch.labels)).numpy()
        labels.append(batch.labels[: batch.count])
        correct.append(~wrong[: batch.count])
        top5.append(_in_top5(logits, batch.labels)[: batch.count])
        finite.append(np.isfinite(logits.numpy()).all(1)[: batch.count])
        digest.update(batch.images[: batch.count].tobytes() + labels[-1].tobytes())
    if not labels:
        raise ValueError("the data set has no image")
    columns = (np.concatenate(column) for column in (labels, correct, top5, finite))
    return Clean(*columns, num_classes, digest.hexdigest())


class Runner:
    """A network on a data set: judges clean images and drives attacks.

    Args:
      network: maps pixels to logits [N, C] and takes `training`.
      stream: the images.
      seed: where all noise comes from.
      strategy: replicas that share the work.
      folded: a faster network of the same logits but for rounding, which is attacked in its place;
        None attacks the network itself. Where a break of the one is none of the other, the image
        is attacked again on the network itself.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        stream: Stream,
        seed: int,
        strategy: tf.distribute.Strategy | None = None,
        folded: Callable[..., Any] | None = None,
    ):
        self.network, self.stream, self.seed, self.strategy = network, stream, seed, strategy
        self.forward = inference(network)
        attacked = [network] if folded is None or folded is network else [folded, network]
        self.attacked = [(one, Rungs(one)) for one in attacked]

    def clean(self) -> Clean:
        """Judges every clean image, see `judged`."""
        return judged(self.forward, self.stream)

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
          watch: see `Packed`; called with 0 at each batch that is read, too.

        Raises:
          ball.OutsideBall: the attack left the ball or the pixel range.
        """
        # Of all candidates, those done before included: a resumed run has the same slots.
        count, left, owed = int(candidates.sum()), candidates & ~sweep.done, 0
        for network, rungs in self.attacked:
            engine = self._engine(network, rungs, sweep, count, watch)
            again = np.zeros_like(left)
            for verdict in self._proved(engine.run(self._waiting(left, sweep.noise, watch))):
                if network is not self.network and verdict.broken and not verdict.confirmed:
                    again[verdict.index] = True
                    continue
                paid, owed = engine.slot_steps + owed, -engine.slot_steps
                yield verdict._replace(distance=_distance(sweep.attack, verdict), slot_steps=paid)
            left, count, owed = again, int(again.sum()), engine.slot_steps + owed
            if not count:
                return

    def _engine(self, network, rungs, sweep, count, watch):
        return Packed(
            network,
            sweep.attack,
            even_slots(count, self.stream.batch_size, self.strategy),
            entries=("wrong",) if sweep.is_trajectory else (),
            strategy=self.strategy,
            watch=watch,
            rungs=rungs,
        )

    def _waiting(self, images, noise, watch=None):
        noise_number = zlib.crc32(noise.encode()) & 0x7FFFFFFF  # not negative, as an int32
        for batch in self.stream:
            if watch:
                watch(0)  # where few images stand, many batches go by before there is a step
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
        top5 = _in_top5(logits, labels)
        for verdict, confirmed, within in zip(held, wrong, top5, strict=False):
            yield verdict._replace(confirmed=bool(confirmed), in_top5=bool(within))


def _distance(attack, verdict):
    # Before anybody else sees it: an image outside the ball is no result.
    return ball.assert_inside(
        verdict.image,
        verdict.adversarial,
        attack.epsilon,
        attack.norm,
        f"{attack.name} on image {verdict.index}",
    )


def _in_top5(logits, labels):
    """Tells whether the label is among the five largest logits; not where one is not finite.

    Of equal ones the first comes first, as `argmax` has it: a network of equal logits has five.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)[:, None]
    own = np.take_along_axis(logits, labels, 1)
    first = np.arange(logits.shape[1]) < labels
    before = (logits > own) | ((logits == own) & first)
    return np.isfinite(logits).all(1) & (before.sum(1) < 5)


def _check_logits(logits, labels):
    if logits.shape.rank != 2:
        raise ValueError(f"the network returns shape {logits.shape}; expected logits [N, classes]")
    num_classes = logits.shape[1]
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, and the network has "
            f"{num_classes} classes; evaluate it on the data it was made for"
        )
