"""Which network the flags of a program choose, and what its training says of it."""

from typing import Any, NamedTuple

from sat_tf import zoo
from sat_tf.runs import places
from sat_tf.runs import workdir as workdirs


class Chosen(NamedTuple):
    """A choice.

    Attributes:
      source: what `loading.load` takes.
      run: `metrics.json` of the run, or of the zoo's network; empty where nothing says it.
    """

    source: str
    run: dict[str, Any]


def chosen(workdir: str | None, network: str | None) -> Chosen:
    """Returns the network that one of two flags names.

    Args:
      workdir: --workdir, the directory of a run, or its address in a store.
      network: --network, any other source.

    Raises:
      ValueError: neither or both are given; no such directory; an unknown name of the zoo; damaged
        metrics.
    """
    if (workdir is None) == (network is None):
        raise ValueError("give either --workdir=RUN or --network=FILE.keras")
    if workdir is None:
        return Chosen(network, zoo.metrics(network))
    if not places.of(workdir).is_dir():
        raise ValueError(
            f"--workdir={workdir} is not there; give the directory of a run, or another network as "
            "--network=FILE.keras or zoo:NAME"
        )
    return Chosen(workdir, workdirs.read_metrics(places.of(workdir)))
