"""Times things side by side, so that what else the machine does falls on all of them alike."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from sat_tf import quiet

# Runs once and returns the seconds of what it measures.
Case = Callable[[], float]


def of_step(step: Callable[[], object], repeats: int = 2) -> Case:
    """Makes a case of a step; one more, before the clock starts, warms caches and threads."""

    def seconds() -> float:
        step()
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        return (time.perf_counter() - start) / repeats

    return seconds


def interleaved(cases: Mapping[str, Case], rounds: int) -> dict[str, np.ndarray]:
    """Runs every case once a round, every second round backwards; a terminal shows which one.

    Returns:
      The seconds of each case, float64 [rounds].
    """
    seconds = {name: [] for name in cases}
    for index in range(rounds):
        for name in list(cases)[:: 1 if index % 2 == 0 else -1]:
            with quiet.waiting(f"round {index + 1} of {rounds}: {name}"):
                seconds[name].append(cases[name]())
    return {name: np.array(values) for name, values in seconds.items()}


def quartiles(values: np.ndarray) -> tuple[float, float, float]:
    """Returns median, lower and upper quartile."""
    lower, median, upper = np.percentile(values, (25, 50, 75))
    return median, lower, upper


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


def machine() -> str:
    """Describes what the figures depend on, the load at the start included."""
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [
        *gpus,
        f"{cores} cores of {_processor()}",
        f"Python {platform.python_version()}",
        f"TensorFlow {tf.__version__}",
        f"Keras {keras.__version__}",
        f"load {os.getloadavg()[0]:.1f}",
    ]
    return ", ".join(parts)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
