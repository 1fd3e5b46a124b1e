"""What is kept of one run of a study: a JSON file `ROW_SEED.json` of a few kilobytes.

plan, row, seed, flags    what was asked for
training                  `metrics.json` of the run; `cpu_seconds`, null where it is not known
evaluations               by name: the report without its lists of single images, `asked` (the
                          flags) and `verdicts`, a bit an image: `clean`, and `robust` against
                          all attacks (of PGD that ran to the end: its last iterate)
"""

import base64
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.studies.plan import Evaluation, Plan, Row
from sat_tf.runs import sealed

# Of the flags in a report those that say where a file is on this machine.
_PLACES = ("data_dir", "json", "network", "workdir")


class Record:
    """One run of a row with a seed, as far as it has come.

    Attributes:
      path: its file, which need not be there yet.
      content: what the file holds.
    """

    def __init__(self, plan: Plan, row: Row, seed: int, folder: pathlib.Path):
        """Reads the file, if it is there.

        Raises:
          ValueError: it is damaged, or was made by another plan.
        """
        self.name = f"{row.name}_{seed}"
        self.path = folder / f"{self.name}.json"
        asked = {"plan": plan.name, "row": row.name, "seed": seed, "flags": list(row.flags)}
        self.content = asked | {"training": None, "evaluations": {}}
        if not self.path.exists():
            return
        found = sealed.read_json(self.path)
        for key, value in asked.items():
            _require_same(self.path, key, found.get(key), value)
        missing = [key for key in self.content if key not in found]
        if missing:
            raise ValueError(f"{self.path} has no {missing[0]!r}; it is no file of a study")
        for one in plan.of_row(row.name):
            kept = found["evaluations"].get(one.name)
            if kept is not None:
                _require_same(self.path, f"{one.name}.asked", kept.get("asked"), list(one.flags))
        self.content = found

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        sealed.write_json(self.path, self.content)

    def trained(self, metrics: Mapping[str, Any], cpu_seconds: int | None) -> None:
        """Keeps what is known of a training that has ended."""
        self.content["training"] = {"cpu_seconds": cpu_seconds, **metrics}
        self.save()

    def evaluated(self, evaluation: Evaluation, report: Mapping[str, Any]) -> None:
        """Keeps a report.

        Raises:
          ValueError: it is of other weights than the reports that are there.
        """
        report = dict(report)
        images = report.pop("images")
        for other in self.content["evaluations"].values():
            if other["network"]["weights_sha256"] != report["network"]["weights_sha256"]:
                raise ValueError(
                    f"{self.path} has figures of other weights than those of this run; give "
                    "another --results, or the --runs that it was made from"
                )
        report["network"] = report["network"] | {"source": self.name}
        report["flags"] = {k: v for k, v in report["flags"].items() if k not in _PLACES}
        last = report["attacks"][-1]["name"] if report["attacks"] else None
        robust = images.get("last_iterate_correct", {}).get(last, images["standing"])
        report["verdicts"] = {"clean": packed(images["clean_correct"]), "robust": packed(robust)}
        self.content["evaluations"][evaluation.name] = {"asked": list(evaluation.flags), **report}
        self.save()

    def report(self, evaluation: str) -> dict[str, Any] | None:
        """Returns what an evaluation found; None where it was not run."""
        return self.content["evaluations"].get(evaluation)

    @property
    def cpu_seconds(self) -> int | None:
        """Returns the processor time of the training, where it is known."""
        return (self.content["training"] or {}).get("cpu_seconds")


Records = Mapping[str, Mapping[int, Record]]


def collect(plan: Plan, folder: pathlib.Path) -> Records:
    """Reads all files of a study: {row: {seed: record}}, also of runs that have not begun.

    Raises:
      ValueError: a file is damaged, or belongs to no run of the plan.
    """
    found = {
        row.name: {seed: Record(plan, row, seed, folder) for seed in row.seeds}
        for row in plan.rows.values()
    }
    names = {record.path.name for of_row in found.values() for record in of_row.values()}
    for path in sorted(folder.glob("*.json")):
        if path.name not in names:
            raise ValueError(
                f"{path} belongs to no row and seed of the plan {plan.name!r}; give another "
                "--results, or move it away"
            )
    return found


def clean(report: Mapping[str, Any]) -> float:
    """Returns the fraction of images that are classified right."""
    return report["clean_accuracy"]


def robust(report: Mapping[str, Any]) -> float:
    """Returns the fraction of images on which the network withstands the attacks.

    The last iterate of PGD that ran to its end, else what stands after all attacks.
    """
    last = report["attacks"][-1]
    return last.get("adversarial_accuracy_last_iterate", report["adversarial_accuracy"])


def packed(verdicts: Any) -> str:
    """Writes verdicts of 0 and 1, eight a byte, as base64."""
    return base64.b64encode(np.packbits(np.asarray(verdicts, bool)).tobytes()).decode()


def verdicts(report: Mapping[str, Any], kind: str) -> np.ndarray | None:
    """Reads the verdicts "clean" or "robust", bool [N]; None where a report kept none."""
    if "verdicts" not in report:
        return None
    bits = np.frombuffer(base64.b64decode(report["verdicts"][kind]), np.uint8)
    return np.unpackbits(bits, count=report["num_images"]).astype(bool)


def _require_same(path, key, found, asked):
    if found != asked:
        raise ValueError(
            f"{path} is of another plan: {key} is {_words(found)} there and {_words(asked)} "
            "here; give another --results, or move it away"
        )


def _words(value):
    return " ".join(value) if isinstance(value, list) else str(value)
