"""Runs the stages of an evaluation in order and saves on the way."""

import functools
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sat_tf import loading
from sat_tf.attacks import losses
from sat_tf.evaluation import ball, checks, judging, plan, saved_images
from sat_tf.evaluation.kept_images import KeptImages
from sat_tf.evaluation.options import Options
from sat_tf.evaluation.outcome import CurvePoint, Examples, Outcome, broken_by
from sat_tf.evaluation.progress import Countdown
from sat_tf.evaluation.runner import Runner
from sat_tf.evaluation.stream import Stream
from sat_tf.evaluation.verdicts import VerdictFile

# Images of the picture grid, from the beginning of the data set.
NUM_EXAMPLES = 8


class Session:
    """One network on one data set.

    Args:
      network: maps pixels to logits [N, C] and takes `training`.
      dataset: see `evaluate`.
      attacks: `PGD` or stepped attacks.
      options: see `Options`.
    """

    def __init__(
        self, network: Callable[..., Any], dataset: Any, attacks: Sequence[Any], options: Options
    ):
        self.options = options
        self.stream = Stream(dataset, options.batch_size, options.num_images)
        self.runner = Runner(network, self.stream, options.seed, options.strategy)
        self.clean = self.runner.clean()
        self.network_facts = loading.facts(network)
        self.first = next(iter(self.stream))
        self.checks = checks.before(network, self.runner.forward, self.first, self.clean.finite)
        self.main = self._main_stages(attacks)
        # Radii whose attacks are those of the report: their verdicts are there already.
        self.known = {e for e, one in options.curve.items() if list(one) == list(attacks)}
        self.curve = {epsilon: self._curve_stages(epsilon) for epsilon in sorted(options.curve)}
        self.passes = plan.passes_of([*self.main, *itertools.chain(*self.curve.values())])
        num_images, shape = len(self.clean.labels), self.stream.image_shape
        num_examples = min(NUM_EXAMPLES, num_images, options.batch_size)
        self.examples = np.zeros((num_examples, *shape), np.float32)
        self.file = self._verdict_file()
        self.kept = None
        if options.image_file is not None:
            path = pathlib.Path(options.image_file)
            self.kept = KeptImages(path, (num_images, *shape), options.image_type)
        self.saved_at = time.monotonic()

    def run(self) -> tuple[list[Outcome], list[CurvePoint]]:
        """Runs all passes that are not done; returns what all of them found."""
        resumed = self.file is not None and self.file.restore(self.passes, self.examples)
        if self.kept:
            self._prepare_images(resumed)
        outcomes, standing = [], self.clean.correct
        for stage in self.main:
            outcomes += self._outcomes(stage, standing, self._keep)
            standing = outcomes[-1].standing
        points, standing = [], self.clean.correct
        for epsilon, stages in self.curve.items():
            if epsilon in self.known:
                standing = standing & outcomes[-1].standing
            for stage in stages:
                standing = self._outcomes(stage, standing)[-1].standing
            seconds = sum(work.seconds for work in plan.passes_of(stages))
            points.append(CurvePoint(epsilon, standing, seconds))
        self._save()
        self.checks += checks.after(outcomes, self.clean.correct, self.left_out)
        return outcomes, points

    def gallery(self) -> Examples:
        """Returns the first images, what the attacks made of them and what the network says."""
        count, (_, images, labels, _) = len(self.examples), self.first
        attacked = images.copy()
        # What no attack was given stays as it is: it was misclassified from the start.
        seen = self.examples.any((1, 2, 3))
        attacked[:count][seen] = self.examples[seen]
        probabilities = [
            losses.probabilities(self.runner.forward(batch)).numpy()[:count]
            for batch in (images, attacked)
        ]
        return Examples(images[:count], attacked[:count], labels[:count], tuple(probabilities))

    def saved_images(self, outcomes: Sequence[Outcome]) -> saved_images.SavedImages | None:
        """Judges the images that were kept once more; returns None where none were to be kept."""
        if self.kept is None:
            return None
        kinds = [(one.settings["epsilon"], one.settings["norm"]) for one in outcomes]
        balls = kinds, broken_by(self.clean.correct, outcomes)
        return saved_images.judge(self.kept, self.stream, self.runner.forward, balls)

    def _main_stages(self, attacks):
        usable, unavailable = plan.available(attacks, self.clean.num_classes)
        self.left_out = {**self.options.left_out, **unavailable}
        if not usable:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
            raise ValueError(f"no attack can run on this network ({reasons}); use pgd-50")
        return self._stages(usable, "main", self.options.last_iterate)

    def _curve_stages(self, epsilon):
        # At radius 0 there is nothing to attack: the curve begins at the clean accuracy.
        attacks = self.options.curve[epsilon] if epsilon and epsilon not in self.known else []
        usable, _ = plan.available(attacks, self.clean.num_classes)
        return self._stages(usable, f"curve/{epsilon:g}", False)

    def _stages(self, attacks, prefix, last_iterate):
        return plan.stages(
            attacks,
            prefix,
            len(self.clean.labels),
            restarts=self.options.restarts,
            last_iterate=last_iterate,
        )

    def _outcomes(self, stage, standing, keep=None):
        """Runs a stage on the images it is for; returns an outcome for each attack reported."""
        candidates = np.ones_like(standing) if stage.last_iterate else standing
        for number, work in enumerate(stage.passes):
            self._run(
                work,
                candidates,
                (stage.title, stage.salt(number)),
                keep and functools.partial(keep, stage, number, standing),
            )
        return judging.outcomes(stage, standing)

    def _run(self, work, candidates, names, keep):
        title, salt = names
        left = candidates & ~work.done
        if not left.any():
            return
        steps = work.attack.num_steps
        progress = self._progress(title, steps, int(left.sum()))

        def judged(verdict):
            progress.advance(steps)
            if keep:
                keep(verdict)

        try:
            for _ in self.runner.run(
                work, candidates, salt=salt, watch=progress.in_flight, keep=judged
            ):
                if time.monotonic() - self.saved_at > self.options.save_every:
                    self._save()
        finally:
            progress.close()
            self._save()
            if self.kept:
                self.kept.close()

    def _progress(self, title, steps, images):
        return Countdown(
            title,
            steps * images,
            lambda done: f"{done // steps}/{images} images",
            quiet=not self.options.show_progress,
        )

    def _keep(self, stage, number, standing, verdict):
        """Keeps the image of a verdict of the attacks reported, for the picture and on the disk."""
        index = verdict.index
        if index < len(self.examples) and (verdict.broken or not self.examples[index].any()):
            self.examples[index] = verdict.adversarial
        # Of an image that has fallen, in an earlier stage or when clean, the first image is kept.
        if self.kept and standing[index] and plan.falls_earliest(stage, number, verdict):
            attack = stage.passes[number].attack
            self.kept.put(index, self._typed(verdict.image, verdict.adversarial, attack))

    def _typed(self, images, adversarial, attack):
        if self.kept.image_type == "float32":
            return adversarial
        return ball.whole_pixels(images, adversarial, attack.epsilon, attack.norm)

    def _prepare_images(self, resumed):
        if resumed:
            self.kept.check(self.file.images, self._settled())
        else:
            attack = self.passes[0].attack
            self.kept.create(
                self._typed(batch.images, batch.images, attack)[: batch.count]
                for batch in self.stream
            )
        if self.file:
            self.file.images = self.kept.checksums

    def _settled(self):
        """Returns which images no attack reported is left for, bool [N].

        The others may have been written to between the last save and a kill.
        """
        settled, standing = np.ones_like(self.clean.correct), self.clean.correct
        for stage in self.main:
            candidates = np.ones_like(standing) if stage.last_iterate else standing
            for work in stage.passes:
                settled &= work.done | ~candidates
            standing = judging.outcomes(stage, standing)[-1].standing
        return settled

    def _save(self):
        if self.kept:
            self.kept.flush()
        if self.file:
            self.file.save(self.passes, self.examples)
        self.saved_at = time.monotonic()

    def _verdict_file(self):
        if self.options.verdict_file is None:
            return None
        identity = {
            "network": self.network_facts["weights_sha256"],
            "images": self.clean.images_sha256,
            "seed": self.options.seed,
            "batch_size": self.options.batch_size,
            "attacks": [[work.key, plan.describe(work.attack)] for work in self.passes],
        }
        identity = json.loads(json.dumps(identity))
        path = pathlib.Path(self.options.verdict_file)
        image_type = None if self.options.image_file is None else self.options.image_type
        asked = plan.titles(self.main)
        return VerdictFile(path, identity, self.options.overwrite, image_type, asked)
