"""Training state on disk: written whole or not at all, checked when read."""

import json
import pathlib
import re
import sys
from collections.abc import Sequence

import keras
import numpy as np

from sat_tf.runs import atomic, places, sealed

_RECORD = "record.json"
# Keras counts what a process has made: its second SGD is "sgd_1", whatever else is the same.
_COUNTER = re.compile(r"_\d+(?=[/_])")


def save(
    directory: pathlib.Path, step: int, state: Sequence[keras.Variable], record: dict, keep: int = 2
) -> pathlib.Path:
    """Writes `step_<step>.npz`, then removes all but the newest `keep` files.

    An array a variable, named by position and path without Keras's counters, and a JSON record. The
    file carries its SHA-256 (see `sealed`), so damage is noticed when it is read. Nothing is
    pickled.

    Args:
      directory: made if it is missing.
      step: optimiser steps done.
      state: variables to restore, in an order that is the same in every run.
      record: whatever else the run must know, as JSON.
      keep: files to keep, at least 1.

    Raises:
      OSError: the disk is full or not writable; the older files are untouched.
    """
    arrays = {_key(i, variable): _value(variable) for i, variable in enumerate(state)}
    arrays[_RECORD] = np.frombuffer(json.dumps(record).encode(), np.uint8)
    path = directory / f"step_{step:09d}.npz"
    with sealed.replacing(path) as temporary:
        np.savez(temporary, **arrays)
    older = [other for other in _newest_first(directory) if other < path]
    for old in older[keep - 1 :]:
        old.unlink()
    return path


def restore(directory: pathlib.Path, state: Sequence[keras.Variable]) -> tuple[int, dict] | None:
    """Assigns the newest readable file to `state` and returns its step and record.

    A damaged file is named in a warning and the one before it is used. Returns None where there
    is no file at all.

    Raises:
      ValueError: files exist but none is readable, or one belongs to another network.
      OSError: a store does not give one, which says nothing of its content.
    """
    paths = _newest_first(directory)
    for path in paths:
        with places.fetched(path) as local:
            try:
                arrays, record = _read(local)
            except Exception as error:  # an unsealed file's damage may be anything to a parser
                warning = f"checkpoint {path} is damaged ({error}); trying the one before it"
                print(f"warning: {warning}", file=sys.stderr)
                continue
        _assign(path, arrays, state)
        return _step(path), record
    if paths:
        raise ValueError(
            f"none of the {len(paths)} checkpoints in {directory} is readable; start again with "
            "--overwrite or in another --workdir"
        )
    return None


def require_space(workdir: pathlib.Path, state: Sequence[keras.Variable], keep: int = 2) -> None:
    """Looks whether the files of a whole run fit on the disk, by estimate.

    That are `keep` + 1 states, while the oldest is replaced, and the best network twice, which is
    at most as large as a state. What an earlier process of the run wrote counts as written.

    Raises:
      OSError: they do not, with the bytes that are missing.
    """
    size = sum(_value(variable).nbytes for variable in state)
    there = [*_newest_first(workdir / "checkpoints"), *workdir.glob("network.keras")]
    written = sum(map(places.size, there))
    atomic.require_space(workdir, (keep + 1) * size - written + 2 * size, "the run's checkpoints")


def newest_step(directory: pathlib.Path) -> int | None:
    """Returns the step of the newest file; None where there is none."""
    return next((_step(path) for path in _newest_first(directory)), None)


def _step(path):
    return int(path.stem.split("_")[1])


def _newest_first(directory):
    return sorted(directory.glob("step_*.npz"), reverse=True)


def _read(path):
    sealed.check_archive(path)
    # Opened here, as NumPy leaves open what it finds damaged.
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(arrays.pop(_RECORD).tobytes().decode())


def _assign(path, arrays, state):
    expected = {_key(i, variable): variable for i, variable in enumerate(state)}
    arrays = {_COUNTER.sub("", name): array for name, array in arrays.items()}  # of older files
    if arrays.keys() != expected.keys():
        odd = sorted(arrays.keys() ^ expected.keys())
        raise ValueError(
            f"checkpoint {path} belongs to another network or optimiser: {len(odd)} variables "
            f"differ, the first is {odd[0]!r}; use the flags it was made with or another --workdir"
        )
    for name, variable in expected.items():
        if arrays[name].shape != tuple(variable.shape):
            raise ValueError(
                f"checkpoint {path}: {name} has shape {arrays[name].shape}, expected "
                f"{tuple(variable.shape)}"
            )
        variable.assign(arrays[name])


def _key(index, variable):
    return f"{index:05d}:{_COUNTER.sub('', variable.path)}"


def _value(variable):
    return keras.ops.convert_to_numpy(variable.value)
