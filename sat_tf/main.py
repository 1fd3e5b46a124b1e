"""What every main shares: flags in, one line out when something is wrong."""

import difflib
import sys
from collections.abc import Callable

import tensorflow as tf
from absl import app, flags, logging

# Anything else is a defect of ours and keeps its traceback.
_USER_ERRORS = (
    ValueError,
    OSError,
    FloatingPointError,
    tf.errors.ResourceExhaustedError,
    tf.errors.NotFoundError,
    tf.errors.DataLossError,
)


class Interrupted(Exception):
    """A program was told to stop and has saved its state.

    Args:
      message: what was saved and how to go on.
      signal_number: of the signal that stopped it.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


def run(main: Callable[[], None]) -> None:
    """Parses the flags, runs `main` and exits.

    Wrong flags, wrong files and a full disk or memory give one line on stderr and status 2; an
    interrupted run gives one line and 128 + the signal's number, as shells do. Help is status 0.
    """
    app.run(lambda _: _guarded(main), flags_parser=_parse)


def _parse(argv):
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        near = " or ".join(f"--{name}" for name in _near(error.flagname))
        hint = f"did you mean {near}?" if near else "--help lists all"
        _leave(f"there is no flag --{error.flagname}; {hint}", 2)
    except flags.CantOpenFlagFileError as error:
        _leave(f"cannot open the flagfile: {error.__context__}", 2)
    except UnicodeDecodeError as error:
        _leave(f"the flagfile is no text: {error}", 2)
    except flags.Error as error:
        _leave(error, 2)
    except SystemExit:
        sys.exit(0)  # with help, after which absl exits with 1
    if len(rest) > 1:
        _leave(f"unexpected argument {rest[1]!r}; every option is a flag: --name=value", 2)
    return rest


def _near(unknown):
    """Returns flags by the initials of their words, by one of their words, or misspelt."""
    names = sorted(flags.FLAGS)
    initials = [name for name in names if "".join(w[:1] for w in name.split("_")) == unknown]
    words = [name for name in names if f"_{unknown}" in f"_{name}" and len(unknown) > 2]
    return initials or words or difflib.get_close_matches(unknown, names, 2, cutoff=0.75)


def _guarded(main):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TFDS tells every file it opens
    try:
        main()
    except Interrupted as stop:
        _leave(stop, 128 + stop.signal_number)
    except _USER_ERRORS as error:
        _leave(error, 2)


def _leave(message, status):
    line = " ".join(str(message).split())
    print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {line}", file=sys.stderr)
    sys.exit(status)
