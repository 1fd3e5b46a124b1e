"""The tables of `benchmarks.evaluate`: rows of cells, heads first."""

from collections.abc import Mapping

import numpy as np

from benchmarks import timing
from benchmarks.timing import Times


def pgd(times: Mapping[str, Times]) -> list[list[str]]:
    """Lays out who computed PGD how fast; medians of the rounds, over packed round by round.

    Raises:
      ValueError: packed and plain evaluation differ.
    """
    rows = [["", "seconds", "images/s", "times packed", "processor s", "times packed", "standing"]]
    packed = times["packed"]
    for name, (wall, processor, results) in times.items():
        if name == "plain" and results[0] != packed.results[0]:
            raise ValueError("packed and plain evaluation give different verdicts")
        figures = (
            f"{np.median(wall):.1f}",
            f"{len(results[0]) / np.median(wall):.2f}",
            f"{np.median(wall / packed.wall):.2f}",
            f"{np.median(processor):.1f}",
            f"{np.median(processor / packed.processor):.2f}",
            f"{100 * np.mean(results[0]):.1f} %",
        )
        rows.append([name, *figures])
    return rows


def autoattack(times: Mapping[str, Times]) -> list[list[str]]:
    """Lays out ours and the reference attack by attack; the last row sums those both have run.

    Args:
      times: of "ours NAME" and "pyautoattack NAME".
    """
    heads = (
        "attacked", "ours\nstanding", "reference\nstanding", "both\nstanding", "ours\nneeded",
        "ours\npaid", "reference\npaid", "ours\nprocessor s", "reference\nprocessor s",
        "reference\n/ ours", "by the\nclock",
    )  # fmt: skip
    rows, sums = [["", *heads]], np.zeros(4)
    for name, ours in times.items():
        if not name.startswith("ours "):
            continue
        attack = name.removeprefix("ours ")
        result, theirs = ours.results[0], times.get(f"pyautoattack {attack}")
        stand = np.array(result["standing"], bool)
        other = np.array(theirs.results[0]["standing"], bool) if theirs else None
        seconds = [np.median(one) for side in (ours, theirs) if side for one in side[:2]]
        rows.append([attack, f"{len(stand)}", f"{stand.sum()}"])
        rows[-1] += [f"{other.sum()}", f"{(stand & other).sum()}"] if theirs else ["", ""]
        rows[-1] += [f"{result['needed']:,}", f"{result['paid']:,}"]
        rows[-1] += [f"{theirs.results[0]['paid']:,}" if theirs else "", f"{seconds[1]:.1f}"]
        if theirs:
            rows[-1] += _over(np.array(seconds))
            sums += seconds
        else:
            rows[-1] += ["", "", ""]
    rows.append(["sum", *[""] * 7, f"{sums[1]:.1f}", *_over(sums)] if sums.any() else [])
    return rows if rows[-1] else rows[:-1]


def _over(seconds):
    return [f"{seconds[3]:.1f}", *(f"{seconds[2 + i] / seconds[i]:.2f}" for i in (1, 0))]


def step(times: Mapping[str, Times]) -> list[list[str]]:
    """Lays out what a step costs over the network's passes: processor seconds, round by round."""
    forward, gradient = times["forward"].processor, times["gradient"].processor
    heads = ("ms", "/ forward", "/ gradient", "/ its passes", "quartiles", "what these are")
    rows = [["", *heads]]
    for name, (_, seconds, _) in times.items():
        passes, what = gradient, "gradient"
        if name in ("square", "forward"):
            passes, what = forward, "forward"
        elif name.startswith("fab"):
            passes, what = gradient + forward, "gradient + forward"
        median, lower, upper = timing.quartiles(seconds / passes)
        rows.append([name, f"{1000 * np.median(seconds):.1f}"])
        rows[-1] += [f"{np.median(seconds / one):.3f}" for one in (forward, gradient)]
        rows[-1] += [f"{median:.3f}", f"{lower:.3f} to {upper:.3f}", what]
    return rows
