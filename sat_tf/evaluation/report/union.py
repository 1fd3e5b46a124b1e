"""Several norms in one report, and their union: an image stands only if it stands in each ball."""

import dataclasses
import html
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from sat_tf.evaluation.report import UNIT, Report, page
from sat_tf.evaluation.report.statistics import accuracy, aligned, percent, span
from sat_tf.runs import atomic, sealed

SCHEMA_VERSION = 1
# Facts that hold for every ball.
_COMMON = ("network", "data", "classes", "seed", "batch_size", "restarts", "flags", "versions")


@dataclasses.dataclass
class Union:
    """What stands in several balls around the same images, and in all of them.

    Attributes:
      reports: by norm, in the order asked for; each is what an evaluation of its norm alone gives.
      files: where each report is, by norm.
    """

    reports: Mapping[str, Report]
    files: Mapping[str, str]

    @property
    def clean(self) -> np.ndarray:
        """Returns which clean images are classified right, bool [N]."""
        return next(iter(self.reports.values())).clean

    @property
    def clean_accuracy(self) -> float:
        """Returns the fraction of images classified right."""
        return float(self.clean.mean())

    @property
    def standing(self) -> np.ndarray:
        """Returns which images stand after all attacks in every ball, bool [N]."""
        return np.logical_and.reduce([report.standing for report in self.reports.values()])

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the JSON file; docs/evaluation.md describes every key."""
        first = next(iter(self.reports.values()))
        images = first.to_dict()["images"]
        standing = {
            norm: report.standing.astype(int).tolist() for norm, report in self.reports.items()
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "unit": UNIT,
            **{name: value for name, value in first.facts.items() if name in _COMMON},
            "num_images": len(self.clean),
            "seconds": round(sum(report.seconds for report in self.reports.values()), 3),
            **accuracy("clean_accuracy", self.clean),
            **accuracy("adversarial_accuracy", self.standing),
            "norms": [self._of_norm(norm) for norm in self.reports],
            "images": {
                **{name: images[name] for name in ("index", "label", "clean_correct")},
                "standing": self.standing.astype(int).tolist(),
                "standing_by_norm": standing,
            },
        }

    def _of_norm(self, norm):
        report = self.reports[norm]
        attacks = [
            {
                "name": outcome.name,
                "num_attacked": int(outcome.attacked.sum()),
                **accuracy("adversarial_accuracy", outcome.standing),
            }
            for outcome in report.outcomes
        ]
        failed = [check["name"] for check in report.checks if check["passed"] is False]
        return {
            "norm": norm,
            "epsilon": report.outcomes[0].settings["epsilon"],
            **accuracy("adversarial_accuracy", report.standing),
            "attacks": attacks,
            "attacks_left_out": report.facts.get("attacks_left_out", {}),
            "checks_failed": failed,
            "report": self.files[norm],
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes the JSON file: the old one or the new one, never a part."""
        content = sealed.signed(self.to_dict())
        atomic.write_text(path, json.dumps(content) + "\n")

    def rows(self) -> list[list[str]]:
        """Returns accuracy in percent, a row for each norm; the first row is the head."""
        rows = [["", "epsilon", "attacks", "standing", "95 % interval"]]
        rows.append(["clean", "", "", percent(self.clean), span(self.clean)])
        for norm, report in self.reports.items():
            names = ", ".join(outcome.name for outcome in report.outcomes)
            epsilon = f"{report.outcomes[0].settings['epsilon']:g}"
            standing = report.standing
            rows.append([norm, epsilon, names, percent(standing), span(standing)])
        rows.append(["union", "", "", percent(self.standing), span(self.standing)])
        return rows

    def table(self) -> str:
        """Returns the table for the terminal."""
        return aligned(self.rows())

    def html(self, title: str) -> str:
        """Returns the page, which leads on to that of each norm."""
        head, *rows = self.rows()
        figures = [("clean accuracy", self.clean), ("stands in every ball", self.standing)]
        links = [
            f'<a href="{html.escape(self.files[norm].removesuffix(".json"))}.html">{norm}</a>'
            for norm in self.reports
        ]
        facts = {name: value for name, value in self.to_dict().items() if name in _COMMON}
        parts = [
            f"<h1>{html.escape(title)}</h1>",
            f'<div class="soft">{len(self.clean)} images, every one counted; lengths in {UNIT}; '
            f"an image stands in the union only if it stands in each ball</div>",
            page.figures([(n, f"{percent(x)} %", f"{span(x)} %") for n, x in figures]),
            "<h2>Ball by ball</h2>",
            page.table(rows, head),
            f"<p>Each in full: {', '.join(links)}</p>",
            "<h2>Facts</h2>",
            page.facts_table(facts),
        ]
        return page.document(title, parts)
