"""What every main shares: flags in, one line out when something is wrong."""

import contextlib
import difflib
import functools
import os
import re
import signal
import sys
import types
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from sat_tf import flagfiles, help, quiet
from sat_tf.runs import Interrupted, places

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # Keras writes them into its messages


def run(
    main: Callable[..., Any],
    *themes: types.ModuleType,
    operands: bool = False,
    tidies: bool = False,
) -> None:
    """Defines and parses the flags, runs `main` and exits.

    Args:
      main: the program.
      themes: modules of `flags`, in the order in which `--help` shows them.
      operands: whether `main` takes a list of what stands beside the flags, such as files;
        otherwise nothing may stand there.
      tidies: whether SIGTERM ends it as Ctrl-C does, so that what it has begun to write goes.

    Wrong flags, wrong files and a full disk or memory give one line on stderr and status 2; an
    interrupted run gives one line and 128 + the signal's number, as shells do. Help is status 0.
    The process ends at once then, without waiting for threads; what `main` returns lives so long.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the start had one of its own
    if tidies:
        signal.signal(signal.SIGTERM, _terminated)
    if not getattr(sys.flags, "safe_path", False):  # which Python 3.10 does not know
        sys.path.insert(0, "")  # of module:callable; a command lacks what `python -m` puts there
    for theme in themes:
        theme.define()
        for flag in flags.FLAGS.get_key_flags_for_module(theme):  # so --help shows them
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(
        lambda argv: _guarded(functools.partial(main, argv[1:]) if operands else main),
        flags_parser=functools.partial(
            _parse, main=main, known=flagfiles.recipes(themes), operands=operands
        ),
    )


def _parse(argv, main=None, known=flagfiles.NONE, operands=False):
    if {"--help", "-help", "--h", "-h", "-?"} & set(argv[1:]):
        with contextlib.suppress(BrokenPipeError):
            print(help.text(sys.modules[main.__module__].__doc__))
        _flush()
        sys.exit(0)
    if operands:
        flags.FLAGS.set_gnu_getopt(True)  # flags may stand behind them
    try:
        rest = flags.FLAGS(flagfiles.expanded(argv, known))
    except flags.UnrecognizedFlagError as error:
        near = " or ".join(f"--{name}" for name in _near(error.flagname))
        hint = f"did you mean {near}?" if near else "--help lists all"
        _leave(f"there is no flag --{error.flagname}; {hint}", 2)
    except (flags.Error, ValueError) as error:
        _leave(error, 2)
    except (SystemExit, BrokenPipeError):
        _flush()
        sys.exit(0)  # with help, after which absl exits with 1
    if len(rest) > 1 and not operands:
        _leave(f"unexpected argument {rest[1]!r}; every option is a flag: --name=value", 2)
    return rest


def _flush():
    """Brings out what was printed, to a reader who may have had enough, such as `head`."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer is written once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _near(unknown):
    """Returns flags by the initials of their words, by one of their words, or misspelt."""
    names = sorted(flags.FLAGS)
    initials = [name for name in names if "".join(w[:1] for w in name.split("_")) == unknown]
    words = [name for name in names if f"_{unknown}" in f"_{name}" and len(unknown) > 2]
    return initials or words or difflib.get_close_matches(unknown, names, 2, cutoff=0.75)


def _terminated(number, frame):
    del frame
    raise Interrupted("stopped by SIGTERM", number)


def _guarded(main):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TFDS tells every file it opens
    # Whoever leaves a clause below, or lets go of the result, drops what main still held.
    try:
        result = main()  # noqa: F841
    except Interrupted as stop:
        _end(stop, 128 + stop.signal_number)
    except KeyboardInterrupt:
        _end("stopped by SIGINT", 128 + signal.SIGINT)
    except Exception as error:
        if (said := _for_user(error)) is None:
            raise  # a defect of ours keeps its traceback
        _end(said, 2)
    _end(None, 0)


def _for_user(error):
    """Returns what to say of an error that its user can mend, None of any other."""
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        return error
    tf = sys.modules.get("tensorflow")  # which a client of a server does without
    if tf is None:
        return None
    mended = (
        tf.errors.ResourceExhaustedError,
        tf.errors.NotFoundError,
        tf.errors.DataLossError,
    )
    if isinstance(error, mended):
        return error
    if isinstance(error, tf.errors.OpError) and places.is_of_store(error):
        return error.message
    if isinstance(error, tf.errors.InvalidArgumentError):
        # What the graph of the input pipeline refuses (see `data.crops`), it says in an assertion.
        refused = re.search(r"assertion failed: (\[.*\])", str(error))
        return refused and re.sub(r"[\[\]]", "", refused[1])
    return None


def _leave(message, status):
    say(message)
    sys.exit(status)


def say(message: object) -> None:
    """Writes one line on stderr that begins with the program's name."""
    line = " ".join(_COLOUR.sub("", str(message)).split())
    print(f"{quiet.program(sys.orig_argv)}: {line}", file=sys.stderr)


def _end(message, status):
    """Ends the process; what it had to keep is on the disk."""
    if message is not None:
        say(message)
    if "TF_CONFIG" in os.environ:  # other workers expect TensorFlow to take its leave
        sys.exit(status)
    # Python would drop the input pipelines first, and TensorFlow can take 40 seconds over one.
    _flush()
    sys.stderr.flush()
    os._exit(status)
