"""Flags of `python -m export.portable`."""

from absl import flags


def define() -> None:
    """Defines the flags; only a program calls it."""
    flags.DEFINE_string("workdir", None, "A run: its network.keras is exported.")
    flags.DEFINE_string("network", None, "Another network: zoo:NAME or a .keras file.")
    flags.DEFINE_string("output", None, "A new file: NAME.onnx, or NAME.tflite for LiteRT.")
