"""models.config: which of a network's versions a server holds, and their labels.

The server holds all versions that are there, so that a label can move at any time: TensorFlow
Serving moves a label only to a version that it holds, and looks at labels before it looks at the
versions of the same file. Clients ask for `stable`; `canary` is a newer version on trial.

Source: tensorflow_serving/config/model_server_config.proto.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from export import versions
from sat_tf import specs
from sat_tf.runs import atomic

FILE = "models.config"
STABLE, CANARY = "stable", "canary"
LABELS = (STABLE, CANARY)
_ENTRY = re.compile(r'version_labels\s*:?\s*\{\s*key:\s*"([^"]*)"[\s,;]*value:\s*(\d+)[\s,;]*\}')
_TEXT = """\
# Every export of {name} writes this file anew. A label that is moved here by hand stays moved.
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
{labels}  }}
}}
"""


def planned(directory: Path, label: str, version: int) -> dict[str, int]:
    """Returns the labels that there will be when a version has got its own.

    A new stable version takes an older canary's label along, whose clients go on being answered.

    Args:
      directory: `<name>`, the parent of the versions.
      label: one of `LABELS`.
      version: the new one.

    Raises:
      ValueError: a canary without a stable version beside it, or a label whose version has gone.
    """
    specs.one_of("label", label, LABELS)
    present, labels = versions.present(directory), current(directory)
    if label == STABLE and labels.get(CANARY, version) < version:
        labels[CANARY] = version
    labels[label] = version
    if STABLE not in labels:
        raise ValueError(f"{directory} has no stable version; leave --label={label} out this once")
    for name, number in labels.items():
        if number != version and number not in present:
            raise ValueError(
                f"{directory / FILE} calls version {number} {name!r}, which is not there; give "
                "the label another version, or take its line out"
            )
    return labels


def current(directory: Path) -> dict[str, int]:
    """Returns the labels that there are; without models.config, the highest version is stable."""
    if (directory / FILE).exists():
        return read(directory)
    present = versions.present(directory)
    return {STABLE: max(present)} if present else {}


def read(directory: Path) -> dict[str, int]:
    """Reads the labels of `<name>/models.config`.

    Raises:
      ValueError: the file is not as `write` leaves it, apart from its labels.
    """
    path = directory / FILE
    text = re.sub(r"(?m)^\s*#.*", "", path.read_text(encoding="utf-8"))
    entries = _ENTRY.findall(text)
    if len(entries) != text.count("version_labels") or text.count("base_path") != 1:
        raise ValueError(
            f"{path} cannot be read; one network was expected, its labels as in "
            'version_labels { key: "stable" value: 1 }: several networks share a file elsewhere'
        )
    return {label: int(version) for label, version in entries}


def write(directory: Path, labels: Mapping[str, int]) -> None:
    """Writes `<name>/models.config`; a server that reads it meanwhile has the old file whole."""
    lines = "".join(
        f'    version_labels {{ key: "{label}" value: {version} }}\n'
        for label, version in sorted(labels.items(), reverse=True)
    )
    text = _TEXT.format(name=directory.resolve().name, labels=lines)
    atomic.write_text(directory / FILE, text)
