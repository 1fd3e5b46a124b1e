"""Does smooth win? Trains and evaluates the networks of a plan, and writes what it found.

    python -m benchmarks.studies.study --plan=small
    python -m benchmarks.studies.study --plan=activations --rows=relu,swish --evaluations=pgd
    python -m benchmarks.studies.study --plan=activations --redraw

A plan names rows, seeds and evaluations (see benchmarks/studies/plans). Each row gets all its seeds
before the next begins. What a run gave stands in docs/results/study/PLAN/ROW_SEED.json, and is not
computed again: a study that was stopped, by `kill -9` as well, goes on with the same command.
Tables (in docs/results.md and README.md) and pictures are drawn from these files alone.
"""

import concurrent.futures
import fcntl
import os
import pathlib
import subprocess
import sys

from absl import flags

from benchmarks.studies import page, pictures, plan, record
from flags import numbers
from sat_tf.runs import atomic, sealed, workdir


def define_flags() -> None:
    """Defines the flags; only the main calls it."""
    flags.DEFINE_string("plan", "small", "A plan of benchmarks/studies/plans, or a path of one.")
    flags.DEFINE_list("rows", [], "Rows to run; default: all of the plan.")
    flags.DEFINE_list("seeds", [], "Seeds to run; default: all of each row.")
    flags.DEFINE_list("evaluations", [], "Evaluations to run; default: all of each row.")
    flags.DEFINE_string(
        "runs", None, "Where the runs go, as ROW_SEED; default: runs/study/PLAN. A run that is "
        "there already is taken up, if its flags are those of the plan.",
    )  # fmt: skip
    flags.DEFINE_string(
        "results", None, "Where ROW_SEED.json and pictures go; default: docs/results/study/PLAN."
    )
    pages = ["docs/results.md", "README.md"]
    flags.DEFINE_list("page", pages, "Pages that have the tables between marks; may be empty.")
    flags.DEFINE_bool("redraw", False, "Run nothing: write tables and pictures from the files.")
    numbers.whole("workers", 1, "Runs at a time.", 1, 64)


def measure(
    run: record.Record, row: plan.Row, evaluations: list[plan.Evaluation], runs: pathlib.Path
) -> None:
    """Trains a network and attacks it, as far as that is not done; keeps each result at once.

    Raises:
      ValueError: the training or an evaluation failed; with what it said, and its log.
    """
    missing = [one for one in evaluations if run.report(one.name) is None]
    if run.content["training"] is not None and not missing:
        return
    path = runs / run.name
    if run.content["training"] is None or not (path / "network.keras").exists():
        train(run, row, path)
    for one in missing:
        report = path / f"study_{one.name}.json"
        _python(
            ["sat_tf.evaluate", f"--workdir={path}", f"--json={report}", "--write=", *one.flags],
            path,
            report.with_suffix(".lock"),
        )
        run.evaluated(one, sealed.read_json(report))
        found = run.report(one.name)
        print(
            f"{run.name}: clean {100 * record.clean(found):.2f} %, {one.title} "
            f"{100 * record.robust(found):.2f} % of {found['num_images']:,} images",
            flush=True,
        )


def train(run: record.Record, row: plan.Row, path: pathlib.Path) -> None:
    """Trains to the end, whatever of it is done: `train` compares the flags of what is there."""
    fresh = not path.exists()
    options = [f"--seed={run.content['seed']}", f"--workdir={path}", "--test_steps=0"]
    seconds = _python(["sat_tf.train", *row.flags, *options], path, path / "lock")
    # A run that was continued has paid more than this session knows of.
    run.trained(workdir.read_metrics(path), round(seconds) if fresh else None)


def _python(command, path, lock):
    """Runs a module to its end; returns the seconds of processor time that it took."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if lock.exists():
        with lock.open() as held:  # by what a study began that was killed: it goes on to its end
            fcntl.flock(held, fcntl.LOCK_EX)
    log = path.with_name(f"{path.name}.log")  # a workdir takes nobody else's files
    places = os.pathsep.join(sys.path)  # where alone Bazel's programs have their packages
    with log.open("a") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=output, stderr=output,
            env=os.environ | {"PYTHONPATH": places},
        )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise ValueError(
            f"{command[0]} of {path} ended with status {process.returncode}: {said} ({log})"
        )
    return usage.ru_utime + usage.ru_stime


def draw(asked: plan.Plan, results: pathlib.Path, pages: list[str]) -> None:
    """Writes the tables into the pages, prints them, and draws the pictures."""
    found = record.collect(asked, results)
    print(page.section(asked, found))
    for name in page.write(pages, asked, found):
        print(f"{name} has no place for the study {asked.name}")
    pictures.draw_all(asked, found, results)


def main() -> None:
    """Runs what is missing, and draws."""
    given = flags.FLAGS
    for name in ("rows", "seeds", "evaluations") if given.redraw else ():
        if getattr(given, name):
            raise ValueError(f"--redraw draws all that the plan has; leave --{name} out")
    asked = plan.read(given.plan)
    results = pathlib.Path(given.results or f"docs/results/study/{asked.name}")
    runs = pathlib.Path(given.runs or f"runs/study/{asked.name}")
    atomic.refuse_remote(runs)  # which also waits for the locks of what a killed study began
    known = sorted({seed for row in asked.rows.values() for seed in row.seeds})
    seeds = plan.chosen("seed", given.seeds, map(str, known))
    names = plan.chosen("evaluation", given.evaluations, asked.evaluations)
    rows = [asked.rows[name] for name in plan.chosen("row", given.rows, asked.rows)]
    found = record.collect(asked, results)  # all files are read before anything runs
    if not given.redraw:
        with concurrent.futures.ThreadPoolExecutor(given.workers) as pool:
            jobs = [
                pool.submit(
                    measure,
                    found[row.name][seed],
                    row,
                    [one for one in asked.of_row(row.name) if one.name in names],
                    runs,
                )
                for row in rows
                for seed in row.seeds
                if str(seed) in seeds
            ]
            try:
                for job in concurrent.futures.as_completed(jobs):
                    job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    draw(asked, results, given.page)


if __name__ == "__main__":
    define_flags()
    from sat_tf.cli import run

    run(main)
