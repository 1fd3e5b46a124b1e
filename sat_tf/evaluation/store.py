"""What an evaluation keeps while it goes on, in files and for the picture of the report."""

import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from sat_tf.attacks import losses
from sat_tf.evaluation import ball, outcome, plan, saved_images
from sat_tf.evaluation.kept_images import KeptImages
from sat_tf.evaluation.options import Options
from sat_tf.evaluation.packing.packed import Verdict
from sat_tf.evaluation.runner import Clean
from sat_tf.evaluation.stream import Batch, Stream
from sat_tf.evaluation.verdicts import VerdictFile
from sat_tf.runs import places

# Images of the picture grid, from the beginning of the data set.
NUM_EXAMPLES = 8


class Store:
    """Verdicts in a file, adversarial images in another, and the first few images in memory.

    Either file is left away where `options` names none.

    Args:
      planned: what will be run; its sweeps are what the file of verdicts holds.
      stream: the images.
      clean: what the network makes of them.
      options: see `Options`.
      weights: what tells the network from others, such as the hash of its weights.
    """

    def __init__(
        self, planned: plan.Plan, stream: Stream, clean: Clean, options: Options, weights: Any
    ):
        self.plan, self.stream, self.clean = planned, stream, clean
        num_images, shape = len(clean.labels), stream.image_shape
        num_examples = min(NUM_EXAMPLES, num_images, options.batch_size)
        # Of the picture grid; one that no attack was given stays 0 everywhere.
        self.examples = np.zeros((num_examples, *shape), np.float32)
        self.images = self.verdicts = None
        if options.image_file is not None:
            path = pathlib.Path(options.image_file)
            self.images = KeptImages(path, (num_images, *shape), options.image_type)
        if options.verdict_file is not None:
            self.verdicts = VerdictFile(
                places.of(options.verdict_file),
                self._identity(options, weights),
                options.overwrite,
                None if self.images is None else options.image_type,
                plan.titles(planned.stages),
            )
        self.save_every, self.saved_at = options.save_every, time.monotonic()

    def restore(self) -> None:
        """Takes up what an earlier process saved, or makes the file of images anew.

        Raises:
          ValueError: a file is damaged or of another evaluation.
        """
        resumed = self.verdicts is not None and self.verdicts.restore(
            self.plan.sweeps, self.examples
        )
        if self.images is None:
            return
        if resumed:
            self.images.check(self.verdicts.images, self.settled())
        else:
            attack = self.plan.sweeps[0].attack
            self.images.create(
                self._typed(batch.images, batch.images, attack)[: batch.count]
                for batch in self.stream
            )
        if self.verdicts:
            self.verdicts.images = self.images.checksums

    def keep(self, stage: plan.Stage, number: int, standing: np.ndarray, verdict: Verdict) -> None:
        """Keeps the image of a verdict of an attack that is reported.

        Args:
          stage: that is being run.
          number: of its sweep.
          standing: bool [N], images that stood before the stage.
          verdict: of one image.
        """
        index = verdict.index
        if index < len(self.examples) and (verdict.confirmed or not self.examples[index].any()):
            self.examples[index] = verdict.adversarial
        # Of an image that has fallen, in an earlier stage or when clean, the first image is kept.
        if self.images and standing[index] and stage.falls_earliest(number, verdict):
            attack = stage.sweeps[number].attack
            self.images.put(index, self._typed(verdict.image, verdict.adversarial, attack))

    def save(self) -> None:
        """Writes what is known to the disk."""
        # Images first: a verdict that is on the disk has its image there.
        if self.images:
            self.images.flush()
        if self.verdicts:
            self.verdicts.save(self.plan.sweeps, self.examples)
        self.saved_at = time.monotonic()

    def save_if_due(self) -> None:
        """Saves where the last time is longer ago than `save_every`."""
        if time.monotonic() - self.saved_at > self.save_every:
            self.save()

    def close(self) -> None:
        """Saves, and leaves no file open."""
        self.save()
        if self.images:
            self.images.close()

    def settled(self) -> np.ndarray:
        """Returns which images no attack reported is left for, bool [N].

        The others may have been written to between the last save and a kill.
        """
        settled, standing = np.ones_like(self.clean.correct), self.clean.correct
        for stage in self.plan.stages:
            candidates = stage.candidates(standing)
            for sweep in stage.sweeps:
                settled &= sweep.done | ~candidates
            standing = outcome.of_stage(stage, standing)[-1].standing
        return settled

    def pictures(self, forward: Callable[[Any], tf.Tensor], batch: Batch) -> outcome.Examples:
        """Returns the first images, what the attacks made of them and what the network says.

        Args:
          forward: the network in inference mode.
          batch: the first images.
        """
        count, attacked = len(self.examples), batch.images.copy()
        # What no attack was given stays as it is: it was misclassified from the start.
        seen = self.examples.any((1, 2, 3))
        attacked[:count][seen] = self.examples[seen]
        probabilities = [
            losses.probabilities(forward(images)).numpy()[:count]
            for images in (batch.images, attacked)
        ]
        clean, labels = batch.images[:count], batch.labels[:count]
        return outcome.Examples(clean, attacked[:count], labels, tuple(probabilities))

    def judged_images(
        self, forward: Callable[[Any], tf.Tensor], outcomes: Sequence[outcome.Outcome]
    ) -> saved_images.SavedImages | None:
        """Shows the network the images as they were saved; returns None where none were kept."""
        if self.images is None:
            return None
        kinds = [(one.settings["epsilon"], one.settings["norm"]) for one in outcomes]
        balls = kinds, outcome.broken_by(self.clean.correct, outcomes)
        return saved_images.judge(self.images, self.stream, forward, balls)

    def _identity(self, options, weights):
        """Returns what decides the verdicts, as JSON values."""
        identity = {
            "network": weights,
            "images": self.clean.images_sha256,
            "seed": options.seed,
            "batch_size": options.batch_size,
            "fold_batch_norm": options.fold_batch_norm,
            "attacks": [[one.key, plan.describe(one.attack)] for one in self.plan.sweeps],
        }
        return json.loads(json.dumps(identity))

    def _typed(self, images, adversarial, attack):
        if self.images.image_type == "float32":
            return adversarial
        return ball.whole_pixels(images, adversarial, attack.epsilon, attack.norm)
