"""Programs inside the test process: their flags are global, so they leave it again."""

import contextlib
import functools
import importlib

import pytest
from absl import flags

THEMES = ("attack", "data", "method", "model", "run", "training")


@contextlib.contextmanager
def imported(name, themes=THEMES):
    """Yields the module of a program, with its flags defined and at their defaults."""
    module = importlib.import_module(name)
    for theme in themes:
        importlib.import_module(f"flags.{theme}").define()
    flags.FLAGS.mark_as_parsed()
    try:
        yield module
    finally:
        for flag in names(themes):
            delattr(flags.FLAGS, flag)
        flags.FLAGS.unparse_flags()


def names(themes=THEMES):
    """Lists the flags of themes."""
    found = flags.FLAGS.flags_by_module_dict()
    return sorted(flag.name for theme in themes for flag in found[f"flags.{theme}"])


def parsed(define, *arguments):
    """Parses arguments as a program with the flags that `define` defines, into values apart."""
    values = flags.FlagValues()
    with pytest.MonkeyPatch.context() as patch:  # other tests define flags of these names
        for name in (name for name in dir(flags) if name.startswith("DEFINE")):
            into = functools.partial(getattr(flags, name), flag_values=values)
            patch.setattr(flags, name, into)
        define()
    values(["program", *arguments])
    return values
