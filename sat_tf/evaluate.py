"""Measures clean and adversarial accuracy: `python -m sat_tf.evaluate --workdir=runs/swish`."""

import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import sat_tf
from sat_tf import data, networks, settings
from sat_tf.attacks import PGD
from sat_tf.packed import Packed, Waiting
from sat_tf.progress import Progress
from sat_tf.report import UNIT, Outcome, Report
from sat_tf.stream import Stream, seeds_of
from sat_tf.trajectory import Trajectory, is_wrong


def evaluate(
    network: Callable[..., Any],
    dataset: Any,
    attacks: Sequence[PGD],
    *,
    restarts: int = 1,
    batch_size: int = 128,
    num_images: int | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> Report:
    """Attacks every image of a data set and counts how many the network still gets right.

    Attacks that differ only in their steps are run once, with the most steps: the shorter ones are
    its beginning. Restarts are taken worst for each image.

    Args:
      network: maps float32 pixels [N, H, W, C] to logits [N, classes] and takes `training`.
      dataset: batches `(images, labels)`, readable more than once in one order, such as a
        `tf.data.Dataset`; or a pair of arrays. Images are pixels in [0, 255].
      attacks: such as `[PGD(epsilon=8, step_size=2, steps=50)]`.
      restarts: random starts for each image.
      batch_size: images evaluated at once.
      num_images: how many images from the beginning; None takes all.
      seed: where all noise comes from; the noise of an image depends on it and on the image's
        position in the data set, not on its batch.
      show_progress: whether to write progress to stderr.

    Raises:
      ValueError: no image, no attack, pixels outside [0, 255], too few restarts.
    """
    if not attacks:
        raise ValueError("attacks is empty; give at least one, such as pgd-50")
    if restarts < 1:
        raise ValueError(f"restarts is {restarts}; give at least 1")
    started = time.monotonic()
    run = _Run(network, Stream(dataset, batch_size, num_images), seed, show_progress)
    outcomes = []
    for group in _groups(attacks):
        outcomes += run.trajectory(group, restarts)
    order = [pgd_name(attack) for attack in attacks]
    outcomes.sort(key=lambda outcome: order.index(outcome.name))
    return Report(
        labels=run.labels,
        clean=run.clean,
        outcomes=outcomes,
        facts={"seed": seed, "batch_size": batch_size},
        seconds=time.monotonic() - started,
    )


def pgd_name(attack: PGD) -> str:
    """Returns what reports call a PGD attack: `pgd-50`."""
    return f"pgd-{attack.steps}"


def parse_attacks(
    names: Sequence[str], *, epsilon: float, norm: str, step_size: float | None
) -> list[PGD]:
    """Makes attacks from names such as `pgd-50`.

    Without a step size it is `epsilon / 4` (1 pixel at epsilon 4, as the paper; 2 at epsilon 8),
    and for fewer than 4 steps `epsilon / steps`, so that the ball's edge can be reached.

    Raises:
      ValueError: an unknown name, or one that is given twice.
    """
    attacks = []
    for name in names:
        kind, _, steps = name.partition("-")
        if kind != "pgd" or not steps.isdigit() or int(steps) < 1:
            raise ValueError(f"attack {name!r} is unknown; use pgd-STEPS, such as pgd-50")
        steps = int(steps)
        default = epsilon / min(4, steps)
        attack = PGD(
            epsilon=epsilon,
            step_size=default if step_size is None else step_size,
            steps=steps,
            norm=norm,
        )
        if pgd_name(attack) in map(pgd_name, attacks):
            raise ValueError(f"attack {name!r} is given twice")
        attacks.append(attack)
    return attacks


class _Run:
    """One network on one data set: the clean pass, and the passes of the attacks."""

    def __init__(self, network, stream, seed, show_progress):
        self.network, self.stream, self.seed = network, stream, seed
        self.show_progress = show_progress
        self.forward = tf.function(lambda x: network(x, training=False), autograph=False)
        self.labels, self.clean = self._clean_pass()

    def _clean_pass(self):
        labels, correct = [], []
        for batch in self.stream:
            logits = self.forward(batch.images)
            wrong = is_wrong(logits, tf.constant(batch.labels)).numpy()
            labels.append(batch.labels[: batch.count])
            correct.append(~wrong[: batch.count])
        if not labels:
            raise ValueError("the data set has no image")
        return np.concatenate(labels), np.concatenate(correct)

    def trajectory(self, attacks, restarts):
        """Runs the longest of some PGD attacks on every image; returns an outcome for each."""
        started = time.monotonic()
        longest = max(attacks, key=lambda attack: attack.steps)
        engine = Packed(self.network, Trajectory(longest), self.stream.batch_size, ("wrong",))
        wrong = np.zeros([len(self.labels), longest.steps + 1], bool)
        distance = np.zeros(len(self.labels), np.float32)
        total = restarts * len(self.labels)
        progress = Progress(pgd_name(longest), total) if self.show_progress else None
        for restart in range(restarts):
            for verdict in engine.run(self._waiting(restart)):
                wrong[verdict.index] |= verdict.extras["wrong"]
                perturbation = np.float64(verdict.adversarial) - verdict.image
                distance[verdict.index] = max(
                    distance[verdict.index], _norm(perturbation, longest.norm)
                )
                if progress:
                    progress.advance()
        seconds = time.monotonic() - started
        return [self._outcome(attack, wrong, distance, restarts, seconds) for attack in attacks]

    def _waiting(self, restart):
        for batch in self.stream:
            logits = self.forward(batch.images).numpy()
            seeds = seeds_of(self.seed, batch.indices, restart)
            for row in range(batch.count):
                yield Waiting(
                    int(batch.indices[row]),
                    batch.images[row],
                    int(batch.labels[row]),
                    seeds[row],
                    logits[row],
                )

    def _outcome(self, attack, wrong, distance, restarts, seconds):
        within = wrong[:, : attack.steps + 1]
        fooled = within.any(1)
        broken_step = np.where(fooled, within.argmax(1), -1)
        return Outcome(
            name=pgd_name(attack),
            settings={
                "norm": attack.norm,
                "epsilon": attack.epsilon,
                "step_size": attack.step_size,
                "steps": attack.steps,
                "restarts": restarts,
                "random_start": attack.random_start,
            },
            standing=self.clean & ~fooled,
            last_iterate=~within[:, -1],
            broken_step=np.where(self.clean, broken_step, -2),
            distance=distance,
            seconds=seconds,
        )


def main() -> None:
    """Evaluates the network that the flags name, prints the table and writes the report."""
    given = flags.FLAGS
    chosen = settings.complete(given)
    attacks = parse_attacks(
        given.attacks, epsilon=chosen.epsilon, norm=chosen.norm, step_size=given.step_size
    )
    if 0 < chosen.epsilon < 1:
        print(
            f"warning: epsilon is {chosen.epsilon:g} pixels of 255, is that meant?", file=sys.stderr
        )
    network = networks.load(chosen.source)
    dataset = data.load(
        chosen.dataset,
        chosen.split,
        batch_size=given.batch_size,
        image_size=chosen.image_size or network.input_shape[1],
        data_dir=chosen.data_dir,
    )
    step_sizes = " ".join(f"{size:g}" for size in sorted({one.step_size for one in attacks}))
    print(
        f"{chosen.source} on {chosen.dataset} {chosen.split}: {chosen.norm} epsilon "
        f"{chosen.epsilon:g}, step size {step_sizes} ({UNIT}), restarts {given.restarts}"
    )
    report = evaluate(
        network,
        dataset,
        attacks,
        restarts=given.restarts,
        batch_size=given.batch_size,
        num_images=given.num_images,
        seed=given.seed,
        show_progress=True,
    )
    report.facts |= {
        "network": {"source": chosen.source, "weights_sha256": networks.weights_hash(network)},
        "data": {"dataset": chosen.dataset, "split": chosen.split},
        "flags": {name: getattr(given, name) for name in _own_flags()},
        "versions": versions(),
    }
    report.save(chosen.report)
    print(f"{report.table()}\n{len(report.labels)} images, accuracies in percent: {chosen.report}")


def versions() -> dict[str, str]:
    """Returns the versions of what decides the figures."""
    return {
        "sat_tf": sat_tf.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


def _own_flags():
    by_module = flags.FLAGS.flags_by_module_dict()
    ours = [
        flag for name, found in by_module.items() if name.startswith("flags.") for flag in found
    ]
    return sorted(flag.name for flag in ours)


def _groups(attacks):
    groups = {}
    for attack in attacks:
        key = (attack.epsilon, attack.step_size, attack.norm, attack.random_start)
        groups.setdefault((*key, attack.batch_norm), []).append(attack)
    return groups.values()


def _norm(perturbation, norm):
    flat = np.abs(perturbation).ravel()
    return flat.max() if norm == "linf" else np.linalg.norm(flat, {"l2": 2, "l1": 1}[norm])


if __name__ == "__main__":
    # Only a main defines flags: as a library this module leaves absl alone.
    from flags import evaluate as _options  # noqa: F401
    from sat_tf.main import run

    run(main)
