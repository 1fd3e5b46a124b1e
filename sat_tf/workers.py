"""A run of several worker processes: one writes, all do the same."""

import contextlib
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from sat_tf import distribution, workdir


@contextlib.contextmanager
def claim(
    strategy: tf.distribute.Strategy,
    path: str | os.PathLike,
    settings: Sequence[str],
    overwrite: bool,
) -> Iterator[pathlib.Path]:
    """Yields the directory of a run as `workdir.claim`, which the chief worker does for all.

    All workers must see the directory, as each reads the state to go on from.

    Raises:
      ValueError: as `workdir.claim`; a worker with other settings.
      ConnectionError: while the directory is claimed, another worker ends.
    """
    relevant = [one for one in settings if one[2:].partition("=")[0] not in workdir.FREE_FLAGS]
    with contextlib.ExitStack() as stack:
        if distribution.is_chief(strategy):
            stack.enter_context(workdir.claim(path, settings, overwrite))
        checksum = zlib.crc32("".join(relevant).encode())
        try:
            distribution.agree(strategy, checksum, "their flags (checksums)")
            yield pathlib.Path(path)
        except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
            raise ConnectionError(
                "another worker is gone, and its messages say why; start all of them again, to "
                "continue from the last checkpoint"
            ) from error


def part(strategy: tf.distribute.Strategy, network: keras.Model) -> None:
    """Waits until no worker needs another any more.

    Raises:
      ValueError: the workers have learnt different weights.
    """
    if not distribution.has_workers(strategy):
        return
    checksum = 0
    for weight in network.get_weights():
        checksum = zlib.crc32(weight.tobytes(), checksum)
    distribution.agree(strategy, checksum, "the weights they learnt (checksums)")
