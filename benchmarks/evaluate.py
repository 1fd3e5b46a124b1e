"""What does leaving broken images save, and what does AutoAttack cost beside its reference?

    python -m benchmarks.evaluate
    python -m benchmarks.evaluate --workdir=runs/cifar10_swish --only=packed,plain,foolbox
    python -m benchmarks.evaluate --attacks=standard --threads=1 --json=autoattack.json
    python -m benchmarks.evaluate --step_costs --batch_size=96 --threads=1

PGD with one random start on the same network and images: packed; the same without packing, from
which the verdicts must not differ; foolbox's and ART's PGD on the same Keras network; a PyTorch
loop on the same weights. With --attacks: each attack of AutoAttack, and its reference (the package
pyautoattack) on the same weights, on what ours before it left standing. With --step_costs: a step
of each attack over the network's own passes. Each contender has a process of its own;
requirements-benchmarks.txt names what they need.
"""

import pathlib
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
from absl import flags

from benchmarks import machine, problems, processes, tables, timing
from benchmarks.timing import Times
from flags import numbers
from sat_tf import specs
from sat_tf.attacks import autoattack, losses
from sat_tf.evaluation.report.statistics import aligned

PGD = {
    **dict.fromkeys(("packed", "plain", "foolbox", "ART"), "benchmarks.contenders"),
    "PyTorch loop": "benchmarks.pytorch_attack",
}
AUTOATTACK = {"ours": "benchmarks.slots", "pyautoattack": "benchmarks.pytorch_attack"}
FLAGS = (
    "workdir", "dataset", "data_dir", "num_images", "batch_size", "attack_steps", "epsilon",
    "attacks", "square_queries", "rounds", "threads",
)  # fmt: skip


def define_flags() -> None:
    """Defines the flags; only the main calls it."""
    flags.DEFINE_string("workdir", None, "A run; default: a small network, trained here on digits.")
    flags.DEFINE_string("dataset", "digits", "Data set: digits (embedded) or a TFDS set.")
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data; default: TFDS_DATA_DIR.")
    numbers.whole("num_images", 256, "Images of the test split.", 1)
    numbers.whole("batch_size", 128, "Images evaluated at once.", 1, 2**20)
    numbers.whole("attack_steps", 200, "Steps of PGD.", 1, 10_000)
    numbers.pixels("epsilon", 8.0, "Radius in pixels; ignored without a workdir.")
    flags.DEFINE_list("attacks", [], "Of AutoAttack, in their order, or a version: standard.")
    numbers.whole("square_queries", 5000, "Queries of Square.", 1, 2**20)
    flags.DEFINE_bool("step_costs", False, "Measure a step of each attack instead.")
    numbers.whole("rounds", 1, "Times that each contender runs.", 1, 10_000)
    numbers.whole("threads", 0, "Threads of a CPU operation; 0: one a core.", 0, 1_024)
    flags.DEFINE_list("only", [], "Contenders by the beginning of their names; default: all.")
    flags.DEFINE_string("json", None, "Where all figures go, round by round.")


def chosen_attacks(names: Sequence[str]) -> list[str]:
    """Returns the names of attacks, those of a version where it is named.

    Raises:
      ValueError: an unknown one.
    """
    found = []
    for name in names:
        specs.one_of("attack", name, (*autoattack.VERSIONS, *autoattack.NAMES))
        found += autoattack.members(name) if name in autoattack.VERSIONS else [name]
    return list(dict.fromkeys(found))


def chosen(jobs: Mapping[str, str], only: Sequence[str]) -> dict[str, str]:
    """Returns the first contender, and the others whose names begin as asked for; all for none.

    Raises:
      ValueError: a beginning of none.
    """
    for one in only:
        if not any(name.startswith(one) for name in jobs):
            raise ValueError(f"--only has {one}; valid are: {', '.join(jobs)}")
    return {
        name: module
        for number, (name, module) in enumerate(jobs.items())
        if not number or not only or any(name.startswith(one) for one in only)
    }


def run_autoattack(
    cases, attacks, folder, problem, rounds, lost
) -> Iterator[tuple[dict[str, Times], dict[str, str]]]:
    """Runs one attack after the other, each on what ours before it left standing.

    Yields:
      After each attack the times so far, and what was lost.
    """
    logits = problem.network.predict(problem.images, verbose=0)
    standing, times = ~losses.misclassified(logits, problem.labels).numpy(), {}
    for attack in attacks:
        np.save(pathlib.Path(folder, "candidates.npy"), standing)
        if not standing.any():
            break
        now = {name: cases[name] for name in cases if name.split(" ", 1)[1] == attack}
        times |= timing.interleaved(now, rounds, lost)
        if f"ours {attack}" not in times:
            raise ValueError(f"ours: {lost[f'ours {attack}']}")
        standing[standing] = np.array(times[f"ours {attack}"].results[0]["standing"], bool)
        yield times, lost


def measure(given: types.SimpleNamespace, jobs: Mapping[str, str], problem: problems.Problem):
    """Starts the contenders and measures; yields times and what was lost, after each AutoAttack."""
    with tempfile.TemporaryDirectory() as folder:
        problems.save(problem, folder)
        with processes.started(jobs, folder, vars(given)) as (cases, lost):
            first = next(iter(jobs))
            if first in lost:
                raise ValueError(f"{first}: {lost[first]}")
            if jobs.keys() & AUTOATTACK.keys():
                yield from run_autoattack(cases, given.attacks, folder, problem, given.rounds, lost)
            else:
                yield timing.interleaved(cases, given.rounds, lost), lost


def main() -> None:
    """Measures, prints and, where asked to, writes."""
    given = types.SimpleNamespace(**{name: flags.FLAGS[name].value for name in FLAGS})
    given.threads, about = given.threads or machine.num_cores(), machine.describe()
    given.attacks = chosen_attacks(given.attacks)
    jobs, table, what = chosen(PGD, flags.FLAGS.only), tables.pgd, f"PGD-{given.attack_steps}"
    if flags.FLAGS.step_costs:
        given.attacks = given.attacks or chosen_attacks(["standard"])
        jobs, table, what = {"step costs": "benchmarks.slots"}, tables.step, "a step of each attack"
    elif given.attacks:
        jobs, table = chosen(AUTOATTACK, flags.FLAGS.only), tables.autoattack
        what = f"{', '.join(given.attacks)} (Square with {given.square_queries} queries)"
    keras.utils.set_random_seed(0)
    problem = problems.of_run(given) if given.workdir else problems.digits(given.num_images)
    print(
        f"{what}, epsilon {problem.epsilon:g} of 255, {len(problem.labels)} images, batch "
        f"{given.batch_size}, {problem.network.name}, {given.threads} threads, {given.rounds} "
        f"rounds\n{about}\n",
        flush=True,
    )
    for times, lost in measure(given, jobs, problem):
        rows = table(times)
        machine.write(flags.FLAGS.json, about, times, {"table": rows, "not_compared": lost})
    print(aligned(rows))
    if "plain" in times:
        print("packed and plain: the same verdicts, image by image; misclassified images included")
    print(processes.told(lost).lstrip("\n"), end="\n" if lost else "")


if __name__ == "__main__":
    define_flags()
    from sat_tf.cli import run

    run(main)
