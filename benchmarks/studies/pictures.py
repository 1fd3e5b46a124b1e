"""Pictures of a study, each for a light and for a dark page: NAME.png and NAME_dark.png."""

import io
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.studies import page
from benchmarks.studies.plan import Evaluation, Plan
from benchmarks.studies.record import Records
from sat_tf.runs import atomic


class Style(NamedTuple):
    """Colours of a picture, told apart by colour-blind people too (after Okabe and Ito)."""

    ink: str
    paper: str
    baseline: str
    others: tuple[str, ...]


LIGHT = Style("#1f2328", "#ffffff", "#d55e00", ("#0072b2", "#009e73", "#cc79a7"))
DARK = Style("#e6edf3", "#0d1117", "#ff8c42", ("#56b4e9", "#2fd6a3", "#e5a0c6"))
STYLES = {"": LIGHT, "_dark": DARK}


def draw_all(plan: Plan, records: Records, folder: pathlib.Path) -> None:
    """Draws the accuracies, and a curve of each evaluation that has one."""
    if any(column.accuracies(records, row) for column in page.measures(plan, records)
           for row in plan.rows):  # fmt: skip
        save(folder / "accuracies", lambda style: accuracies(plan, records, style))
    for one in plan.evaluations.values():
        if one.is_curve and any(curves(records, row, one) for row in one.rows):
            save(folder / one.name, lambda style, one=one: curve(plan, records, one, style))


def save(path: pathlib.Path, draw: Callable[[Style], Any]) -> None:
    """Writes a figure in each style."""
    for suffix, style in STYLES.items():
        file = io.BytesIO()
        draw(style).savefig(file, format="png", dpi=130, metadata={"Software": None})
        with atomic.replacing(path.with_name(f"{path.name}{suffix}.png")) as temporary:
            temporary.write_bytes(file.getvalue())


def accuracies(plan: Plan, records: Records, style: Style) -> Any:
    """Draws a dot for each run and a bar for each mean; returns a matplotlib figure."""
    columns = page.measures(plan, records)
    rows = [row for row in plan.rows if columns[0].accuracies(records, row)]
    figure, panels = empty(style, (2 + 2.2 * len(columns), 0.36 * len(rows) + 1.1), len(columns))
    for axes, column in zip(panels, columns, strict=True):
        for height, row in enumerate(rows):
            values = list(column.accuracies(records, row).values())
            if not values:
                continue
            colour = style.baseline if row.startswith("relu") else style.others[0]
            axes.plot(values, [height] * len(values), "o", color=colour, alpha=0.6, markersize=5)
            ends = [height - 0.3, height + 0.3]
            axes.plot([np.mean(values)] * 2, ends, color=colour, linewidth=2)
        axes.set_title(column.title, fontsize="medium", color=style.ink)
    panels[0].set_yticks(range(len(rows)), [row.replace("_", " ") for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel("accuracy in %", fontsize="medium", color=style.ink)
    return figure


def curves(records: Records, row: str, evaluation: Evaluation) -> dict[int, np.ndarray]:
    """Returns {seed: [[radius, accuracy in percent], …]} of what was run."""
    reports = {seed: run.report(evaluation.name) for seed, run in records[row].items()}
    return {
        seed: np.array(
            [[at["epsilon"], 100 * at["adversarial_accuracy"]] for at in report["curve"]]
        )
        for seed, report in reports.items()
        if report is not None
    }


def curve(plan: Plan, records: Records, evaluation: Evaluation, style: Style) -> Any:
    """Draws accuracy over epsilon: the mean of the seeds, and a band from the least to the most."""
    figure, (axes,) = empty(style, (6, 3.6), 1)
    colours = dict(zip(evaluation.rows, (style.baseline, *style.others), strict=False))
    for row in evaluation.rows:
        found = np.array(list(curves(records, row, evaluation).values()))
        if not len(found):
            continue
        radii, values = found[0, :, 0], found[:, :, 1]
        seeds = f"{len(found)} seed{'s' if len(found) > 1 else ''}"
        axes.fill_between(radii, values.min(0), values.max(0), color=colours[row], alpha=0.25,
                          linewidth=0)  # fmt: skip
        axes.plot(radii, values.mean(0), color=colours[row], marker="o", markersize=4,
                  label=f"{row}, {seeds}")  # fmt: skip
    axes.set(xlabel="epsilon in pixels (of 255)", ylim=(0, None), xlim=(0, None))
    axes.set_ylabel(f"{evaluation.title} accuracy in %")
    axes.legend(frameon=False, labelcolor=style.ink)
    return figure


def empty(style: Style, size: tuple[float, float], num_panels: int) -> tuple[Any, Any]:
    """Returns a figure of a style, and its panels side by side."""
    # Imported here: the library itself needs no plotting library.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", facecolor=style.paper)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, num_panels, sharey=True, squeeze=False)[0]
    for axes in panels:
        axes.set_facecolor(style.paper)
        axes.grid(color=style.ink, alpha=0.15)
        axes.tick_params(colors=style.ink)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color(style.ink)
        axes.xaxis.label.set_color(style.ink)
        axes.yaxis.label.set_color(style.ink)
    return figure, panels
