"""Times things side by side, so that what else the machine does falls on all of them alike.

Nothing here imports TensorFlow: PyTorch's processes use it too.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sat_tf import quiet


class Seconds(NamedTuple):
    """What running once took.

    Attributes:
      wall: seconds of the clock.
      processor: seconds of the process on all its threads, which other programs slow less.
      result: what it returned, where that is asked for.
    """

    wall: float
    processor: float
    result: Any = None


# Runs once and returns the seconds of what it measures.
Case = Callable[[], Seconds]


class Times(NamedTuple):
    """All rounds of a case: seconds, float64 [rounds] each, and what each returned."""

    wall: np.ndarray
    processor: np.ndarray
    results: list[Any]


class Lost(ValueError):
    """A case that cannot be measured, or no longer; the message is one line that says why."""


def of_call(function: Callable[[], Any], repeats: int = 1) -> Case:
    """Makes a case of a function; the seconds are those of one call, the result the last one's."""

    def seconds() -> Seconds:
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            result = function()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        return Seconds(wall / repeats, processor / repeats, result)

    return seconds


def of_step(step: Callable[[], object], repeats: int = 2) -> Case:
    """Makes a case of a step; one more, before the clock starts, warms caches and threads."""
    timed = of_call(step, repeats)

    def seconds() -> Seconds:
        step()
        return timed()._replace(result=None)

    return seconds


def interleaved(
    cases: Mapping[str, Case], rounds: int, lost: dict[str, str] | None = None
) -> dict[str, Times]:
    """Runs every case once a round, every second round backwards; a terminal shows which one.

    Args:
      cases: by name.
      rounds: how often each is run.
      lost: takes down, by name, why a case was lost; those in it are not run. Without it the error
        is raised.

    Raises:
      Lost: a case was lost.
    """
    found = {name: [] for name in cases if name not in (lost or {})}
    for index in range(rounds):
        for name in list(found)[:: 1 if index % 2 == 0 else -1]:
            with quiet.waiting(f"round {index + 1} of {rounds}: {name}"):
                try:
                    found[name].append(cases[name]())
                except Lost as error:
                    if lost is None:
                        raise
                    lost[name] = str(error)
                    del found[name]
    return {name: gathered(seconds) for name, seconds in found.items()}


def gathered(seconds: list[Seconds]) -> Times:
    """Returns the rounds of a case as columns."""
    wall, processor, results = zip(*seconds, strict=True)
    return Times(np.array(wall), np.array(processor), list(results))


def quartiles(values: np.ndarray) -> tuple[float, float, float]:
    """Returns median, lower and upper quartile."""
    lower, median, upper = np.percentile(values, (25, 50, 75))
    return median, lower, upper
