"""Fractions of images, with the interval they are known to."""

from typing import Any

import numpy as np


def interval(correct: np.ndarray) -> tuple[float, float]:
    """Computes the Wilson 95 % interval of a fraction of independent images.

    Source: Wilson, Probable inference, J. Am. Stat. Assoc. 22 (1927).
    """
    from scipy import stats  # half a second to import, and not everybody asks

    found = stats.binomtest(int(correct.sum()), len(correct)).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def accuracy(name: str, correct: np.ndarray) -> dict[str, Any]:
    """Returns a fraction of all images and its 95 % interval, as JSON."""
    return {name: float(correct.mean()), f"{name}_interval_95": list(interval(correct))}


def percent(correct: np.ndarray) -> str:
    """Writes a fraction of images in percent."""
    return f"{100 * correct.mean():.2f}"


def span(correct: np.ndarray) -> str:
    """Writes the 95 % interval in percent."""
    low, high = interval(correct)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def aligned(rows: list[list[str]]) -> str:
    """Writes a table whose first row is the head: the first column left, the others right.

    A cell of the head may have several lines.
    """
    heads = [cell.split("\n") for cell in rows[0]]
    depth = max(map(len, heads))
    above = zip(*([""] * (depth - len(head)) + head for head in heads), strict=True)
    rows = [*map(list, above), *rows[1:]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(depth, "-" * max(map(len, lines)))
    return "\n".join(lines)
