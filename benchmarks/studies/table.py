"""What a study found: results read from files, a table with the spread over seeds, a picture."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sat_tf.runs import sealed

BASELINE = "relu"


class Result(NamedTuple):
    """One run.

    Attributes:
      clean_accuracy: on the test images, a fraction.
      adversarial_accuracy: of test images that stand after the attack, a fraction.
      cpu_seconds: processor time of training; None for a run that was stopped and went on.
    """

    clean_accuracy: float
    adversarial_accuracy: float
    cpu_seconds: float | None

    def __str__(self):
        return (
            f"clean {100 * self.clean_accuracy:.2f} %, adversarial "
            f"{100 * self.adversarial_accuracy:.2f} %"
        )


_KEYS = ("clean_accuracy", "adversarial_accuracy", "training_cpu_seconds")
Results = Mapping[str, Sequence[Result]]


def result(folder: str | pathlib.Path) -> Result:
    """Reads `test.json` of one run.

    Raises:
      ValueError: a file that is not there or lacks a figure.
    """
    folder = pathlib.Path(folder)
    try:
        test = sealed.read_json(folder / "test.json")
        return Result(*(test[field] for field in _KEYS))
    except (OSError, KeyError) as error:
        raise ValueError(f"{folder} holds no finished run of the study: {error!r}") from error


def collect(folder: str | pathlib.Path, rows: Sequence[str], seeds: Sequence[str]) -> Results:
    """Reads ROW_SEED of every row and seed."""
    folder = pathlib.Path(folder)
    return {row: [result(folder / f"{row}_{seed}") for seed in seeds] for row in rows}


def gains(results: Results, row: str, field: str) -> np.ndarray:
    """Returns what a row has over ReLU, seed by seed, in percentage points.

    A seed gives both networks the same batches and images, so its own luck falls out of the
    difference.
    """
    pairs = zip(results[row], results[BASELINE], strict=True)
    return 100 * np.array([getattr(one, field) - getattr(base, field) for one, base in pairs])


def markdown(results: Results) -> str:
    """Writes the mean and the sample standard deviation over seeds, in percent, as Markdown."""
    lines = [
        "| row | clean | adversarial | gain over relu, clean | gain over relu, adversarial | "
        "processor minutes |",
        "|---|---|---|---|---|---|",
    ]
    for row, runs in results.items():
        cells = [
            _spread([100 * getattr(run, field) for run in runs]) for field in Result._fields[:2]
        ]
        if row != BASELINE and BASELINE in results:
            cells += [_spread(gains(results, row, field), "+") for field in Result._fields[:2]]
        else:
            cells += ["", ""]
        times = [run.cpu_seconds / 60 for run in runs if run.cpu_seconds is not None]
        cells.append(f"{np.mean(times):.1f}" if times else "")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values, sign=""):
    mean = f"{np.mean(values):{sign}.2f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.2f}"


def picture(results: Results) -> Any:
    """Draws a dot for each run and a bar for each mean; returns a matplotlib figure."""
    # Imported here: the library itself needs no plotting library.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 0.42 * len(results) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    titles = ("clean accuracy in %", "adversarial accuracy in %")
    for axes, field, title in zip(panels, Result._fields, titles, strict=False):
        for height, (row, runs) in enumerate(results.items()):
            colour = "#d93025" if row.startswith(BASELINE) else "#1a73e8"
            values = [100 * getattr(run, field) for run in runs]
            axes.plot(values, [height] * len(values), "o", color=colour, alpha=0.6, markersize=5)
            axes.plot(
                [np.mean(values)] * 2, [height - 0.3, height + 0.3], color=colour, linewidth=2
            )
        axes.set_xlabel(title)
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(results)), [row.replace("_", " ") for row in results])
    panels[0].invert_yaxis()
    return figure
