"""A run of several worker processes: they meet, one writes, all do the same, and none hangs."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from sat_tf.runs import (
    STOPS,
    Interrupted,
    checkpoints,
    distribution,
    handling_stops,
    meeting,
    places,
    workdir,
)

GRACE = 30.0  # seconds from a signal to the end, whatever a collective operation waits for
# What a step ends with once another process has ended, or has stopped answering.
_GONE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
_KILL = """
import os, select, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the end of stdin is enough
if not select.select([0], [], [], float(sys.argv[2]))[0]:
    print(sys.argv[3], file=sys.stderr, flush=True)
    os.kill(int(sys.argv[1]), signal.SIGKILL)
"""


def strategy(name: str, settings: Sequence[str], timeout: float) -> tf.distribute.Strategy:
    """Makes a strategy as `distribution.strategy`, where there are workers once all are here.

    Args:
      name: of the strategy.
      settings: a line for each flag.
      timeout: seconds that a worker waits for the others.

    Raises:
      ValueError: as `distribution.strategy`; a worker with other settings, which are named.
      ConnectionError: a worker that did not come, by number and address.

    A worker that ends between the meeting and TensorFlow's own connection leaves the others inside
    TensorFlow, which no exception reaches: after `timeout` they are killed, with a line.
    """
    if name != "multi_worker":
        return distribution.strategy(name)
    addresses, index = distribution.cluster()
    meeting.meet(addresses, index, _relevant(settings), timeout)
    # TensorFlow holds Python while it connects, and puts a handler of its own in place.
    why = f"the other workers of {addresses} met and did not connect"
    with handling_stops(signal.SIG_DFL), killed_after(timeout, why):
        return distribution.strategy(name)


@contextlib.contextmanager
def killed_after(seconds: float, why: str) -> Iterator[None]:
    """Has this process killed, with a line on stderr, where its block takes longer.

    A process of its own keeps the time, as TensorFlow may hold Python meanwhile.

    Args:
      seconds: that the block may take.
      why: said at the end.
    """
    line = f"{why} within {seconds:g} seconds; this worker ends: start all of them again"
    keeper = subprocess.Popen(
        [sys.executable, "-c", _KILL, str(os.getpid()), str(seconds), line], stdin=subprocess.PIPE
    )
    try:
        yield
    finally:
        keeper.stdin.close()  # as the end of this process does
        keeper.wait()


@contextlib.contextmanager
def claim(
    strategy: tf.distribute.Strategy,
    path: str | os.PathLike,
    settings: Sequence[str],
    overwrite: bool,
    defaults: Sequence[str] = (),
) -> Iterator[pathlib.Path]:
    """Yields the directory of a run as `workdir.claim`, which the chief worker does for all.

    All workers must see the directory, as each reads the state to go on from. A worker that was
    told to stop ends within `GRACE` seconds, be it that another one hangs.

    Raises:
      ValueError: as `workdir.claim`; a worker with other settings, or one that does not see the
        directory.
      ConnectionError: while the directory is claimed, another worker ends or answers no more.
      Interrupted: the same after a signal.
    """
    path = places.of(path)
    with contextlib.ExitStack() as stack:
        if distribution.is_chief(strategy):
            stack.enter_context(workdir.claim(path, settings, overwrite, defaults))
        heard = []
        if distribution.has_workers(strategy):
            heard = stack.enter_context(ending_within(GRACE, lambda: _saved(path)))
        checksum = zlib.crc32("".join(_relevant(settings)).encode())
        try:
            distribution.agree(strategy, checksum, "their flags (checksums)")
            # By now worker 0 has written into the directory.
            distribution.agree(strategy, _seen(path), f"the flags.txt in {path} (checksums)")
            yield path
        except _GONE as error:
            if places.is_of_store(error):
                raise
            if heard:
                name = signal.Signals(heard[0]).name
                raise Interrupted(f"stopped by {name}; {_saved(path)}", heard[0]) from error
            raise ConnectionError(
                "another worker is gone or answers no more, and its messages say why; start all of "
                "them again, to continue from the last checkpoint"
            ) from error


@contextlib.contextmanager
def ending_within(
    grace: float, last_words: Callable[[], str], leave: Callable[[int], None] = os._exit
) -> Iterator[list[int]]:
    """Ends the process at the latest `grace` seconds after a signal that Python handles.

    A thread of its own hears of the signal, as the main one may wait inside TensorFlow, where no
    Python handler runs. Yields the numbers of the signals heard so far.

    Args:
      grace: seconds.
      last_words: says what is saved, if it comes to that.
      leave: ends the process with a status, 128 and the signal's number.
    """
    heard, over = [], threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch():
        while number := os.read(reader, 1)[0]:
            if number not in STOPS:
                continue
            heard.append(number)
            if over.wait(grace):
                return
            print(
                f"{signal.Signals(number).name} came {grace:g} seconds ago, and this worker still "
                f"waits for another; {last_words()}",
                file=sys.stderr,
                flush=True,
            )
            leave(128 + number)
            return

    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)


def part(strategy: tf.distribute.Strategy, network: keras.Model) -> None:
    """Waits until no worker needs another any more.

    Raises:
      ValueError: the workers have learnt different weights.
    """
    if not distribution.has_workers(strategy):
        return
    checksum = 0
    for weight in network.get_weights():
        checksum = zlib.crc32(weight.tobytes(), checksum)
    distribution.agree(strategy, checksum, "the weights they learnt (checksums)")


def _relevant(settings):
    lines = [one.strip() for one in settings]
    return [one for one in lines if one[2:].partition("=")[0] not in workdir.FREE_FLAGS]


def _seen(path):
    """Returns a checksum of the settings that worker 0 has written, 0 where they are not here."""
    file = path / "flags.txt"
    return zlib.crc32(places.read(file)) if file.is_file() else 0


def _saved(path):
    step = checkpoints.newest_step(path / "checkpoints")
    if step is None:
        return "nothing was saved yet"
    return f"the newest checkpoint is that of step {step}, and the same commands continue there"
