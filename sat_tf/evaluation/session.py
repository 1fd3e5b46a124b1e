"""Runs the stages of an evaluation in order.

The images flow stream > runner (attacks them, yields verdicts) > session (keeps, notes, shows and
saves them) > outcome > report.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sat_tf import loading, quiet
from sat_tf.evaluation import checks, folding, landscape, outcome, plan
from sat_tf.evaluation.options import Options
from sat_tf.evaluation.outcome import CurvePoint, Outcome
from sat_tf.evaluation.progress import Countdown
from sat_tf.evaluation.report import Report
from sat_tf.evaluation.runner import Runner
from sat_tf.evaluation.store import Store
from sat_tf.evaluation.stream import Stream
from sat_tf.runs import workdir

# Among at most ten classes, the label is nearly always one of five.
TOP5_BEYOND = 10


class Session:
    """One network on one data set: prepared, which attacks nothing, and then run.

    Args:
      network: maps pixels to logits [N, C] and takes `training`.
      dataset: see `evaluate`.
      attacks: `PGD` or stepped attacks.
      options: see `Options`.
    """

    def __init__(
        self, network: Callable[..., Any], dataset: Any, attacks: Sequence[Any], options: Options
    ):
        self.network, self.attacks, self.options = network, attacks, options
        self.stream = Stream(dataset, options.batch_size, options.num_images)
        self.runner = Runner(network, self.stream, options.seed, options.strategy, self._folded())

    def prepare(self) -> "Session":
        """Judges the clean images, plans the sweeps and takes up what an earlier process found.

        Raises:
          ValueError: as `evaluate`, but for what an attack does.
        """
        # The images first, as a plan needs the number of them and of classes, and the file of
        # verdicts the hashes of images and weights.
        with self._waiting():
            clean = self.runner.clean()
            self.network_facts = loading.facts(self.network)
            self.first_batch = next(iter(self.stream))
            self.found = checks.before(
                self.network, self.runner.forward, self.first_batch, clean.finite
            )
        planned = plan.make(self.attacks, self.options, len(clean.labels), clean.num_classes)
        weights = self.network_facts["weights_sha256"]
        self.clean, self.planned = clean, planned
        self.store = Store(planned, self.stream, clean, self.options, weights)
        self.store.restore()
        return self

    def run(self, about: Mapping[str, Mapping[str, Any]]) -> Report:
        """Runs every sweep that is not done; returns what all of them found.

        Args:
          about: facts of the report that only the caller knows, such as the data set's name.
        """
        clean, planned, store = self.clean, self.planned, self.store
        outcomes, curve = self.attack(np.ones_like(clean.correct))
        found = self.found + checks.after(outcomes, clean.correct, planned.left_out)
        return Report(
            labels=clean.labels,
            clean=clean.correct,
            top5=_top5(planned, clean),
            outcomes=outcomes,
            curve=curve,
            checks=[dataclasses.asdict(check) for check in found],
            examples=store.pictures(self.runner.forward, self.first_batch),
            facts=self._facts(about),
            seconds=sum(sweep.seconds for sweep in planned.sweeps),
            landscape=self._landscape(),
            saved_images=store.judged_images(self.runner.forward, outcomes),
            positions=self.stream.positions,
        )

    def attack(self, share: np.ndarray) -> tuple[list[Outcome], list[CurvePoint]]:
        """Runs every sweep that is not done on some of the images, and saves what it found.

        Args:
          share: bool [N], which images; of the others nothing new is found.

        Returns:
          An outcome for each attack, and a point for each radius of the curve.
        """
        outcomes, standing = [], self.clean.correct
        for stage in self.planned.stages:
            outcomes += self._attack(stage, standing, share)
            standing = outcomes[-1].standing
        # After the stages, as it takes their verdicts at their own radius.
        curve = self._curve(outcomes, share)
        self.store.save()
        return outcomes, curve

    def _curve(self, outcomes, share):
        points, standing = [], self.clean.correct
        for epsilon, stages in self.planned.curve.items():
            if epsilon in self.planned.own_radii:
                # What a smaller ball broke stays broken.
                standing = standing & outcomes[-1].standing
            for stage in stages:
                standing = self._attack(stage, standing, share, reported=False)[-1].standing
            seconds = sum(sweep.seconds for sweep in plan.sweeps_of(stages))
            points.append(CurvePoint(epsilon, standing, seconds))
        return points

    def _attack(self, stage, standing, share, reported=True):
        """Runs a stage on the images it is for; returns an outcome for each of its attacks."""
        candidates, store = stage.candidates(standing) & share, self.store
        for number, sweep in enumerate(stage.sweeps):
            left = int((candidates & ~sweep.done).sum())
            if not left:
                continue
            countdown = self._countdown(sweep, left)
            clock = time.monotonic()
            try:
                for verdict in self.runner.run(sweep, candidates, self._watch(countdown)):
                    countdown.advance(sweep.attack.num_steps)
                    if reported:
                        # Before it is noted: an image that cannot be kept is not done.
                        store.keep(stage, number, standing, verdict)
                    now = time.monotonic()
                    sweep.note(verdict, now - clock)
                    clock = now
                    store.save_if_due()
            finally:
                # Also where it is stopped: nothing that is known is attacked again.
                countdown.close()
                store.close()
        return outcome.of_stage(stage, standing)

    def _landscape(self):
        """Returns the loss around the first image that is right; None where none is asked for."""
        correct = self.clean.correct
        if not (self.options.landscape and correct.any()):
            return None
        index, attack = int(correct.argmax()), self.attacks[0]
        batch = next(one for one in self.stream if index in one.indices[: one.count])
        row = index - int(batch.indices[0])
        return landscape.around(
            self.network,
            batch.images[row],
            int(batch.labels[row]),
            index=index,
            epsilon=attack.epsilon,
            norm=attack.norm,
            seed=self.options.seed,
        )

    def _countdown(self, sweep, num_images):
        steps = sweep.attack.num_steps
        return Countdown(
            sweep.title,
            steps * num_images,
            lambda done: f"{done // steps}/{num_images} images",
            quiet=not self.options.show_progress,
        )

    def _watch(self, countdown):
        """Returns what is called at every look at an attack, be there a verdict or not."""

        def watch(steps):
            countdown.in_flight(steps)
            self.store.save_if_due()  # by which other workers see that this one is at work

        return watch

    def _folded(self):
        """Returns what is attacked in the network's place, or None."""
        if not self.options.fold_batch_norm:
            return None
        strategy = self.options.strategy
        with strategy.scope() if strategy else contextlib.nullcontext():
            return folding.checked(self.network, self.stream)

    def _waiting(self):
        if not self.options.show_progress:
            return contextlib.nullcontext()
        return quiet.waiting("looking at the clean images, and checking the network")

    def _facts(self, about):
        facts = {
            "network": self.network_facts,
            "data": {"images_sha256": self.clean.images_sha256},
            "classes": self.clean.num_classes,
            "seed": self.options.seed,
            "batch_size": self.options.batch_size,
            "restarts": self.options.restarts,
            "attacks_left_out": self.planned.left_out,
            "versions": workdir.versions(),
        }
        return facts | {name: {**facts.get(name, {}), **more} for name, more in about.items()}


def _top5(planned, clean):
    """Returns which images are right among the first five, clean and after all attacks, or None."""
    found = [sweep.in_top5 for sweep in plan.sweeps_of(planned.stages)]
    if clean.num_classes <= TOP5_BEYOND or any(one is None for one in found):
        return None
    return clean.in_top5, np.logical_and.reduce([clean.in_top5, *found])
