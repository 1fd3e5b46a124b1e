"""What every main shares: flags in, one line out when something is wrong."""

import sys
from collections.abc import Callable
from typing import NoReturn

import tensorflow as tf
from absl import app, flags, logging

# Anything else is a defect of ours and keeps its traceback.
_USER_ERRORS = (ValueError, OSError, FloatingPointError, tf.errors.ResourceExhaustedError)


def run(main: Callable[[], None]) -> None:
    """Parses the flags, runs `main` and exits.

    Wrong flags, wrong files and a full disk or memory give one line on stderr and status 2.
    """
    app.run(lambda _: _guarded(main), flags_parser=_parse)


def _parse(argv):
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        leave(error, 2)
    if len(rest) > 1:
        leave(f"unexpected argument {rest[1]!r}; every option is a flag: --name=value", 2)
    return rest


def _guarded(main):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TFDS tells every file it opens
    try:
        main()
    except _USER_ERRORS as error:
        leave(error, 2)


def leave(message: object, status: int) -> NoReturn:
    """Prints one line on stderr and exits with a status."""
    line = " ".join(str(message).split())
    print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {line}", file=sys.stderr)
    sys.exit(status)
