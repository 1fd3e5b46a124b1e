"""Starts programs, and TensorFlow without its banner: errors of ours are one line on stderr."""

import contextlib
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence

# What an installation puts on the path, and the program that each starts.
COMMANDS = {
    "sat-train": "sat_tf.train",
    "sat-evaluate": "sat_tf.evaluate",
    "sat-convert": "sat_tf.convert",
    "sat-export": "sat_tf.export.saved_model",
    "sat-client": "sat_tf.export.client",
}
_ERASE = "\r\x1b[K"
# What Keras tries to import, with SciPy behind it, for wrappers and plots: no program has them.
_UNUSED = ("matplotlib", "pandas", "sklearn")
# The list of the programs, what asks a server, and what may hold PyTorch instead.
_WITHOUT_TENSORFLOW = (
    "sat_tf", "sat_tf.__main__", "export.client", "sat_tf.export.client", "benchmarks.worker"
)  # fmt: skip


def start(command: Sequence[str]) -> None:
    """Starts a program: Ctrl-C ends it in one line, also while TensorFlow is being imported.

    Args:
      command: the whole command line, such as `python -m sat_tf.train`.
    """
    name = program(command)
    if COMMANDS.get(name, name) in _WITHOUT_TENSORFLOW:
        return

    screen = os.dup(2)  # the import turns 2 elsewhere

    def stop(number, frame):
        line = f"{_ERASE if sys.stderr.isatty() else ''}{name}: stopped by SIGINT"
        os.write(screen, f"{line} before it began\n".encode())
        os._exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    with waiting("starting TensorFlow"), _lightly():
        import_tensorflow()
        import tensorflow  # noqa: F401, where it may log and nothing was imported yet


def program(command: Sequence[str]) -> str:
    """Returns what a program is called before its messages, as it was started.

    "sat_tf.train" of `python -m sat_tf.train`, "sat-train" of that command, "mine.py" of
    `python mine.py` or `./mine.py`.

    Args:
      command: the whole command line, as `sys.orig_argv`.
    """
    first = sys.argv[0]
    # A script stands in the command as it was given; a module is given by its name.
    if first != "-m" and first in command or "-m" not in command[:-1]:
        return os.path.basename(first)
    return command[command.index("-m") + 1]


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows on a terminal what is being waited for, and erases it afterwards."""
    shown = sys.stderr.isatty()
    if shown:
        print(f"{what} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print(_ERASE, end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _lightly() -> Iterator[None]:
    """Imports without what no program uses and without looking for garbage, in half the time."""
    hidden = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # Keras takes them for not installed
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]  # a program that does use one imports it itself
        gc.freeze()  # modules stay: later collections need not walk through them
        if collects:
            gc.enable()


def import_tensorflow() -> None:
    """Imports TensorFlow; what it logs meanwhile is shown only if the import fails.

    TensorFlow 2.21 reports oneDNN and missing CUDA drivers before its own log level applies. A
    user who sets TF_CPP_MIN_LOG_LEVEL gets everything that level lets through.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ or "tensorflow" in sys.modules:
        return
    # Errors too, as a machine without a GPU logs one; real failures raise exceptions as well.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
