"""What an evaluation found: verdicts of single images, accuracies with intervals, table, JSON."""

import dataclasses
import json
import os
from typing import Any

import numpy as np

from sat_tf import atomic

SCHEMA_VERSION = 1
UNIT = "pixels in [0, 255]"


@dataclasses.dataclass
class Outcome:
    """What one attack did to every image.

    Attributes:
      name: such as "pgd-50".
      settings: epsilon, norm, step size, steps, restarts: what reproduces the attack.
      standing: bool [N]; false where the clean image, the start or any iterate is misclassified.
      last_iterate: bool [N], whether the last iterate of every restart is classified right, as the
        paper counts; None for attacks that leave an image at once when it is broken.
      broken_step: int [N], steps until the first misclassified iterate of any restart: 0 is the
        start, -1 never, -2 the clean image itself.
      distance: float [N], norm of the perturbation that was found, in pixels.
      seconds: wall time of the pass that gave this outcome.
    """

    name: str
    settings: dict[str, Any]
    standing: np.ndarray
    last_iterate: np.ndarray | None
    broken_step: np.ndarray
    distance: np.ndarray
    seconds: float


@dataclasses.dataclass
class Report:
    """The result of an evaluation; every figure counts every image.

    Attributes:
      labels: int [N].
      clean: bool [N], whether the clean image is classified right.
      outcomes: one an attack.
      facts: what was evaluated and how: network, data, versions, seed.
      seconds: wall time of everything.
    """

    labels: np.ndarray
    clean: np.ndarray
    outcomes: list[Outcome]
    facts: dict[str, Any]
    seconds: float

    @property
    def clean_accuracy(self) -> float:
        """Returns the fraction of images classified right."""
        return float(self.clean.mean())

    def adversarial_accuracy(self, name: str, *, last_iterate: bool = False) -> float:
        """Returns the fraction of images that stand after an attack.

        Raises:
          ValueError: an attack that is not in this report, with the list.
        """
        for outcome in self.outcomes:
            if outcome.name == name:
                kept = outcome.last_iterate if last_iterate else outcome.standing
                if kept is None:
                    raise ValueError(f"attack {name!r} was stopped early: it has no last iterate")
                return float(kept.mean())
        names = ", ".join(outcome.name for outcome in self.outcomes)
        raise ValueError(f"attack {name!r} is not in this report; it has: {names}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of `report.json` (docs/evaluation.md describes each key)."""
        return {
            "schema_version": SCHEMA_VERSION,
            "unit": UNIT,
            **self.facts,
            "num_images": len(self.labels),
            "seconds": round(self.seconds, 3),
            "clean_accuracy": self.clean_accuracy,
            "clean_accuracy_interval_95": interval(self.clean),
            "attacks": [_summary(outcome) for outcome in self.outcomes],
            "images": {
                "label": self.labels.tolist(),
                "clean_correct": _bits(self.clean),
                "attacks": {outcome.name: _verdicts(outcome) for outcome in self.outcomes},
            },
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes `report.json`: the old file or the new one, never a part."""
        atomic.write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    def table(self) -> str:
        """Returns the accuracies in percent as a table for the terminal."""
        rows = [("", "last iterate", "any iterate", "95 % interval", "seconds")]
        rows.append(("clean", _percent(self.clean), "", _span(self.clean), ""))
        for outcome in self.outcomes:
            last = outcome.last_iterate
            main = outcome.standing if last is None else last
            rows.append(
                (
                    outcome.name,
                    "" if last is None else _percent(last),
                    _percent(outcome.standing),
                    _span(main),
                    f"{outcome.seconds:.1f}",
                )
            )
        return _aligned(rows)


def interval(correct: np.ndarray) -> list[float]:
    """Computes the Wilson 95 % interval of a fraction of independent images.

    Source: Wilson, Probable inference, J. Am. Stat. Assoc. 22 (1927).
    """
    from scipy import stats  # costs half a second, and most users of this module never ask

    found = stats.binomtest(int(correct.sum()), len(correct)).proportion_ci(0.95, method="wilson")
    return [float(found.low), float(found.high)]


def _summary(outcome):
    summary = {"name": outcome.name, **outcome.settings}
    summary["seconds"] = round(outcome.seconds, 3)
    if outcome.last_iterate is not None:
        summary["adversarial_accuracy_last_iterate"] = float(outcome.last_iterate.mean())
        summary["adversarial_accuracy_last_iterate_interval_95"] = interval(outcome.last_iterate)
    summary["adversarial_accuracy"] = float(outcome.standing.mean())
    summary["adversarial_accuracy_interval_95"] = interval(outcome.standing)
    summary["largest_distance"] = float(outcome.distance.max(initial=0.0))
    return summary


def _verdicts(outcome):
    verdicts = {
        "standing": _bits(outcome.standing),
        "broken_step": outcome.broken_step.tolist(),
        "distance": [round(float(value), 4) for value in outcome.distance],
    }
    if outcome.last_iterate is not None:
        verdicts["last_iterate_correct"] = _bits(outcome.last_iterate)
    return verdicts


def _bits(verdicts):
    return np.asarray(verdicts).astype(int).tolist()


def _percent(correct):
    return f"{100 * correct.mean():.2f}"


def _span(correct):
    low, high = interval(correct)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _aligned(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)
