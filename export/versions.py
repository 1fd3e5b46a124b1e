"""The versions of a served network on the disk: each appears whole and disappears whole.

A server that polls the directory looks at names that are whole numbers and at nothing else. What is
being written or removed has a hidden name, and takes or leaves its number by one `rename`.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sat_tf.runs import atomic

_LEFTOVER = re.compile(r"\.\d+\.(partial|removed)-.*")


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Makes this process the only one that exports into a directory, and clears it of leftovers.

    Leftovers are what an export that was killed was writing or removing.

    Raises:
      ValueError: another process exports into it.
      OSError: it cannot be made or written.
    """
    atomic.make_directory(directory, "--directory")
    refusal = f"another process is exporting into {directory}; wait until it has ended"
    with atomic.locked(directory / ".export.lock", refusal):
        for path in directory.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path)
        yield


@contextlib.contextmanager
def publishing(target: Path) -> Iterator[Path]:
    """Yields a hidden path, where the block makes a directory; afterwards it is `target`.

    Its bytes reach the disk before its name does: after a crash of the machine the version is there
    whole or not at all. If the block raises, nothing is left.

    Raises:
      ValueError: `target` is there by then.
    """
    prefix = f".{target.name}.partial-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as hidden:
        partial = Path(hidden) / target.name
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                _sync(Path(folder) / name)
            _sync(Path(folder))
        try:
            partial.rename(target)
        except OSError:
            refuse_existing(target)
            raise
        _sync(target.parent)


def remove(target: Path) -> None:
    """Removes a version; a server sees all of it or nothing of it."""
    hidden = tempfile.mkdtemp(prefix=f".{target.name}.removed-", dir=target.parent)
    target.rename(Path(hidden) / target.name)
    _sync(target.parent)
    shutil.rmtree(hidden)


def surplus(directory: Path, num_kept: int, needed: set[int]) -> list[Path]:
    """Returns the versions that may go: the lowest, until `num_kept` are left.

    Args:
      num_kept: 0 keeps all.
      needed: versions that stay whatever their number; they are among those that are kept.
    """
    found = {
        n: path for n, path in present(directory).items() if (path / "saved_model.pb").exists()
    }
    spare = [path for number, path in found.items() if number not in needed]
    too_many = min(len(found) - num_kept, len(spare)) if num_kept else 0
    return spare[: max(0, too_many)]


def present(directory: Path) -> dict[int, Path]:
    """Returns the versions that are there, by number, the lowest first."""
    found = directory.iterdir() if directory.is_dir() else ()
    versions = {int(path.name): path for path in found if path.name.isdecimal()}
    return dict(sorted(versions.items()))


def next_version(directory: Path) -> int:
    """Returns the number after the highest version there, 1 where there is none."""
    return 1 + max(present(directory), default=0)


def refuse_existing(target: Path) -> None:
    """Raises ValueError where the version is there already or its name is no version's."""
    if int(target.name) < 1:
        raise ValueError(f"version is {target.name}; give a whole number of at least 1")
    if target.exists():
        raise ValueError(
            f"{target} exists and is never overwritten; leave --version out for the next number"
        )


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
