"""Does smooth win?

    python -m benchmarks.studies.smooth
    python -m benchmarks.studies.smooth --seeds=0,1,2 --results=docs/results/study
    python -m benchmarks.studies.smooth --rows=relu,swish --seeds=0 --attack=pgd-50

Trains a small network on CIFAR-10 for every row of the paper's activation study and of its
gradient-quality study, with several seeds; attacks each on the test images; writes the table and a
picture. A run whose result is there is not repeated, so a study that was stopped goes on.
"""

import concurrent.futures
import os
import pathlib
import subprocess
import sys

from absl import flags

from benchmarks.studies import table
from flags import numbers
from sat_tf.runs import atomic, sealed

RECIPE = "flags/recipes/cifar10_study.flags"
# The derivative of the gradient-quality rows, as in the paper.
SMOOTH = "parametric_softplus:alpha=10"
ROWS = {
    "relu": ("--activation=relu",),
    "swish": ("--activation=swish",),
    "relu_better_attack_gradient": ("--activation=relu", f"--attack_gradient={SMOOTH}"),
    "relu_better_update_gradient": ("--activation=relu", f"--update_gradient={SMOOTH}"),
    "relu_better_gradients": (
        "--activation=relu",
        f"--attack_gradient={SMOOTH}",
        f"--update_gradient={SMOOTH}",
    ),
    "parametric_softplus": (f"--activation={SMOOTH}",),
    "elu": ("--activation=elu",),
    "gelu": ("--activation=gelu",),
    "smoothrelu": ("--activation=smoothrelu",),
}


def define_flags() -> None:
    """Defines the flags; only the main calls it."""
    flags.DEFINE_list("rows", list(ROWS), "What to compare.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every row.")
    flags.DEFINE_string("runs", "runs/study", "Where the runs go: weights, checkpoints, logs.")
    flags.DEFINE_string("results", "runs/study", "Where ROW_SEED/metrics.json and the table go.")
    numbers.whole("workers", 1, "Runs at a time, one thread each.", 1, 64)
    flags.DEFINE_string("attack", "pgd-20", "What attacks the test images; broken images leave.")
    numbers.whole("num_images", 5_000, "Test images from the beginning.", 1)


def measure(row: str, seed: str, given) -> None:
    """Trains and attacks one network, each in a process of its own; keeps what was measured.

    Raises:
      ValueError: the training or the evaluation failed; it names the log.
    """
    name = f"{row}_{seed}"
    kept = pathlib.Path(given.results) / name
    if (kept / "test.json").exists():
        return
    workdir = pathlib.Path(given.runs) / name
    fresh = not workdir.exists()
    workdir.parent.mkdir(parents=True, exist_ok=True)
    report = workdir / "report.json"
    seconds = _python(
        workdir,
        ["sat_tf.train", f"--flagfile={RECIPE}", *ROWS[row]],
        [f"--seed={seed}", f"--workdir={workdir}"],
    )
    _python(
        workdir,
        ["sat_tf.evaluate", f"--workdir={workdir}", f"--attacks={given.attack}"],
        ["--nolast_iterate", f"--num_images={given.num_images}", f"--json={report}"],
    )
    kept.mkdir(parents=True, exist_ok=True)
    # Without the verdicts of single images: they fill hundreds of kilobytes.
    found = sealed.read_json(report)
    del found["images"]
    # A run that was continued has paid more than this session knows of.
    found["training_cpu_seconds"] = round(seconds) if fresh else None
    atomic.write_text(kept / "metrics.json", (workdir / "metrics.json").read_text())
    sealed.write_json(kept / "test.json", found)
    print(f"{name}: {table.result(kept)}", flush=True)


def _python(workdir, command, options):
    """Runs a module to its end; returns the seconds of processor time that it took."""
    log = workdir.with_name(f"{workdir.name}.log")  # a workdir takes nobody else's files
    path = os.pathsep.join(sys.path)  # where alone Bazel's programs have their packages
    with log.open("a") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *options], stdout=output, stderr=output,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(
            f"{command[0]} of {workdir} ended with status {process.returncode}: see {log}"
        )
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measures what is missing, prints the table and draws the picture."""
    given = flags.FLAGS
    if unknown := sorted(set(given.rows) - set(ROWS)):
        raise ValueError(f"unknown rows {', '.join(unknown)}; valid are: {', '.join(ROWS)}")
    with concurrent.futures.ThreadPoolExecutor(given.workers) as pool:
        # All rows of a seed before the next one: a study that is cut short can be compared.
        jobs = [
            pool.submit(measure, row, seed, given) for seed in given.seeds for row in given.rows
        ]
        try:
            for job in concurrent.futures.as_completed(jobs):
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    results = table.collect(given.results, given.rows, given.seeds)
    text = table.markdown(results)
    print(text)
    folder = pathlib.Path(given.results)
    atomic.write_text(folder / "table.md", text + "\n")
    table.picture(results).savefig(folder / "study.png", dpi=120)


if __name__ == "__main__":
    define_flags()
    from sat_tf.cli import run

    run(main)
