"""What an evaluation found: verdicts of single images, accuracies with intervals, table, JSON."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sat_tf import atomic
from sat_tf.evaluation.saved_images import SavedImages
from sat_tf.evaluation.statistics import accuracy, aligned, percent, span

SCHEMA_VERSION = 1
UNIT = "pixels in [0, 255]"


@dataclasses.dataclass
class Outcome:
    """What one attack did.

    Attributes:
      name: such as "pgd-50".
      settings: what reproduces the attack; lengths in pixels.
      attacked: bool [N], which images it was given: all of them, or the survivors so far.
      standing: bool [N], survivors of this attack and all before it; a clean image that is
        misclassified never stands. For PGD no iterate may be misclassified ("any iterate").
      last_iterate: bool [N], whether the last iterate of every restart is classified right, as the
        paper counts, whatever came before; None for attacks that leave broken images.
      broken_step: int [N], evaluations of the attack before the one that broke the image: 0 is the
        start; -1 where this attack broke nothing.
      distance: float [N], norm of the perturbation returned, in pixels.
      unconfirmed: images that the attack called broken and a second evaluation did not.
      seconds: wall time of the pass that gave this outcome.
      slot_steps, image_steps: evaluations paid for and needed.
    """

    name: str
    settings: dict[str, Any]
    attacked: np.ndarray
    standing: np.ndarray
    last_iterate: np.ndarray | None
    broken_step: np.ndarray
    distance: np.ndarray
    unconfirmed: int
    seconds: float
    slot_steps: int
    image_steps: int


@dataclasses.dataclass
class CurvePoint:
    """Accuracy at one radius.

    Attributes:
      epsilon: in pixels.
      standing: bool [N], survivors of all attacks up to this radius.
      seconds: wall time beyond the smaller radii.
    """

    epsilon: float
    standing: np.ndarray
    seconds: float


class Examples(NamedTuple):
    """The first images, for a picture.

    Attributes:
      clean, adversarial: float32 [G, H, W, C] in pixels; adversarial as the attacks left them.
      labels: int32 [G].
      probabilities: of the clean and of the adversarial images, [G, classes] each.
    """

    clean: np.ndarray
    adversarial: np.ndarray
    labels: np.ndarray
    probabilities: tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass
class Report:
    """The result of an evaluation; every figure counts every image.

    Attributes:
      labels: int [N].
      clean: bool [N], whether the clean image is classified right.
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
            "attacks": [_summary(outcome) for outcome in self.outcomes],
            "curve": [
                {
                    "epsilon": point.epsilon,
                    **accuracy("adversarial_accuracy", point.standing),
                    "seconds": round(point.seconds, 3),
                }
                for point in self.curve
            ],
            "checks": self.checks,
            "saved_images": self.saved_images
            and self.saved_images.summary(self.clean & ~self.standing),
            "images": self._images(),
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes `report.json`: the old file or the new one, never a part."""
        content = self.to_dict()
        images = content.pop("images")
        # An image's verdicts fill a line a kind, not a line a number.
        text = json.dumps(content, indent=1)[:-2] + ',\n "images": {'
        text += ",".join(f"\n  {json.dumps(k)}: {json.dumps(v)}" for k, v in images.items())
        atomic.write_text(path, text + "\n }\n}\n")

    def table(self) -> str:
        """Returns the accuracies in percent as a table for the terminal."""
        paper = any(outcome.last_iterate is not None for outcome in self.outcomes)
        head = ["", "last iterate"] if paper else [""]
        rows = [[*head, "standing", "95 % interval", "attacked", "seconds"]]
        blank = [""] if paper else []
        rows.append(["clean", *blank, percent(self.clean), span(self.clean), "", ""])
        for outcome in self.outcomes:
            last = outcome.last_iterate
            rows.append(
                [
                    outcome.name,
                    *(blank if last is None else [percent(last)]),
                    percent(outcome.standing),
                    span(outcome.standing),
                    str(int(outcome.attacked.sum())),
                    f"{outcome.seconds:.1f}",
                ]
            )
        return aligned(rows)

    def curve_table(self) -> str:
        """Returns accuracy over epsilon in percent as a table for the terminal."""
        rows = [["epsilon", "standing", "95 % interval"]]
        for point in self.curve:
            rows.append([f"{point.epsilon:g}", percent(point.standing), span(point.standing)])
        return aligned(rows)

    def steps_table(self) -> str:
        """Returns what stands after so many evaluations of each attack, in percent."""
        rows = [["attack", "evaluations", "standing"]]
        for outcome in self.outcomes:
            for step, fraction in steps_curve(outcome):
                rows.append([outcome.name, str(step + 1), f"{100 * fraction:.2f}"])
        return aligned(rows)

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


def broken_by(clean: np.ndarray, outcomes: Sequence[Outcome]) -> np.ndarray:
    """Returns the number of the attack that broke each image, int [N]; -1 where none did.

    An image that is misclassified when clean was broken by no attack.
    """
    found, standing = np.full(len(clean), -1), clean
    for number, outcome in enumerate(outcomes):
        found[standing & ~outcome.standing] = number
        standing = outcome.standing
    return found


def steps_curve(outcome: Outcome) -> list[tuple[int, float]]:
    """Returns how the fraction that stands falls with an attack's evaluations.

    Returns:
      Pairs (evaluations after the start, fraction standing) wherever the fraction changes, from
      the first to the last.
    """
    before = int((outcome.standing | (outcome.broken_step >= 0)).sum())
    fell = np.bincount(outcome.broken_step[outcome.broken_step >= 0], minlength=1)
    left = (before - np.cumsum(fell)) / len(outcome.standing)
    changes = [step for step in range(len(left)) if step == 0 or left[step] != left[step - 1]]
    return [(int(step), float(left[step])) for step in changes]


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
    return summary
