"""A line on the terminal that says how far a long job is and when it will end."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from sat_tf.runs.line import Line, duration


class Countdown:
    """Shows `label  37/128 images  29 %  0:12 left` on a `runs.line.Line`.

    The percentage never falls.

    Args:
      label: what is being done.
      total: units of work.
      note: writes the work that is done for a reader.
      quiet: whether to show nothing at all.
      stream: where to write.
      clock: returns seconds; only differences count.
    """

    def __init__(
        self,
        label: str,
        total: int,
        note: Callable[[int], str],
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.label, self.total, self.note, self.quiet = label, max(1, total), note, quiet
        self._line = Line(sys.stderr if stream is None else stream, clock)
        self._clock, self._started = clock, clock()
        self._done = self._flying = self._worked = 0

    def advance(self, amount: int) -> None:
        """Counts work that is finished."""
        self._done += amount
        self._draw_if_due()

    def in_flight(self, amount: int) -> None:
        """Says how much of the unfinished work is done already."""
        self._flying = amount
        self._draw_if_due()

    def close(self) -> None:
        """Erases the line that is still being redrawn, so that others can write."""
        self._line.erase()

    def _draw_if_due(self):
        if self.quiet or not self._line.is_due():
            return
        # What has just landed is counted twice until the next report of what is in flight.
        worked = min(max(self._worked, self._done + self._flying), self.total)
        self._worked = worked
        line = f"{self.label}  {self.note(self._done)}  {100 * worked // self.total} %"
        if worked:
            passed = self._clock() - self._started
            line += f"  {duration(passed * (self.total - worked) / worked)} left"
        self._line.draw(line)
