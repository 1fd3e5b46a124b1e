"""Steps a second, for the progress line and for TensorBoard."""

import time
from collections.abc import Callable


class Throughput:
    """Measures the seconds that a training step takes from beginning to beginning.

    `(t_last - t_first) / (step_last - step_first)` over the steps since the last restart. The
    clock starts at the END of the first step, because that step may contain tracing, the start of
    the input pipeline or, between two epochs, validation.

    Args:
      clock: returns seconds; only differences count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Forgets what was measured."""
        self._first = self._last = None

    def record(self, step: int) -> None:
        """Notes that `step` has just ended."""
        self._last = (step, self._clock())
        self._first = self._first or self._last

    def seconds_per_step(self) -> float | None:
        """Returns the mean, or None before two steps have ended."""
        if self._first is None or self._last[0] <= self._first[0]:
            return None
        (first_step, first_time), (last_step, last_time) = self._first, self._last
        return (last_time - first_time) / (last_step - first_step)

    def per_second(self, batch_size: int) -> float | None:
        """Returns images a second, or None where nothing could be measured."""
        seconds = self.seconds_per_step()
        return batch_size / seconds if seconds else None
