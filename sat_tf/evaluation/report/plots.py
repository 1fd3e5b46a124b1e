"""Pictures of a report, as PNG."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sat_tf.evaluation.outcome import steps_curve
from sat_tf.evaluation.report import Report
from sat_tf.evaluation.report.statistics import interval

_COLOURS = ("#1a73e8", "#d93025", "#188038", "#a142f4", "#e37400", "#12a4af", "#5f6368")


def draw_all(report: Report, class_names: Sequence[str] | None = None) -> dict[str, bytes]:
    """Draws "steps", "pictures" and, where the report has them, "curve" and "landscape".

    Returns:
      PNG files by name.
    """
    pictures = {"steps": png(steps(report)), "pictures": grid(report, class_names)}
    if report.landscape is not None:
        pictures["landscape"] = png(landscape(report, class_names))
    if report.curve:
        pictures["curve"] = png(curve(report))
    return pictures


def curve(report: Report) -> Any:
    """Draws accuracy over epsilon with its 95 % interval; returns a matplotlib figure."""
    figure, axes = _figure("epsilon in pixels (of 255)")
    radii = [point.epsilon for point in report.curve]
    low, high = np.transpose([interval(point.standing) for point in report.curve])
    axes.fill_between(radii, 100 * low, 100 * high, color=_COLOURS[0], alpha=0.15, linewidth=0)
    values = [100 * point.standing.mean() for point in report.curve]
    axes.plot(radii, values, color=_COLOURS[0], marker="o", markersize=4)
    for radius, value in zip(radii, values, strict=True):
        axes.annotate(f"{value:.1f}", (radius, value), (4, 5), textcoords="offset points")
    axes.set_xlim(left=0)
    _fit(axes, [*(100 * low), *(100 * high)])
    return figure


def landscape(report: Report, class_names: Sequence[str] | None = None) -> Any:
    """Draws the loss around an image as colours, and where another class becomes as likely.

    What is no finite number stays blank.

    Returns:
      A matplotlib figure.
    """
    found = report.landscape
    label = found.label if class_names is None else class_names[found.label]
    figure, axes = _figure(f"along the gradient, {found.norm} distance in pixels (of 255)")
    axes.set_ylabel(f"along random noise, {found.norm} distance in pixels")
    loss, margin = (np.ma.masked_invalid(one.T) for one in (found.loss, found.margin))
    filled = axes.contourf(found.offsets, found.offsets, loss, 20, cmap="viridis")
    figure.colorbar(filled, label="cross-entropy of the label")
    where = "wherever it answers" if loss.mask.any() else "everywhere here"
    said = f"the network is right {where}"
    if (margin < 0).any():
        said = "white line: beyond it the network says another class"
        lines = {"colors": "white", "linewidths": 1.5}
        axes.contour(found.offsets, found.offsets, margin, [0.0], **lines)
    if loss.mask.any():
        said += "; blank: a logit is no finite number"
    source = (report.facts.get("network") or {}).get("source")
    about = f"image {found.index}, {label}" + (f", {source}" if source else "")
    axes.set_title(f"{about}\n{said}", fontsize=9)
    axes.plot(0, 0, "o", color="white", markeredgecolor="black")
    axes.grid(visible=False)
    return figure


def steps(report: Report) -> Any:
    """Draws what stands after so many evaluations of each attack; returns a matplotlib figure.

    PGD attacks of which the shorter are the beginning of the longest are one line, with a mark at
    the end of each.
    """
    figure, axes = _figure("evaluations of an image by the attack (log scale)")
    groups = _one_line_each(report.outcomes)
    for number, group in enumerate(groups):
        outcome = group[-1]
        pairs = steps_curve(outcome)
        x = [step + 1 for step, _ in pairs]
        y = [100 * fraction for _, fraction in pairs]
        used = int(outcome.broken_step.max(initial=0))
        end = max(
            outcome.settings.get("num_steps", outcome.settings.get("steps", used) + 1), used + 1
        )
        colour = _COLOURS[number % len(_COLOURS)]
        style = "-" if number < len(_COLOURS) else "--"
        # Later lines are thinner, so that one that lies on another does not hide it.
        width = 1.5 + 0.9 * (len(groups) - 1 - number)
        label = ", ".join(one.name if one is group[0] else one.name[4:] for one in group)
        axes.step([*x, end], [*y, y[-1]], style, color=colour, linewidth=width, where="post")
        ends = [one.settings["steps"] + 1 for one in group] if len(group) > 1 else [end]
        marks = [100 * one.standing.mean() for one in group]
        axes.plot(ends, marks, "o", color=colour, markersize=4 + width, label=label)
    axes.axhline(100 * report.clean_accuracy, color="0.6", linewidth=0.8)
    axes.annotate("clean", (1, 100 * report.clean_accuracy), (2, 3), textcoords="offset points")
    axes.set_xscale("log")
    _fit(axes, [100 * report.clean_accuracy, *(y for line in axes.lines for y in line.get_ydata())])
    axes.legend(fontsize=8)
    return figure


def _one_line_each(outcomes):
    """Groups PGD attacks that were one run, the longest last."""
    groups = {}
    for number, outcome in enumerate(outcomes):
        settings = {k: v for k, v in outcome.settings.items() if k not in ("name", "steps")}
        key = number if outcome.last_iterate is None else repr(sorted(settings.items()))
        groups.setdefault(key, []).append(outcome)
    return list(groups.values())


def _fit(axes, values):
    """Lets the axis of accuracies span what is drawn, and says so where it does not begin at 0."""
    low, high = min(values), max(values)
    room = max(0.12 * (high - low), 0.5)
    bottom = low - room if low > (high - low) / 2 else 0
    bottom = max(0, math.floor(bottom))
    axes.set_ylim(bottom, min(100.5, high + room))
    if bottom:
        axes.set_ylabel(f"accuracy in % (from {bottom})")


def grid(report: Report, class_names: Sequence[str] | None = None) -> bytes:
    """Draws the first images: clean, perturbation, adversarial, each with its prediction."""
    from PIL import Image

    from sat_tf.callbacks import pictures

    shown = report.examples
    drawn = pictures.draw(
        shown.clean, shown.adversarial, shown.labels, shown.probabilities, class_names
    )
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "png")
    return file.getvalue()


def heat_map(values: np.ndarray, rows: Sequence[str], columns: Sequence[int]) -> Any:
    """Draws percentages under each corruption at each severity; returns a matplotlib figure.

    Args:
      values: [rows, columns], from 0 to 100, each also written in its cell.
      rows: names of the corruptions.
      columns: the severities.
    """
    figure, axes = _axes((1.6 + 0.75 * len(columns) + 1.2, 1.2 + 0.3 * len(rows)), "severity")
    drawn = axes.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(columns)), map(str, columns))
    axes.set_yticks(range(len(rows)), [row.replace("_", " ") for row in rows])
    for (row, column), value in np.ndenumerate(values):
        # White on the dark half of the colours, black on the bright one.
        colour = "white" if value < 60 else "black"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(drawn, label="accuracy in %")
    return figure


def _figure(x_label):
    figure, axes = _axes((6, 3.6), x_label)
    axes.set_ylabel("accuracy in %")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _axes(size, x_label):
    # Imported here: an evaluation that draws nothing needs no plotting library.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot(xlabel=x_label)


def png(figure: Any) -> bytes:
    """Writes a matplotlib figure."""
    file = io.BytesIO()
    figure.savefig(file, dpi=150, metadata={"Software": None})
    return file.getvalue()
