"""A run on the disk, its devices and the terminal: folder, checkpoints, workers, a line."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

# What asks a program to end: Ctrl-C and, of a scheduler say, SIGTERM.
STOPS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A program was told to stop and has saved its state.

    No Exception, as KeyboardInterrupt is none: what takes any error for a damaged file, ours or a
    library, is not to take a stop for one.

    Args:
      message: what was saved and how to go on.
      signal_number: of the signal that stopped it.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


@contextlib.contextmanager
def handling_stops(handler: Callable[[int, Any], None] | int) -> Iterator[dict[int, Any]]:
    """Has `STOPS` handled so inside the block, and afterwards as before.

    Args:
      handler: as `signal.signal` takes it.

    Yields:
      What handled each before, for a handler that puts it back itself.
    """
    before = {number: signal.signal(number, handler) for number in STOPS}
    try:
        yield before
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
