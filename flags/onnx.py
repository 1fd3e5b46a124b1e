"""Flags of `python -m export.onnx`."""

from absl import flags

from flags import source


def define() -> None:
    """Defines the flags; only a program calls it."""
    source.define()
    flags.DEFINE_string("output", None, "A new file, NAME.onnx.")
