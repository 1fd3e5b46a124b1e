"""Programs inside the test process: their flags are global, so they leave it again."""

import contextlib
import importlib
import sys

from absl import flags

THEMES = ("attack", "data", "method", "model", "run", "training")


@contextlib.contextmanager
def imported(name, themes=THEMES):
    """Yields a module that defines flags, all at their defaults."""
    module = importlib.import_module(name)
    flags.FLAGS.mark_as_parsed()
    try:
        yield module
    finally:
        for flag in names(themes):
            delattr(flags.FLAGS, flag)
        for gone in (name, *(f"flags.{theme}" for theme in themes)):
            package, _, last = gone.rpartition(".")
            sys.modules.pop(gone)
            delattr(sys.modules[package], last)
        flags.FLAGS.unparse_flags()


def names(themes=THEMES):
    """Lists the flags of themes."""
    found = flags.FLAGS.flags_by_module_dict()
    return sorted(flag.name for theme in themes for flag in found[f"flags.{theme}"])
