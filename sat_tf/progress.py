"""A line on the terminal that says how far a long job is and when it will end."""

import sys
import time
from typing import TextIO


class Progress:
    """Shows `label 37/128 29 % 0:12 left`, at most once a second.

    On a terminal the line is rewritten in place; elsewhere a new line comes every tenth.

    Args:
      label: what is being done.
      total: units of work.
      stream: where to write.
    """

    def __init__(self, label: str, total: int, stream: TextIO | None = None):
        self.label, self.total = label, max(1, total)
        self.stream = sys.stderr if stream is None else stream
        self.done = self.shown_tenth = 0
        self.started = self.shown_at = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        """Counts finished work and shows it when it is time."""
        self.done += amount
        now, tenth = time.monotonic(), 10 * self.done // self.total
        terminal = self.stream.isatty()
        if self.done < self.total:
            if terminal and now - self.shown_at < 1:
                return
            if not terminal and (tenth == self.shown_tenth or now - self.started < 5):
                return
        elif not terminal and now - self.started < 5:
            return
        self.shown_at, self.shown_tenth = now, tenth
        elapsed = now - self.started
        left = elapsed * (self.total - self.done) / max(1, self.done)
        text = f"{self.label}  {self.done}/{self.total}  {100 * self.done // self.total} %  "
        text += f"{clock(left)} left" if self.done < self.total else f"{clock(elapsed)} in all"
        end = "\n" if not terminal or self.done >= self.total else ""
        self.stream.write(("\r" if terminal else "") + text.ljust(72) + end)
        self.stream.flush()


def clock(seconds: float) -> str:
    """Writes a time as `1:02:03` or `2:03`."""
    seconds = round(seconds)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
