"""Lists the trained networks that come along, or takes in that of a run.

    python -m sat_tf.zoo
    python -m sat_tf.zoo --name=digits_resnet8_swish
    python -m sat_tf.zoo --name=mine --workdir=runs/digits \\
        --reports=runs/digits/report.json

The second shows a network's card, the third takes a run's network in. A network has a folder with
`network.keras`, `metrics.json` and `card.md`; the card's figures are those of the run and of its
reports, and nothing in it is typed by hand. The same name again, with the same network, writes the
card anew.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from flags import zoo as own_flags
from sat_tf import cli, loading, zoo
from sat_tf.runs import atomic, sealed, workdir
from sat_tf.zoo.card import card


def table() -> str:
    """Writes a line for each network: what it is, and what stands against the hardest attack."""
    rows = [("network", "data", "activation", "epsilon", "images", "clean", "standing", "against")]
    for name in zoo.names():
        metrics = zoo.metrics(f"{zoo.PREFIX}{name}")
        ends = [(one["attacks"][-1], one) for one in metrics["evaluations"]]
        attack, one = min(ends, key=lambda end: end[0]["adversarial_accuracy"])
        rows.append(
            (
                f"{zoo.PREFIX}{name}",
                metrics["dataset"],
                metrics["activation"],
                f"{metrics['norm']} {metrics['epsilon']:g}",
                f"{one['num_images']:,}",
                f"{100 * one['clean_accuracy']:.2f}",
                f"{100 * attack['adversarial_accuracy']:.2f}",
                attack["name"],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def add(name: str, run: pathlib.Path, reports: Sequence[pathlib.Path]) -> pathlib.Path:
    """Takes the network of a run into the zoo: weights without an optimiser, metrics and card.

    Args:
      name: small letters, digits and "_".
      run: the directory of a run that has ended.
      reports: what `evaluate` wrote about this network, in the order of the card's figures.

    Returns:
      The network's folder.

    Raises:
      ValueError: another name; no run; no report, or one of another network; a name that another
        network has.
    """
    if not re.fullmatch("[a-z0-9_]+", name):
        raise ValueError(f"--name={name!r}; small letters, digits and _ were expected")
    metrics = workdir.read_metrics(run)
    if "best" not in metrics or not (run / "flags.txt").is_file():
        raise ValueError(f"{run} is no run of sat_tf.train that has ended; train it first")
    network = loading.load(str(run))
    weights = loading.weights_hash(network)
    evaluations = [_evaluation(path, weights) for path in reports]
    folder = zoo.FOLDER / name
    file = folder / "network.keras"
    if file.is_file() and loading.weights_hash(loading.load(str(file))) != weights:
        raise ValueError(f"{file} is another network; choose another --name, or remove the folder")
    folder.mkdir(exist_ok=True)
    if not file.is_file():
        with sealed.replacing(file) as temporary:
            network.save(temporary)
    metrics |= {"flags": _flags(run), "evaluations": evaluations}
    workdir.write_metrics(folder, metrics)
    digest = sealed.file_digest(file)
    atomic.write_text(folder / "card.md", card(name, metrics, digest))
    index = zoo.FOLDER / zoo.INDEX
    known = sealed.read_json(index) if index.is_file() else {}
    sealed.write_json(index, dict(sorted((known | {name: digest}).items())))
    return folder


def _evaluation(path: pathlib.Path, weights: str) -> dict[str, Any]:
    """Returns what of a report stands on the card."""
    report = sealed.read_json(path)
    if report.get("network", {}).get("weights_sha256") != weights:
        raise ValueError(f"{path} is no report of this network; give what evaluate wrote of it")
    if not {"dataset", "split"} <= report["data"].keys():
        raise ValueError(f"{path} does not say its data; give what `sat_tf.evaluate` wrote")
    keys = "seed num_images clean_accuracy clean_accuracy_interval_95".split()
    of_attack = "name settings num_attacked num_standing".split()
    return {
        **{key: report["data"][key] for key in ("dataset", "split")},
        **{key: report[key] for key in keys},
        "attacks": [
            {key: value for key, value in one.items() if key in of_attack or "accuracy" in key}
            for one in report["attacks"]
        ],
    }


def _flags(run: pathlib.Path) -> list[str]:
    """Returns those of a run's flags that decide a weight."""
    lines = sealed.read_text(run / "flags.txt").splitlines()
    return [line for line in lines if line.lstrip("-").partition("=")[0] not in workdir.NO_WEIGHT]


def main() -> None:
    """Lists what there is, shows a card, or takes in what the flags name."""
    given = flags.FLAGS
    asked = {"--name": given.name, "--workdir": given.workdir, "--reports": given.reports}
    missing = [name for name, value in asked.items() if not value]
    if missing == list(asked):
        print(f"{table()}\n\nnetworks and cards are in {zoo.FOLDER}")
    elif missing == ["--workdir", "--reports"]:
        folder = pathlib.Path(zoo.located(f"{zoo.PREFIX}{given.name}"))
        print((folder / "card.md").read_text(encoding="utf-8"), end="")
    elif missing:
        raise ValueError(f"{', '.join(missing)} missing; a run comes in by {', '.join(asked)}")
    else:
        reports = list(map(pathlib.Path, given.reports))
        atomic.refuse_remote(given.workdir)
        print(add(given.name, pathlib.Path(given.workdir), reports) / "card.md")


def command() -> None:
    """Runs the program with the flags of the command line."""
    cli.run(main, own_flags)


if __name__ == "__main__":
    command()
