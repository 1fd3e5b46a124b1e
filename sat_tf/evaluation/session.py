"""Runs the stages of an evaluation in order and saves on the way."""

import dataclasses
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from sat_tf import networks
from sat_tf.evaluation import checks, plan
from sat_tf.evaluation.attack_names import name_of
from sat_tf.evaluation.passes import Runner
from sat_tf.evaluation.progress import Progress
from sat_tf.evaluation.report import CurvePoint, Examples, Outcome
from sat_tf.evaluation.stream import Stream
from sat_tf.evaluation.verdicts import VerdictFile

# Images of the picture grid, from the beginning of the data set.
NUM_EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Options:
    """How `evaluate` goes about it.

    Attributes:
      restarts: random starts of each PGD; the worst counts, for each image.
      last_iterate: whether PGD runs to its last step on every image, as the paper; otherwise an
        image leaves as soon as it is broken, which is faster, and only "any iterate" is known.
      curve: attacks for each of several radii in pixels, for accuracy over epsilon; an image that
        is broken at one radius counts as broken at each larger one.
      batch_size: images evaluated at once, over all replicas.
      num_images: how many images from the beginning of the data set; None takes all.
      seed: where all noise comes from; an image's noise depends on it, on the image's position in
        the data set and on the attack, not on its batch.
      left_out: attacks that are missing from the list, with why, for the report to say so.
      strategy: replicas that share the work; the network must have been made in its scope.
      verdict_file: where verdicts are kept on the way, so that a killed run can go on; or None.
      overwrite: whether to ignore and replace what the verdict file holds.
      save_every: seconds between saves.
      show_progress: whether to write progress to stderr.
    """

    restarts: int = 1
    last_iterate: bool = True
    curve: Mapping[float, Sequence[Any]] = dataclasses.field(default_factory=dict)
    batch_size: int = 128
    num_images: int | None = None
    seed: int = 0
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    strategy: tf.distribute.Strategy | None = None
    verdict_file: str | pathlib.Path | None = None
    overwrite: bool = False
    save_every: float = 30.0
    show_progress: bool = False

    def __post_init__(self):
        if self.restarts < 1:
            raise ValueError(f"restarts is {self.restarts}; give at least 1")


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
        self.network_facts = networks.facts(network)
        self.first = next(iter(self.stream))
        self.checks = checks.before(network, self.runner.forward, self.first)
        num_images = len(self.clean.labels)
        num_classes = self.clean.num_classes
        usable, unavailable = plan.available(attacks, num_classes)
        self.left_out = {**options.left_out, **unavailable}
        if not usable:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
            raise ValueError(f"no attack can run on this network ({reasons}); use pgd-50")
        self.main = plan.stages(
            usable,
            "main",
            num_images,
            restarts=options.restarts,
            last_iterate=options.last_iterate,
        )
        self.curve = {
            epsilon: plan.stages(
                # At radius 0 there is nothing to attack: the curve begins at the clean accuracy.
                plan.available(options.curve[epsilon] if epsilon else [], num_classes)[0],
                f"curve/{epsilon:g}",
                num_images,
                restarts=options.restarts,
                last_iterate=False,
            )
            for epsilon in sorted(options.curve)
        }
        self.passes = plan.passes_of([*self.main, *itertools.chain(*self.curve.values())])
        shape = (min(NUM_EXAMPLES, num_images, options.batch_size), *self.stream.image_shape)
        self.examples = np.zeros(shape, np.float32)
        self.file = self._verdict_file()
        self.saved_at = time.monotonic()

    def run(self) -> tuple[list[Outcome], list[CurvePoint]]:
        """Runs all passes that are not done; returns what all of them found."""
        if self.file:
            self.file.restore(self.passes, self.examples)
        outcomes, standing = [], self.clean.correct
        for stage in self.main:
            outcomes += self._outcomes(stage, standing, self.examples)
            standing = outcomes[-1].standing
        points, standing = [], self.clean.correct
        for epsilon, stages in self.curve.items():
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
        attacked[:count] = self.examples
        probabilities = [
            tf.nn.softmax(self.runner.forward(batch)).numpy()[:count]
            for batch in (images, attacked)
        ]
        return Examples(images[:count], self.examples, labels[:count], tuple(probabilities))

    def _outcomes(self, stage, standing, examples=None):
        """Runs a stage on the images it is for; returns an outcome for each attack reported."""
        candidates = np.ones_like(standing) if stage.last_iterate else standing
        for number, work in enumerate(stage.passes):
            self._run(work, candidates, (stage.title, stage.salt(number)), examples)
        if stage.last_iterate:
            return [_trajectory_outcome(stage, attack, standing) for attack in stage.attacks]
        return [_packed_outcome(stage, standing)]

    def _run(self, work, candidates, names, examples):
        title, salt = names
        left = candidates & ~work.done
        if not left.any():
            return
        steps = work.attack.num_steps
        progress = self._progress(title, steps, int(left.sum()))

        def keep(verdict):
            progress.advance(steps)
            if examples is not None and verdict.index < len(examples):
                if verdict.broken or not examples[verdict.index].any():
                    examples[verdict.index] = verdict.adversarial

        try:
            for _ in self.runner.run(
                work, candidates, salt=salt, watch=progress.in_flight, keep=keep
            ):
                if time.monotonic() - self.saved_at > self.options.save_every:
                    self._save()
        finally:
            progress.close()
            self._save()

    def _progress(self, title, steps, images):
        return Progress(
            title,
            steps * images,
            lambda done: f"{done // steps}/{images} images",
            quiet=not self.options.show_progress,
        )

    def _save(self):
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
        return VerdictFile(path, identity, self.options.overwrite)


def _trajectory_outcome(stage, attack, standing):
    within = plan.wrong_iterates(stage)[:, : attack.steps + 1]
    fooled = within.any(1)
    return Outcome(
        name=name_of(attack),
        settings=plan.describe(attack) | {"restarts": len(stage.passes)},
        attacked=np.ones_like(standing),
        standing=standing & ~fooled,
        last_iterate=~within[:, -1],
        broken_step=np.where(standing & fooled, within.argmax(1), -1),
        **_totals(stage.passes),
    )


def _packed_outcome(stage, standing):
    (work,) = stage.passes
    broken = standing & work.broken
    return Outcome(
        name=work.attack.name,
        settings=plan.describe(work.attack),
        attacked=standing,
        standing=standing & ~broken,
        last_iterate=None,
        broken_step=np.where(broken, work.steps - 1, -1),
        **_totals(stage.passes),
    )


def _totals(passes):
    return {
        "distance": np.max([work.distance for work in passes], 0),
        "unconfirmed": int(np.any([work.unconfirmed for work in passes], 0).sum()),
        "seconds": sum(work.seconds for work in passes),
        "slot_steps": sum(work.slot_steps for work in passes),
        "image_steps": sum(work.image_steps for work in passes),
    }
