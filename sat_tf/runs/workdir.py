"""The directory that is the whole state of a run."""

import contextlib
import os
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata

import sat_tf
from sat_tf.runs import atomic, places, sealed

# None of these changes a weight, though the loop of steps_per_execution may round one otherwise.
NO_WEIGHT = frozenset(
    "workdir overwrite data_dir max_pixels checkpoint_every picture_grid test_steps "
    "on_overfitting cluster worker_timeout steps_per_execution profile data_service".split()
)
# The state belongs to no device, so it goes over whole. What is learnt from there on is what the
# replicas there are learn: batch norm takes its statistics, and attacks their starts, by replica.
DEVICES = frozenset({"strategy", "logical_cpus"})
# What a run may be continued with a different value of.
FREE_FLAGS = NO_WEIGHT | DEVICES


@contextlib.contextmanager
def claim(
    path: str | os.PathLike, settings: Sequence[str], overwrite: bool, defaults: Sequence[str] = ()
) -> Iterator[pathlib.Path]:
    """Yields the directory of a run, new or one that these settings may continue.

    It is locked meanwhile, and `flags.txt` in it holds the settings, a `--flagfile` for the same
    run again. Other `DEVICES` are said on stderr.

    Args:
      path: the directory, or an address in a store.
      settings: a line for each flag, such as "--epsilon=8\n".
      overwrite: delete what is there.
      defaults: those of the settings that are their flags' defaults. A run that was made before
        there was such a flag goes on with it.

    Raises:
      OSError: the directory cannot be made.
      ValueError: the directory holds something else, a run with other settings (which are
        listed), or one that is going on.
    """
    path = places.of(path)
    atomic.make_directory(path, "--workdir")
    refusal = f"another process is training in {path}; wait for it or use another --workdir"
    with atomic.locked(path / "lock", refusal, stays=True):
        _sweep(path)
        flags_file = path / "flags.txt"
        others = [child for child in path.iterdir() if child.name != "lock"]
        if others and overwrite:
            if not flags_file.exists():
                raise ValueError(f"{path} holds no run, so --overwrite leaves it alone")
            _empty(others)
        elif others and not flags_file.exists():
            raise ValueError(f"{path} holds files but no run; use another --workdir")
        elif others:
            _compare(path, sealed.read_text(flags_file), settings, defaults)
        atomic.write_text(flags_file, sealed.signed_text("".join(settings)))
        yield path


def write_metrics(path: pathlib.Path, metrics: Mapping) -> None:
    """Writes `metrics.json`, signed, in a run's directory."""
    sealed.write_json(path / "metrics.json", metrics)


def read_metrics(path: pathlib.Path) -> dict:
    """Reads `metrics.json` from a run's directory; empty where there is none.

    Raises:
      ValueError: it is damaged, or not a JSON object.
    """
    file = places.of(path) / "metrics.json"
    if not file.is_file():
        return {}
    return sealed.read_json(file)


def versions() -> dict[str, str]:
    """Returns the versions of what decides figures."""
    names = ("tensorflow", "keras", "tensorflow-datasets", "numpy")
    return {
        "sat_tf": sat_tf.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def provenance() -> dict:
    """Tells what a number was made with: versions, machine and commit."""
    return {
        "versions": versions(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": _commit(),
    }


def _compare(path, text, settings, defaults):
    new = _by_name("".join(settings))
    old = _by_name("".join(defaults)) | _by_name(text)
    if changes := _changes(old, new, (old.keys() | new.keys()) - FREE_FLAGS):
        raise ValueError(
            f"{path} was made with other flags: {changes}; use the same flags, another --workdir, "
            "or --overwrite to start again"
        )
    if changes := _changes(old, new, DEVICES):
        print(f"note: {path} goes on, on other devices: {changes}", file=sys.stderr)


def _changes(old, new, names):
    return ", ".join(
        f"{old.get(name, f'no --{name}')} became {new.get(name, f'no --{name}')}"
        for name in sorted(names)
        if old.get(name) != new.get(name)
    )


def _by_name(text):
    lines: dict[str, str] = {}
    for line in text.splitlines():
        name = line.lstrip("-").partition("=")[0]
        lines[name] = f"{lines[name]} {line}" if name in lines else line  # a repeated flag
    return lines


def _sweep(path):
    """Removes what a killed process was about to write (see `atomic.replacing`)."""
    for child in [*path.glob(".*.*"), *path.glob("checkpoints/.*.*")]:
        if re.fullmatch(r"\..+\.\d+\.[a-z]+", child.name):
            child.unlink()


def _empty(children):
    # The flags last: without them what a kill leaves half deleted would pass for no run.
    for child in sorted(children, key=lambda child: child.name == "flags.txt"):
        places.remove(child)


def _commit():
    file = pathlib.Path(__file__).resolve()  # Bazel runs it by a link
    try:
        # Installed, the package may lie inside another project's repository.
        _git(file.parent, "ls-files", "--error-unmatch", file.name)
        return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder, *order):
    command = ["git", "-C", str(folder), *order]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
