"""Trained networks that come along: `zoo:NAME`, wherever a network is taken.

Each is a folder here, as the directory of a run: `network.keras`, `metrics.json` and its card.
`index.json` holds the SHA-256 of each network's file. `python -m sat_tf.zoo` lists them.
"""

import pathlib
from typing import Any

from sat_tf import specs
from sat_tf.runs import sealed, workdir

__all__ = ["PREFIX", "located", "metrics", "names"]

PREFIX = "zoo:"
FOLDER = pathlib.Path(__file__).parent
INDEX = "index.json"


def names() -> list[str]:
    """Returns the names of the networks, in alphabetical order.

    Raises:
      ValueError: a damaged index.
    """
    return sorted(sealed.read_json(FOLDER / INDEX))


def located(source: str) -> str:
    """Returns the directory of a network of the zoo, and any other source as it came.

    Args:
      source: what `loading.load` takes, such as "zoo:digits_resnet8_swish".

    Raises:
      ValueError: a name that is not in the zoo, with those that are; a file that is missing, or
        whose SHA-256 is not that of the index.
    """
    if not source.startswith(PREFIX):
        return source
    index = sealed.read_json(FOLDER / INDEX)
    name = specs.one_of("network of the zoo", source.removeprefix(PREFIX), sorted(index))
    file = FOLDER / name / "network.keras"
    if not file.is_file() or sealed.file_digest(file) != index[name]:
        raise ValueError(
            f"{source} cannot be used: {file} is missing, or its SHA-256 is not that of "
            f"{FOLDER / INDEX}; install the package or check the project out again"
        )
    return str(file.parent)


def metrics(source: str) -> dict[str, Any]:
    """Returns what a network of the zoo says of its training, as `metrics.json` of a run.

    Empty for any other source.

    Raises:
      ValueError: as `located`, or damaged metrics.
    """
    if not source.startswith(PREFIX):
        return {}
    return workdir.read_metrics(pathlib.Path(located(source)))
