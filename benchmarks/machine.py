"""What the figures of a benchmark depend on, and the file that keeps them with it."""

import os
import platform
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from benchmarks.timing import Times
from sat_tf.runs import sealed, workdir

_COMPARED = ("torch", "foolbox", "adversarial-robustness-toolbox", "pyautoattack")


def peak_memory(step: Callable[[], object], repeats: int = 2) -> float | None:
    """Returns the most MiB in use while a step runs: of the GPU, else of the process on Linux.

    None on other systems, which keep no peak that can be reset.
    """
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    gpu = bool(tf.config.list_physical_devices("GPU"))
    if gpu:
        tf.config.experimental.reset_memory_stats("GPU:0")
    elif clear.exists():
        clear.write_text("5")
    else:
        return None
    for _ in range(repeats):
        step()
    if gpu:
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))


def num_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> str:
    """Describes what the figures depend on, the load at the moment included."""
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    parts = [
        *gpus,
        f"{num_cores()} cores of {_processor()}",
        f"Python {platform.python_version()}",
        f"TensorFlow {tf.__version__}",
        f"Keras {keras.__version__}",
        *(f"{name} {version}" for name, version in _compared().items()),
        f"load {os.getloadavg()[0]:.1f}",
    ]
    return ", ".join(parts)


def _compared() -> dict[str, str]:
    found = {}
    for name in _COMPARED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write(
    path: str | None, about: str, times: Mapping[str, Times], tables: Mapping[str, Any]
) -> None:
    """Writes what was measured and printed as a signed JSON object; prints its path and the cases.

    Args:
      path: of the file; None writes none.
      about: what `describe` said at the start.
      times: of all cases; their rounds are written one by one.
      tables: everything that was printed, by name.
    """
    if path is None:
        return
    content = {
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "commit": workdir.provenance()["commit"],
        "machine": about,
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "seconds": {
            name: {"wall": list(one.wall), "processor": list(one.processor)}
            for name, one in times.items()
        },
        **tables,
    }
    sealed.write_json(path, content)
    print(f"{path} ({len(times)} cases)", flush=True)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
