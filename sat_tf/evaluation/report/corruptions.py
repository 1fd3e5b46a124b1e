"""What corruptions leave of a network's accuracy: table, mean corruption error, JSON and page."""

import dataclasses
import html
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sat_tf.evaluation.report import UNIT, page, plots
from sat_tf.evaluation.report.statistics import accuracy, aligned, percent, span
from sat_tf.runs import sealed

SCHEMA_VERSION = 1
# What the two means are; a report gives the second where it was given a baseline.
UNNORMALISED = "unnormalised: mean error over corruptions and severities, as for CIFAR"
RELATIVE = "relative to the baseline: mean over corruptions of the ratio of summed errors"


@dataclasses.dataclass
class CorruptionReport:
    """Accuracy under each corruption at each severity; every image is counted.

    Attributes:
      clean: bool [N], whether the image without corruption is classified right; None where only
        corrupted images are there.
      correct: for each (corruption, severity), bool [N].
      facts: what was evaluated and how.
      seconds: wall time.
      baseline: for each (corruption, severity), the accuracy of another network; or None.
    """

    clean: np.ndarray | None
    correct: dict[tuple[str, int], np.ndarray]
    facts: dict[str, Any]
    seconds: float
    baseline: Mapping[tuple[str, int], float] | None = None

    @property
    def names(self) -> list[str]:
        """Returns the corruptions in their order."""
        return list(dict.fromkeys(name for name, _ in self.correct))

    @property
    def severities(self) -> list[int]:
        """Returns the severities, ascending."""
        return sorted({severity for _, severity in self.correct})

    @property
    def num_images(self) -> int:
        """Returns the images of each kind."""
        return len(next(iter(self.correct.values())))

    def accuracies(self) -> np.ndarray:
        """Returns the fractions of images classified right, [corruptions, severities]."""
        kinds = [[self.correct[name, s].mean() for s in self.severities] for name in self.names]
        return np.array(kinds)

    @property
    def mean_corruption_error(self) -> float:
        """Returns `mean_c mean_s E_{c,s}`, E the share of images misclassified.

        Source: Hendrycks and Dietterich, arXiv 1903.12261, section 4.1, without the division by
        AlexNet's errors, as is usual for CIFAR-10-C.
        """
        return float(1 - self.accuracies().mean())

    @property
    def relative_mean_corruption_error(self) -> float | None:
        """Returns `mean_c (sum_s E_{c,s} / sum_s B_{c,s})`, B the baseline's errors, or None.

        Source: as above, section 4.1, whose baseline is AlexNet.
        """
        if self.baseline is None:
            return None
        found = 1 - self.accuracies()
        others = 1 - np.array([[self.baseline[n, s] for s in self.severities] for n in self.names])
        return float((found.sum(1) / others.sum(1)).mean())

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the JSON file; docs/evaluation.md describes every key."""
        return {
            "schema_version": SCHEMA_VERSION,
            "unit": UNIT,
            **self.facts,
            "num_images": self.num_images,
            "seconds": round(self.seconds, 3),
            **({} if self.clean is None else accuracy("clean_accuracy", self.clean)),
            "mean_corruption_error": self.mean_corruption_error,
            "mean_corruption_error_is": UNNORMALISED,
            "relative_mean_corruption_error": self.relative_mean_corruption_error,
            "corruptions": [
                {"corruption": name, "severity": severity, **accuracy("accuracy", correct)}
                for (name, severity), correct in self.correct.items()
            ],
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes the JSON file: the old one or the new one, never a part."""
        sealed.write_json(path, self.to_dict())

    def means(self) -> list[tuple[str, str]]:
        """Returns what the corruptions come to: what it is, and the figure in percent."""
        found = [("mean corruption error, " + UNNORMALISED, self.mean_corruption_error)]
        if self.baseline is not None:
            relative = self.relative_mean_corruption_error
            found.append(("mean corruption error, " + RELATIVE, relative))
        return [(name, f"{100 * value:.2f}") for name, value in found]

    def rows(self) -> list[list[str]]:
        """Returns accuracy in percent, a row for each corruption; the first row is the head."""
        severities = self.severities
        rows = [["corruption", *(f"severity {s}" for s in severities), "mean"]]
        for name, found in zip(self.names, 100 * self.accuracies(), strict=True):
            rows.append([name, *(f"{one:.2f}" for one in found), f"{found.mean():.2f}"])
        means = 100 * self.accuracies().mean(0)
        rows.append(["all", *(f"{one:.2f}" for one in means), f"{means.mean():.2f}"])
        return rows

    def text(self) -> str:
        """Returns the table and the means for the terminal."""
        head, *rest = self.rows()
        lines = [aligned([[cell.replace(" ", "\n") for cell in head], *rest])]
        if self.clean is not None:
            lines.append(f"clean {percent(self.clean)} ({span(self.clean)})")
        return "\n".join([*lines, *(f"{name}: {figure}" for name, figure in self.means())])

    def heat_map(self) -> bytes:
        """Draws accuracy over corruptions and severities as a PNG."""
        return plots.png(plots.heat_map(100 * self.accuracies(), self.names, self.severities))

    def html(self, title: str) -> str:
        """Returns the page."""
        head, *rows = self.rows()
        figures = [(name, f"{figure} %", "") for name, figure in self.means()]
        if self.clean is not None:
            clean = ("clean accuracy", f"{percent(self.clean)} %", f"{span(self.clean)} %")
            figures.insert(0, clean)
        parts = [
            f"<h1>{html.escape(title)}</h1>",
            f'<div class="soft">{self.num_images} images of each kind, every one counted</div>',
            page.figures(figures),
            "<h2>Accuracy in percent</h2>",
            page.image(self.heat_map(), "accuracy over corruptions and severities"),
            page.table(rows, head),
            "<h2>Facts</h2>",
            page.facts_table(self.facts),
        ]
        return page.document(title, parts)


def read_baseline(
    path: str | os.PathLike, names: Sequence[str], severities: Sequence[int]
) -> dict[tuple[str, int], float]:
    """Reads another network's accuracies from its corruption report.

    Raises:
      ValueError: no such report, one that lacks a kind, or one whose errors of a corruption are 0
        at all severities, by which nothing can be divided.
    """
    try:
        stored = sealed.read_json(path)["corruptions"]
        found = {(one["corruption"], one["severity"]): one["accuracy"] for one in stored}
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"the baseline {path} is no corruption report: {error!r}") from error
    kinds = [(name, severity) for name in names for severity in severities]
    missing = [f"{name} {severity}" for name, severity in kinds if (name, severity) not in found]
    if missing:
        raise ValueError(
            f"the baseline {path} lacks {', '.join(missing[:3])}; evaluate it with the same "
            "--corruptions and --severities"
        )
    perfect = [name for name in names if all(found[name, s] == 1 for s in severities)]
    if perfect:
        raise ValueError(f"the baseline {path} has no error under {perfect[0]} to divide by")
    return {kind: found[kind] for kind in kinds}
