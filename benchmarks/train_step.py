"""How much does adversarial training cost?

    python -m benchmarks.train_step
    python -m benchmarks.train_step --dataset=cifar10 --rounds=9 --json=train_step.json
    python -m benchmarks.train_step --model=resnet50 --image_size=224 --batch_size=16 --nopytorch
    bash benchmarks/on_gpu.sh

Everything is timed in one run, in interleaved rounds; ratios are taken round by round, of the clock
and of the processor's seconds. Ours, the hand-written PyTorch loop and torch.compile have a process
each; requirements-benchmarks.txt names what they need.
"""

import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags

from benchmarks import machine, processes, step_cases, timing
from benchmarks.timing import Times
from flags import numbers
from sat_tf.evaluation.report.statistics import aligned
from sat_tf.runs import sealed

PYTORCH = {"PyTorch": "benchmarks.pytorch_steps", "torch.compile": "benchmarks.pytorch_steps"}
FLAGS = (
    "model", "activation", "dataset", "data_dir", "image_size", "batch_size", "rounds",
    "fit_steps", "threads", "precision", "attack_steps", "jit", "tf32",
)  # fmt: skip


def define_flags() -> None:
    """Defines the flags; only the main calls it."""
    flags.DEFINE_string("model", "resnet18:width=16", "Network, with options after a colon.")
    flags.DEFINE_string("activation", "swish", "The activation that is compared with relu.")
    flags.DEFINE_string("dataset", "digits", "Data set: digits (embedded) or a TFDS set.")
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data; default: TFDS_DATA_DIR.")
    numbers.whole("image_size", 32, "Side of the images in pixels.", 1, 8_192)
    numbers.whole("batch_size", 128, "Images a step.", 1, 2**20)
    numbers.whole("rounds", 7, "Times that everything is measured.", 1, 10_000)
    numbers.whole("fit_steps", 8, "Steps of fit in a round.", 2, 10_000)
    numbers.whole("threads", 0, "Threads of a CPU operation; 0: one a core.", 0, 1_024)
    flags.DEFINE_string("precision", "float32", "float32, mixed_bfloat16 or mixed_float16.")
    numbers.whole("attack_steps", 10, "Steps of the longer attack.", 2, 10_000)
    flags.DEFINE_bool("jit", False, "Compile our steps with XLA.")
    flags.DEFINE_bool("tf32", True, "Let a GPU multiply float32 numbers as TF32.")
    flags.DEFINE_bool("pytorch", True, "Compare with PyTorch, where that is installed.")
    flags.DEFINE_string("json", None, "Where all figures go, round by round.")
    flags.DEFINE_list("table", [], "Such files: they are shown as one table, and nothing is timed.")


def ratios(seconds: Mapping[str, np.ndarray], steps: int = 10) -> list[tuple[str, np.ndarray, str]]:
    """Returns (what, ratio in every round, aim) for what was timed, on one of the two clocks."""
    clean, one, more = seconds["clean"], seconds["pgd1"], seconds[f"pgd{steps}"]
    gradient = seconds["10 gradients"] / 10
    rows = [
        ("PGD-1 step / clean step", one / clean, "at most 1.55"),
        (f"PGD-{steps} step / clean step", more / clean, "at most 6.3" if steps == 10 else ""),
        ("PGD-1's cost a step / bare gradient", (one - clean) / gradient, ""),
        (
            f"PGD-{steps}'s cost a step / bare gradient",
            (more - clean) / steps / gradient,
            "below 1.05",
        ),
        ("clean step / relu's clean step", clean / seconds["relu clean"], ""),
        ("PGD-1 step / relu's PGD-1 step", one / seconds["relu pgd1"], "at most 1.08"),
        ("the convolutions alone / PGD-1 step", seconds["convolutions"] / one, ""),
        ("fit with PGD-1 / PGD-1 step", seconds["fit"] / one, "at most 1.05"),
    ]
    for name, aim in (("PyTorch", "at least 1.30"), ("torch.compile", "at least 1.0")):
        if name in seconds:
            rows.append((f"{name}'s PGD-1 step / ours", seconds[name] / one, aim))
    return rows


def tables(
    times: Mapping[str, Times],
    memory: Mapping[str, float | None],
    batch_size: int,
    attack_steps: int = 10,
) -> dict[str, list[list[str]]]:
    """Lays out times, ratios and memory, a table each, heads first."""
    found = {"steps": [["what", "ms", "processor ms", "images/s"]]}
    for name, (wall, processor, _) in times.items():
        figures = 1000 * np.median(wall), 1000 * np.median(processor), batch_size / np.median(wall)
        found["steps"].append([name, *(f"{figure:.1f}" for figure in figures)])
    found["ratios"] = [["ratio", "median", "quartiles", "processor", "quartiles", "aim"]]
    clocks = (
        ratios({name: one[clock] for name, one in times.items()}, attack_steps) for clock in (0, 1)
    )
    for (what, *values, aim), (_, busy, _) in zip(*clocks, strict=True):
        row = [what]
        for median, lower, upper in map(timing.quartiles, (*values, busy)):
            row += [f"{median:.3f}", f"{lower:.3f} to {upper:.3f}"]
        found["ratios"].append([*row, aim])
    measured = {name: peak for name, peak in memory.items() if peak is not None}
    if measured:
        rows = [[name, f"{x:.0f}", f"{x / measured['clean']:.3f}"] for name, x in measured.items()]
        found["memory"] = [["peak memory", "MiB", "/ clean"], *rows]
    return found


def compared(files: Sequence[Mapping]) -> str:
    """Writes a table of what several runs have written, a row each, in Markdown."""
    rows = []
    for content in files:
        given, seconds = content["given"], content["seconds"]
        longer = f"pgd{given['attack_steps']}"
        wall = {name: np.array(one["wall"]) for name, one in seconds.items()}
        speeds = [given["batch_size"] / np.median(wall[name]) for name in ("clean", "pgd1", longer)]
        slower = [wall["pgd1"] / wall["clean"], wall["pgd1"] / wall["relu pgd1"]]
        peaks = {name: mebibytes for name, mebibytes, _ in content.get("memory", [])}
        precision = given["precision"].removeprefix("mixed_")
        rows.append(
            [
                f"{given['model']}, {given['image_size']} pixels, batch {given['batch_size']}",
                "TF32" if precision == "float32" and given["tf32"] else precision,
                "on" if given["jit"] else "off",
                *(f"{speed:.1f}" for speed in speeds),
                *(f"{np.median(ratio):.2f}" for ratio in slower),
                peaks.get("pgd1", ""),
            ]
        )
    speeds = [f"{attack}, images/s" for attack in ("clean", "PGD-1", f"PGD-{longer[3:]}")]
    heads = ["", "precision", "XLA", *speeds, "PGD-1 / clean", "PGD-1 / relu's", "peak, MiB"]
    lines = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines)


def measure(given: dict, pytorch: bool):
    """Starts everything, warms it up and measures; returns times, memory and what was lost."""
    jobs = {"ours": "benchmarks.step_cases"} | (PYTORCH if pytorch else {})
    given = {**given, "epsilon": step_cases.EPSILON}
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.started(jobs, folder, given) as (cases, lost),
    ):
        if "ours" in lost:
            raise ValueError(lost["ours"])
        memory = cases.pop("memory")().result
        timing.interleaved(cases, 1, lost)
        times = timing.interleaved(cases, given["rounds"], lost)
    return times, memory, lost


def main() -> None:
    """Measures, prints and, where asked to, writes."""
    if flags.FLAGS.table:
        print(compared([sealed.read_json(path) for path in flags.FLAGS.table]))
        return
    given = {name: flags.FLAGS[name].value for name in FLAGS}
    given["threads"] = given["threads"] or machine.num_cores()
    about = machine.describe()
    print(
        f"{given['model']}, {given['activation']}, batch {given['batch_size']} of "
        f"{given['dataset']} at {given['image_size']} x {given['image_size']}, "
        f"{given['precision']}, {given['threads']} threads, {given['rounds']} rounds\n{about}",
        flush=True,
    )
    times, memory, lost = measure(given, flags.FLAGS.pytorch)
    found = tables(times, memory, given["batch_size"], given["attack_steps"])
    for rows in found.values():
        print(f"\n{aligned(rows)}")
    print(processes.told(lost), end="\n" if lost else "")
    machine.write(flags.FLAGS.json, about, times, {**found, "not_compared": lost, "given": given})


if __name__ == "__main__":
    define_flags()
    from sat_tf.cli import run

    run(main)
