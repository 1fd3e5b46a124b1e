"""Measures clean and adversarial accuracy.

    python -m sat_tf.evaluate --workdir=runs/digits
    python -m sat_tf.evaluate --workdir=runs/digits --attacks=autoattack
    python -m sat_tf.evaluate --network=mine.keras --dataset=cifar10 --epsilon=8

An evaluation that was stopped goes on with the same command.
"""

import contextlib
import dataclasses
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import sat_tf
from sat_tf import data, loading, quiet
from sat_tf.attacks import PGD
from sat_tf.attacks import names as attack_names
from sat_tf.data import classes, selection
from sat_tf.evaluation import settings, verdicts
from sat_tf.evaluation.options import Options
from sat_tf.evaluation.report import UNIT, Report, artefacts
from sat_tf.evaluation.session import Session
from sat_tf.runs import Interrupted, distribution


def evaluate(
    network: Callable[..., Any], dataset: Any, attacks: Sequence[Any], **options: Any
) -> Report:
    """Attacks every image of a data set and counts how many the network still gets right.

    PGD runs to its last step on every image, as the paper; PGD attacks that differ only in their
    steps are run once, with the most steps, as the shorter ones are its beginning. All other
    attacks see only images that still stand, and an image leaves as soon as it is broken.

    Args:
      network: maps float32 pixels [N, H, W, C] to logits [N, classes] and takes `training`.
      dataset: batches `(images, labels)`, readable more than once in one order, such as a
        `tf.data.Dataset`; or a pair of arrays. Images are pixels in [0, 255].
      attacks: `PGD` or stepped attacks, such as `[PGD(epsilon=8, step_size=2, steps=50)]`.
      **options: fields of `Options`: restarts, batch_size, num_images, seed, curve, …

    Raises:
      ValueError: no image, no attack that can run, pixels outside [0, 255], labels beyond the
        classes, a wrong option, a damaged verdict file or one of another run.
      ball.OutsideBall: an attack returned an image outside the ball or the pixel range.
    """
    if not attacks:
        raise ValueError("attacks is empty; give at least one, such as PGD")
    chosen = Options(**options)
    looking = quiet.waiting("looking at the clean images, and checking the network")
    with looking if chosen.show_progress else contextlib.nullcontext():
        session = Session(network, dataset, attacks, chosen)
    outcomes, curve = session.run()
    facts = {
        "network": session.network_facts,
        "data": {"images_sha256": session.clean.images_sha256},
        "classes": session.clean.num_classes,
        "seed": chosen.seed,
        "batch_size": chosen.batch_size,
        "restarts": chosen.restarts,
        "attacks_left_out": session.left_out,
        "versions": versions(),
    }
    return Report(
        labels=session.clean.labels,
        clean=session.clean.correct,
        outcomes=outcomes,
        curve=curve,
        checks=[dataclasses.asdict(check) for check in session.checks],
        examples=session.gallery(),
        facts=facts,
        seconds=sum(work.seconds for work in session.passes),
        saved_images=session.saved_images(outcomes),
    )


def versions() -> dict[str, str]:
    """Returns the versions of what decides the figures."""
    return {
        "sat_tf": sat_tf.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


def main() -> None:
    """Evaluates the network that the flags name, prints the tables and writes the report."""
    given = flags.FLAGS
    chosen = settings.complete(given)
    artefacts.check_names(given.write)
    if given.logical_cpus > 1:
        distribution.split_cpu(given.logical_cpus)
    strategy = None if given.strategy == "one_device" else distribution.strategy(given.strategy)
    scope = strategy.scope() if strategy else contextlib.nullcontext()
    with scope, quiet.waiting(f"loading {chosen.source}"):
        network = loading.load(chosen.source)
    loading.image_form(network)
    network = loading.adapt(network, chosen.input_range, given.preprocessing)
    attacks = _attacks(given, chosen, network, chosen.epsilon)
    curve = {
        epsilon: attacks if epsilon == chosen.epsilon else _attacks(given, chosen, network, epsilon)
        for epsilon in chosen.curve
    }
    left_out = attack_names.left_out(
        given.attacks, norm=chosen.norm, num_classes=network.output_shape[-1]
    )
    print(_headline(given, chosen, attacks), flush=True)
    dataset = _dataset(given, chosen, network)
    options = _options(given, chosen) | {"curve": curve, "left_out": left_out}
    with artefacts.claim(given.write, chosen.report):
        with _stoppable():
            report = evaluate(
                network, dataset, attacks, strategy=strategy, show_progress=True, **options
            )
        _tell(report, dataset, given, chosen)


def _tell(report, dataset, given, chosen):
    """Writes and prints what was found."""
    if isinstance(dataset, selection.Selected):
        report.positions = dataset.wanted[: len(report.labels)]
    report.facts["network"]["source"] = chosen.source
    report.facts["data"] |= {"dataset": chosen.dataset, "split": chosen.split}
    report.facts["flags"] = {name: getattr(given, name) for name in _own_flags()}
    try:
        report.save(chosen.report)
    finally:
        # Whatever cannot be written, the figures are on the terminal.
        _print(report, given.steps_curve)
    about = chosen.about | {"dataset": chosen.dataset}
    title = f"Robustness of {chosen.source}: {chosen.norm} epsilon {chosen.epsilon:g}"
    written = artefacts.write(report, given.write, chosen.report, title=title, about=about)
    paths = "\n".join(map(str, [chosen.report, *written]))
    print(f"{len(report.labels)} images, accuracies in percent:\n{paths}")


def _options(given, chosen):
    """Returns the fields of `Options` that flags decide."""
    names = ("restarts", "last_iterate", "batch_size", "num_images", "seed", "image_type")
    return {name: getattr(given, name) for name in (*names, "overwrite", "save_every")} | {
        "verdict_file": verdicts.verdict_path(chosen.report),
        "image_file": artefacts.image_file(given.write, chosen.report),
    }


def _dataset(given, chosen, network):
    info = data.describe(chosen.dataset, chosen.data_dir, max_pixels=given.max_pixels)
    loading.check_images(network, chosen.image_size, info.num_channels)
    side = chosen.image_size or network.input_shape[1]
    dataset = data.load(
        chosen.dataset,
        chosen.split,
        batch_size=given.batch_size,
        image_size=side,
        eval_resize=chosen.eval_resize,
        data_dir=chosen.data_dir,
        max_pixels=given.max_pixels,
    )
    names = loading.class_names(chosen.source)
    num_classes = network.output_shape[-1]
    dataset = classes.labelled(dataset, info, num_classes, names, given.classes)
    num_images = info.num_examples[chosen.split]
    if given.ids is not None:
        wanted = selection.positions(given.ids, chosen.dataset, chosen.split, given.max_pixels)
        dataset, num_images = selection.Selected(dataset, wanted), len(wanted)
    num_images = min(num_images, given.num_images or num_images)
    sides = (side, side) if side else info.image_shape[:2]
    shape = (num_images, *sides, info.num_channels)
    artefacts.require_space(given.write, chosen.report, shape, given.image_type)
    return dataset


def _attacks(given, chosen, network, epsilon):
    attack_names.warn_of_fraction(epsilon)
    return attack_names.parse(
        given.attacks,
        epsilon=epsilon,
        norm=chosen.norm,
        num_classes=network.output_shape[-1],
        step_size=given.step_size,
    )


def _headline(given, chosen, attacks):
    sizes = sorted({attack.step_size for attack in attacks if isinstance(attack, PGD)})
    steps = f", step size {' '.join(f'{size:g}' for size in sizes)}" if sizes else ""
    restarts = f", restarts of PGD {given.restarts}" if sizes else ""
    return (
        f"{chosen.source} on {chosen.dataset} {chosen.split}:\n{chosen.norm} epsilon "
        f"{chosen.epsilon:g}{steps} ({UNIT}){restarts}"
    )


@contextlib.contextmanager
def _stoppable():
    """Makes Ctrl-C and SIGTERM end the program after what is known has been saved."""

    def stop(number, frame):
        del frame
        raise Interrupted("stopped; the same command continues", number)

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _print(report, with_steps):
    print(report.table())
    if report.curve:
        print(f"\n{report.curve_table()}")
    if with_steps:
        print(f"\n{report.steps_table()}")
    if report.saved_images:
        saved = report.saved_images.summary(report.clean & ~report.standing)
        still = f"{saved['num_still_broken']} of {saved['num_broken']} broken images"
        print(f"{still} are still broken as they are saved, in {saved['image_type']}")
    for check in report.checks:
        if check["passed"] is False:
            print(f"check {check['name']}: {check['found']}: {check['consequence']}")
    sys.stdout.flush()


def _own_flags():
    by_module = flags.FLAGS.flags_by_module_dict()
    ours = [
        flag for name, found in by_module.items() if name.startswith("flags.") for flag in found
    ]
    return sorted(flag.name for flag in ours)


if __name__ == "__main__":
    # Only a main defines flags: as a library this module leaves absl alone.
    from flags import evaluate as _flags
    from sat_tf.cli import run

    flags.adopt_module_key_flags(_flags)
    run(main)
