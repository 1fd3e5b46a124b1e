"""A line that replaces itself, for what a person sees while a program works."""

import math
import shutil
import time
from collections.abc import Callable
from typing import TextIO

_DAY = 24 * 60 * 60
_TERMINAL_SECONDS, _FILE_SECONDS = 0.5, 30.0
_ERASE_LINE = "\r\x1b[K"


class Line:
    """Writes what is true now over what was true before.

    On a terminal one line is redrawn, at most twice a second where `is_due` is asked, and cut at
    the width, as a line that wraps cannot be replaced. Into a file or a pipe goes a plain line
    every 30 seconds, without control characters.

    Args:
      stream: where to write.
      clock: returns seconds; only differences count.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self.terminal = stream.isatty()
        self._stream, self._clock = stream, clock
        self._interval = _TERMINAL_SECONDS if self.terminal else _FILE_SECONDS
        self._drawn = clock()
        self._open = False

    def is_due(self) -> bool:
        """Tells whether it is time to draw again."""
        return self._clock() - self._drawn >= self._interval

    def room(self) -> float:
        """Returns how many characters fit; infinitely many do in a file."""
        # The last column stays free: some terminals wrap as soon as it is filled.
        return shutil.get_terminal_size().columns - 1 if self.terminal else math.inf

    def draw(self, text: str) -> None:
        """Shows a text until the next one takes its place."""
        if self.terminal:
            self._put(f"{_ERASE_LINE}{text[: self.room()]}", is_open=True)
        else:
            self.write(text)

    def write(self, text: str) -> None:
        """Writes a text that stays."""
        self._put(f"{_ERASE_LINE if self._open else ''}{text}\n")

    def keep(self) -> None:
        """Ends the line, which stays as it was drawn last."""
        if self._open:
            self._put("\n")

    def erase(self) -> None:
        """Takes the line away, so that others can write in its place."""
        if self._open:
            self._put(_ERASE_LINE)

    def _put(self, text, is_open=False):
        self._stream.write(text)
        self._stream.flush()
        self._open, self._drawn = is_open, self._clock()


def duration(seconds: float) -> str:
    """Writes a time as `2:03` or `1:02:03`, from a day on as `3 days 1:02:03`."""
    if seconds >= _DAY:
        return f"{int(seconds // _DAY):,} days {duration(seconds % _DAY)}"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
