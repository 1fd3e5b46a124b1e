"""What an evaluation found, in all: accuracies with intervals, and `report.json`."""

import dataclasses
import json
import os
from typing import Any

import numpy as np

from sat_tf.evaluation.landscape import Landscape
from sat_tf.evaluation.outcome import CurvePoint, Examples, Outcome, broken_by, steps_curve
from sat_tf.evaluation.report import tables
from sat_tf.evaluation.report.statistics import accuracy, percent
from sat_tf.evaluation.saved_images import SavedImages
from sat_tf.runs import atomic, sealed

SCHEMA_VERSION = 1
UNIT = "pixels in [0, 255]"


@dataclasses.dataclass
class Report:
    """The result of an evaluation; every figure counts every image.

    Attributes:
      labels: int [N].
      clean: bool [N], whether the clean image is classified right.
      top5: bool [N] twice, whether the label is among the five largest logits of the clean image,
        and of it and whatever image an attack returned as well; None with ten classes or fewer.
      landscape: the loss around an image, where it was asked for.
      outcomes: one an attack, in the order in which they ran.
      curve: one a radius, ascending; empty where no curve was asked for.
      checks: what speaks for or against the figures (see `checks`).
      examples: the first images and what the attacks made of them.
      facts: what was evaluated and how.
      seconds: wall time of all attacks, over all sessions of a run that was killed.
      saved_images: the adversarial images on the disk, where they were asked for.
      positions: int [N], where the images stand in their data set; None if they begin it.
    """

    labels: np.ndarray
    clean: np.ndarray
    outcomes: list[Outcome]
    curve: list[CurvePoint]
    checks: list[dict[str, Any]]
    examples: Examples
    facts: dict[str, Any]
    seconds: float
    saved_images: SavedImages | None = None
    landscape: Landscape | None = None
    top5: tuple[np.ndarray, np.ndarray] | None = None
    positions: np.ndarray | None = None

    @property
    def clean_accuracy(self) -> float:
        """Returns the fraction of images classified right."""
        return float(self.clean.mean())

    @property
    def adversarial_accuracy(self) -> float:
        """Returns the fraction of images that stand after all attacks."""
        return float(self.standing.mean())

    @property
    def standing(self) -> np.ndarray:
        """Returns which images stand after all attacks, bool [N]."""
        return self.outcomes[-1].standing if self.outcomes else self.clean

    def outcome(self, name: str) -> Outcome:
        """Returns what one attack did.

        Raises:
          ValueError: an attack that is not in this report, with the list.
        """
        for outcome in self.outcomes:
            if outcome.name == name:
                return outcome
        names = ", ".join(outcome.name for outcome in self.outcomes)
        raise ValueError(f"attack {name!r} is not in this report; it has: {names}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of `report.json`; docs/evaluation.md describes every key."""
        return {
            "schema_version": SCHEMA_VERSION,
            "unit": UNIT,
            **self.facts,
            "num_images": len(self.labels),
            "seconds": round(self.seconds, 3),
            **accuracy("clean_accuracy", self.clean),
            **accuracy("adversarial_accuracy", self.standing),
            **self._top5(),
            "attacks": [_summary(outcome) for outcome in self.outcomes],
            "curve": [
                {
                    "epsilon": point.epsilon,
                    **accuracy("adversarial_accuracy", point.standing),
                    "seconds": round(point.seconds, 3),
                }
                for point in self.curve
            ],
            "per_class": self.per_class(),
            "landscape": self.landscape and self.landscape.to_dict(),
            "checks": self.checks,
            "saved_images": self.saved_images
            and self.saved_images.summary(self.clean & ~self.standing),
            "images": self._images(),
        }

    def per_class(self) -> list[dict[str, Any]]:
        """Returns clean and adversarial accuracy on the images of each class that has some.

        The accuracies are fractions of the class's own images; the second is after all attacks.
        """
        rows = []
        for label in np.unique(self.labels):
            own = self.labels == label
            rows.append(
                {
                    "label": int(label),
                    "num_images": int(own.sum()),
                    "clean_accuracy": float(self.clean[own].mean()),
                    "adversarial_accuracy": float(self.standing[own].mean()),
                }
            )
        return rows

    def save(self, path: str | os.PathLike) -> None:
        """Writes `report.json`: the old file or the new one, never a part."""
        content = sealed.signed(self.to_dict())
        images = content.pop("images")
        # An image's verdicts fill a line a kind, not a line a number.
        text = json.dumps(content, indent=1)[:-2] + ',\n "images": {'
        text += ",".join(f"\n  {json.dumps(k)}: {json.dumps(v)}" for k, v in images.items())
        atomic.write_text(path, text + "\n }\n}\n")

    def table(self) -> str:
        """Returns the accuracies in percent as a table for the terminal."""
        return tables.attacks(self.clean, self.outcomes)

    def curve_table(self) -> str:
        """Returns accuracy over epsilon in percent as a table for the terminal."""
        return tables.curve(self.curve)

    def steps_table(self) -> str:
        """Returns what stands after so many evaluations of each attack, in percent."""
        return tables.steps(self.outcomes)

    def text(self, with_steps: bool = False) -> str:
        """Returns the tables and what speaks against the figures, for the terminal.

        Args:
          with_steps: whether to add what stands after so many evaluations.
        """
        parts = [self.table()]
        if self.top5:
            parts.append(
                "among the first five: clean {}, attacked {} (not attacked for it)".format(
                    *map(percent, self.top5)
                )
            )
        if self.curve:
            parts.append(f"\n{self.curve_table()}")
        if with_steps:
            parts.append(f"\n{self.steps_table()}")
        if self.saved_images:
            saved = self.saved_images.summary(self.clean & ~self.standing)
            still = f"{saved['num_still_broken']} of {saved['num_broken']} broken images"
            parts.append(f"{still} are still broken as they are saved, in {saved['image_type']}")
        for check in self.checks:
            if check["passed"] is False:
                parts.append(f"check {check['name']}: {check['found']}: {check['consequence']}")
        return "\n".join(parts)

    def columns(self) -> dict[str, np.ndarray]:
        """Returns what stands beside each saved image; docs/evaluation.md describes it."""
        names = np.array([*(outcome.name for outcome in self.outcomes), ""])
        return {
            "index": self._positions(),
            "label": np.asarray(self.labels),
            "clean_correct": self.clean,
            "standing": self.standing,
            "saved_correct": self.saved_images.correct,
            "broken_by": names[broken_by(self.clean, self.outcomes)],
            "distance": self.saved_images.distance,
        }

    def _top5(self):
        names = ("clean_top5_accuracy", "adversarial_top5_accuracy")
        found = self.top5 or ()
        parts = (accuracy(*pair) for pair in zip(names, found, strict=False))
        return dict.fromkeys(names) | {k: v for part in parts for k, v in part.items()}

    def _positions(self):
        return np.arange(len(self.labels)) if self.positions is None else self.positions

    def _images(self):
        breaker = broken_by(self.clean, self.outcomes)
        broken_step = np.full(len(self.labels), -1)
        distance = np.zeros(len(self.labels))
        for number, outcome in enumerate(self.outcomes):
            fell = breaker == number
            broken_step[fell] = outcome.broken_step[fell]
            distance = np.where(outcome.attacked, outcome.distance, distance)
        names = [outcome.name for outcome in self.outcomes]
        return {
            "index": self._positions().tolist(),
            "label": self.labels.tolist(),
            "clean_correct": self.clean.astype(int).tolist(),
            "standing": self.standing.astype(int).tolist(),
            "broken_by": [names[number] if number >= 0 else None for number in breaker],
            "broken_step": [int(step) if step >= 0 else None for step in broken_step],
            "distance": [round(float(value), 4) for value in distance],
            "last_iterate_correct": {
                outcome.name: outcome.last_iterate.astype(int).tolist()
                for outcome in self.outcomes
                if outcome.last_iterate is not None
            },
        }


def _summary(outcome):
    summary = {"name": outcome.name, "settings": outcome.settings}
    summary["num_attacked"] = int(outcome.attacked.sum())
    summary["num_standing"] = int(outcome.standing.sum())
    summary |= accuracy("adversarial_accuracy", outcome.standing)
    if outcome.last_iterate is not None:
        summary |= accuracy("adversarial_accuracy_last_iterate", outcome.last_iterate)
    summary["steps_curve"] = steps_curve(outcome)
    summary["largest_distance"] = float(outcome.distance.max(initial=0.0))
    summary["num_unconfirmed"] = outcome.unconfirmed
    summary["seconds"] = round(outcome.seconds, 3)
    summary["evaluations_needed"] = outcome.image_steps
    summary["evaluations_paid"] = outcome.slot_steps
    summary["evaluations_plain"] = outcome.plain_steps
    summary["saved_by_packing"] = outcome.saved_by_packing
    return summary
