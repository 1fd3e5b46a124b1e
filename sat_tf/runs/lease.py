"""The lock of an object store, which has no flock: an object that its owner renews.

It names its owner and counts how often it was renewed, every `RENEWAL` seconds. Who finds one
waits: one that is renewed meanwhile belongs to a process that is alive, one that stays as it is for
`EXPIRY` seconds belongs to nobody and is taken over. No two clocks are compared. TensorFlow gives
no way to make an object only where there is none, so of two that begin at once the one that writes
last has it; both look again after `SETTLING` seconds. An owner looks before every file that it
puts, and a put that has begun can no longer be stopped.
"""

import contextlib
import os
import pathlib
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator

from sat_tf.runs import places

RENEWAL = 15.0  # seconds
EXPIRY = 60.0
SETTLING = 3.0
_LOOK = 2.0  # seconds between two looks of who waits

_held: set["Lease"] = set()  # by this process


@contextlib.contextmanager
def held(place: pathlib.Path, refusal: str) -> Iterator[None]:
    """Holds the object inside the block; it exists only while it is held, or after a kill.

    Raises:
      ValueError: another process holds it; the message is `refusal` and who it is.
      OSError: the store does not answer.
    """
    lease, over = Lease(place), threading.Event()
    thread = threading.Thread(target=lease.renew_until, args=(over,), daemon=True)
    try:
        lease.take(refusal)
        thread.start()
        _held.add(lease)
        yield
    finally:
        _held.discard(lease)
        over.set()
        if thread.ident is not None:
            thread.join()
        lease.give_back()  # also of one that is stopped while it looks again


def require(place: pathlib.Path) -> None:
    """Looks, before a file is put, whether the leases beside or above it are still this process's.

    Raises:
      OSError: another process has taken one over; nothing is to be written any more.
    """
    for lease in _held:
        if lease.place.parent in place.parents:
            lease.require()


class Lease:
    """An object, and what this process writes into it."""

    def __init__(self, place: pathlib.Path):
        self.place, self._renewals = place, 0
        self._owner = f"{platform.node()}, process {os.getpid()} ({uuid.uuid4().hex})"

    def take(self, refusal: str) -> None:
        """Returns once it is this process's."""
        if (found := self._read()) is not None:
            print(
                f"note: waiting whether {_named(found)} still holds {self.place}", file=sys.stderr
            )
            self._wait_for_expiry(found, refusal)
        self._write()
        time.sleep(SETTLING)
        if not self._is_mine(found := self._read()):
            raise ValueError(f"{refusal} ({_named(found)})")

    def renew_until(self, over: threading.Event) -> None:
        """Renews it until it is given back or another's; a store that is away is asked again."""
        while not over.wait(RENEWAL):
            with contextlib.suppress(OSError):
                if not self._is_mine(self._read()):
                    return
                self._write()

    def require(self) -> None:
        """Raises OSError where it is another's."""
        if (found := self._read()) is None:
            raise OSError(f"{self.place} has been removed, so another may write; this process ends")
        if not self._is_mine(found):
            raise OSError(
                f"{self.place} has been taken over by {_named(found)}, as this process did not "
                f"renew it for {EXPIRY:g} seconds or both began at once; this one ends"
            )

    def give_back(self) -> None:
        """Removes it, if it is still this process's."""
        with contextlib.suppress(OSError):
            if self._is_mine(self._read()):
                places.remove(self.place)

    def _wait_for_expiry(self, found, refusal):
        deadline = time.monotonic() + EXPIRY
        while (now := self._read()) == found:
            if time.monotonic() > deadline:
                return
            time.sleep(min(_LOOK, EXPIRY))
        if now is not None:
            raise ValueError(f"{refusal} ({_named(now)})")

    def _read(self):
        try:
            return places.read(self.place).decode("utf-8", "replace")
        except FileNotFoundError:
            return None

    def _write(self):
        self._renewals += 1
        # Always as long as it was: TensorFlow keeps the length of an object for some seconds.
        places.write(self.place, f"{self._owner} {self._renewals:09d}\n".encode())

    def _is_mine(self, found):
        return found is not None and found.startswith(self._owner)


def _named(found):
    return "a process that is gone" if found is None else found.partition(" (")[0]
