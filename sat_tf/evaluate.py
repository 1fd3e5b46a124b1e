"""Measures clean and adversarial accuracy.

    python -m sat_tf.evaluate --workdir=runs/digits
    python -m sat_tf.evaluate --workdir=runs/digits --attacks=autoattack
    python -m sat_tf.evaluate --network=mine.keras --dataset=cifar10 --epsilon=8
    python -m sat_tf.evaluate --workdir=runs/cifar10 --corruptions=all

An evaluation that was stopped goes on with the same command.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from flags import evaluate as own_flags
from sat_tf import cli
from sat_tf.attacks import PGD, transfer
from sat_tf.attacks import names as attack_names
from sat_tf.evaluation import corruptions, shares, verdicts
from sat_tf.evaluation.options import Options
from sat_tf.evaluation.report import UNIT, Report, artefacts
from sat_tf.evaluation.report.union import Union
from sat_tf.evaluation.session import Session
from sat_tf.evaluation.settings import complete, load_images, load_network, load_surrogate
from sat_tf.runs import Interrupted, atomic, handling_stops


def evaluate(
    network: Callable[..., Any],
    dataset: Any,
    attacks: Sequence[Any],
    options: Options | None = None,
    about: Mapping[str, Mapping[str, Any]] | None = None,
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
      options: restarts, batch_size, num_images, seed, curve, …; None takes all defaults.
      about: facts of the report that only the caller knows: `{"data": {"dataset": "digits"}}`.

    Raises:
      ValueError: no image, no attack that can run, pixels outside [0, 255], labels beyond the
        classes, a damaged verdict file or one of another evaluation.
      ball.OutsideBall: an attack returned an image outside the ball or the pixel range.
    """
    if not attacks:
        raise ValueError("attacks is empty; give at least one, such as PGD")
    return Session(network, dataset, attacks, options or Options()).prepare().run(about or {})


def main() -> None:
    """Evaluates the network that the flags name, prints the tables and writes the report."""
    settings = complete(flags.FLAGS)
    if settings.flags.corruptions:
        _measure_corruptions(settings)
        return
    _refuse_without_corruptions(settings.flags)
    # Whatever can be refused is refused before an attack, in the order of what it costs to see.
    artefacts.check_names(settings.flags.write)
    worker = shares.Worker.of(settings.flags)
    network, strategy = load_network(settings)
    each = settings.each() or [settings]
    surrogate = load_surrogate(settings, network, strategy)
    attacks = [
        {radius: _attacks(one, network, surrogate, radius) for radius in one.radii} for one in each
    ]
    dataset, shape = load_images(settings, network)
    write, image_type = settings.flags.write, settings.flags.image_type
    own = [dataclasses.replace(one, report=worker.place(one.report)) for one in each]
    artefacts.require_space(write, [one.report for one in own], shape, image_type)
    # Held until all is written, so that two evaluations cannot mix their files.
    with contextlib.ExitStack() as held:
        if settings.balls and worker.index == 0:
            _refuse_other_kind(settings, "norms")
            held.enter_context(artefacts.reserve({"html"} & set(write), settings.report))
        for one in own:
            _refuse_other_kind(one, "attacks")
            held.enter_context(artefacts.reserve(write, one.report))
        held.enter_context(handling_stops(_stop))
        sessions = [
            _session(one, network, dataset, its_attacks, strategy)
            for one, its_attacks in zip(own, attacks, strict=True)
        ]
        _evaluate(settings, worker, list(zip(each, sessions, strict=True)))


def _session(settings, network, dataset, attacks, strategy):
    """Prepares the evaluation in one ball, which reads what an earlier process left of it."""
    options = _options(settings, network, attacks, strategy)
    return Session(network, dataset, attacks[settings.epsilon], options).prepare()


def _evaluate(settings, worker, balls):
    """Attacks in all balls; all workers' verdicts are printed and written by worker 0."""
    for one, session in balls:
        worker.attack(session, one.report)
    if worker.index:
        print(f"worker {worker.index} is through; worker 0 writes {settings.report}")
        return
    for one, session in balls:
        worker.collect(session, one.report)
    reports = {one.norm: _run(one, session) for one, session in balls}
    if settings.balls:
        _write_union(settings, reports)


def _run(settings, session):
    """Evaluates in one ball, prints and writes what was found, and returns it."""
    print(_headline(settings, session.attacks), flush=True)
    report = session.run(_about(settings))
    _write(report, settings)
    return report


def _write_union(settings, reports):
    """Writes and prints what stands in several balls, and in all of them."""
    union = Union(reports, {one.norm: one.report.name for one in settings.each()})
    union.save(settings.report)
    balls = ", ".join(f"{norm} epsilon {epsilon:g}" for norm, epsilon in settings.balls)
    written = [settings.report]
    if "html" in settings.flags.write:
        written.append(settings.report.with_suffix(".html"))
        atomic.write_text(written[-1], union.html(f"Robustness of {settings.source}: {balls}"))
    paths = "\n".join(map(str, written))
    print(f"{union.table()}\n{balls} ({UNIT}), accuracies in percent:\n{paths}")


def _measure_corruptions(settings):
    """Measures corrupted images in place of attacks, prints the table and writes the report."""
    write = settings.flags.write
    artefacts.check_names(write, ("html", "plots"))
    kinds = corruptions.Kinds.of(settings)
    _refuse_other_kind(settings, "corruptions")
    network, _ = load_network(settings)
    corruptions.refuse_other(settings, network)
    print(f"{settings.source} on {settings.dataset} {settings.split}, corrupted", flush=True)
    with artefacts.reserve(write, settings.report):
        with handling_stops(_begin_anew):
            report = corruptions.measure(settings, kinds, network, _about(settings))
        report.save(settings.report)
        print(report.text(), flush=True)
        title = f"{settings.source} under corruptions"
        written = artefacts.write_corruptions(report, write, settings.report, title)
    paths = "\n".join(map(str, [settings.report, *written]))
    print(f"{report.num_images} images of each kind, accuracies in percent:\n{paths}")


def _refuse_without_corruptions(given):
    for name in ("severities", "corruption_baseline"):
        if given[name].present:
            raise ValueError(f"--{name} is of corruptions; give --corruptions=all as well")


def _attacks(settings, network, surrogate, epsilon):
    attack_names.warn_of_fraction(epsilon)
    attacks = attack_names.parse(
        settings.flags.attacks,
        epsilon=epsilon,
        norm=settings.norm,
        num_classes=network.output_shape[-1],
        step_size=settings.flags.step_size,
    )
    return [transfer.make(attack, *surrogate) for attack in attacks] if surrogate else attacks


def _headline(settings, attacks):
    inner = [getattr(attack, "pgd", attack) for attack in attacks]  # of PGD towards a class
    sizes = sorted({attack.step_size for attack in inner if isinstance(attack, PGD)})
    steps = f", step size {' '.join(f'{size:g}' for size in sizes)}" if sizes else ""
    restarts = f", restarts of PGD {settings.flags.restarts}" if sizes else ""
    surrogate = settings.flags.surrogate
    seen = f", attacked on {surrogate}" if surrogate else ""
    return (
        f"{settings.source} on {settings.dataset} {settings.split}{seen}:\n{settings.norm} epsilon "
        f"{settings.epsilon:g}{steps} ({UNIT}){restarts}"
    )


def _options(settings, network, attacks, strategy):
    names = (
        "restarts last_iterate batch_size num_images fold_batch_norm seed image_type overwrite "
        "save_every"
    ).split()
    num_classes = network.output_shape[-1]
    return Options(
        **{name: getattr(settings.flags, name) for name in names},
        curve={epsilon: attacks[epsilon] for epsilon in settings.curve},
        left_out=attack_names.left_out(
            settings.flags.attacks, norm=settings.norm, num_classes=num_classes
        ),
        strategy=strategy,
        verdict_file=verdicts.verdict_path(settings.report),
        landscape="landscape" in settings.flags.write,
        image_file=artefacts.image_file(settings.flags.write, settings.report),
        show_progress=True,
    )


def _refuse_other_kind(settings, kind):
    if not settings.flags.overwrite:
        artefacts.refuse_other_kind(settings.report, kind)


def _about(settings):
    """Returns the facts of the report that only the program knows."""
    return {
        "network": {"source": settings.source},
        "data": {"dataset": settings.dataset, "split": settings.split},
        "flags": {name: getattr(settings.flags, name) for name in _own_flags()},
    }


def _own_flags():
    ours = flags.FLAGS.flags_by_module_dict()[own_flags.__name__]
    return sorted(flag.name for flag in ours)


def _write(report, settings):
    """Writes and prints what was found."""
    try:
        report.save(settings.report)
    finally:
        # Whatever cannot be written, the figures are on the terminal.
        print(report.text(settings.flags.steps_curve), flush=True)
    title = f"Robustness of {settings.source}: {settings.norm} epsilon {settings.epsilon:g}"
    about = settings.about | {"dataset": settings.dataset}
    written = artefacts.write(
        report, settings.flags.write, settings.report, title=title, about=about
    )
    if "quick" in settings.flags.attacks:
        print(
            "quick is a first verdict: standard can break more, and its figure is the one to report"
        )
    paths = "\n".join(map(str, [settings.report, *written]))
    print(f"{len(report.labels)} images, accuracies in percent:\n{paths}")


def _stop(number, frame):
    """Ends the program, on Ctrl-C or SIGTERM; the session saves what is known on its way out."""
    del frame
    raise Interrupted("stopped; the same command continues", number)


def _begin_anew(number, frame):
    """Ends a measurement of corruptions, of which nothing is kept on the way."""
    del frame
    raise Interrupted("stopped; the same command begins anew", number)


def command() -> None:
    """Runs the program with the flags of the command line."""
    cli.run(main, own_flags)


if __name__ == "__main__":
    command()
