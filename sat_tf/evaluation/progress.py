"""A line on the terminal that says how far a long job is and when it will end."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

_DAY = 24 * 60 * 60
_TERMINAL_SECONDS, _FILE_SECONDS = 0.5, 30.0
_ERASE_LINE = "\r\x1b[K"


class Progress:
    """Shows `label  37/128 images  29 %  0:12 left`.

    The percentage never falls. On a terminal one line is redrawn twice a second; into a file goes
    a line every 30 seconds.

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
        self._stream = sys.stderr if stream is None else stream
        self._terminal = not quiet and self._stream.isatty()
        self._clock, self._started, self._drawn = clock, clock(), clock()
        self._done = self._flying = self._worked = 0
        self._open = False

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
        if self._open:
            self._stream.write(_ERASE_LINE)
            self._stream.flush()
            self._open = False

    def _draw_if_due(self):
        now = self._clock()
        wait = _TERMINAL_SECONDS if self._terminal else _FILE_SECONDS
        if self.quiet or now - self._drawn < wait:
            return
        self._drawn = now
        # What has just landed is counted twice until the next report of what is in flight.
        worked = min(max(self._worked, self._done + self._flying), self.total)
        self._worked = worked
        line = f"{self.label}  {self.note(self._done)}  {100 * worked // self.total} %"
        if worked:
            line += f"  {clock((now - self._started) * (self.total - worked) / worked)} left"
        start, end = (_ERASE_LINE, "") if self._terminal else ("", "\n")
        self._stream.write(f"{start}{line}{end}")
        self._stream.flush()
        self._open = self._terminal


def clock(seconds: float) -> str:
    """Writes a time as `2:03` or `1:02:03`, from a day on as `3 days 1:02:03`."""
    if seconds >= _DAY:
        return f"{int(seconds // _DAY):,} days {clock(seconds % _DAY)}"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
