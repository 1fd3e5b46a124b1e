"""Flags of `python -m export.pytorch`."""

from absl import flags

from flags import source


def define() -> None:
    """Defines the flags; only a program calls it."""
    source.define()
    flags.DEFINE_string("directory", None, "A new directory for the files.")
    flags.DEFINE_string(
        "report",
        None,
        "A report.json of sat_tf.evaluate whose figures go into model_info.json; default: they are "
        "left empty.",
    )
    flags.DEFINE_bool(
        "verify", True, "Compare the logits in a fresh process with PyTorch before it counts."
    )
