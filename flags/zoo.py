"""Flags of `python -m sat_tf.zoo`."""

from absl import flags


def define() -> None:
    """Defines the flags; only a program calls it."""
    flags.DEFINE_string("name", None, "A network: its card is shown, or the name of a new one.")
    flags.DEFINE_string("workdir", None, "A run that has ended: its network comes into the zoo.")
    flags.DEFINE_list(
        "reports", [], "What evaluate wrote about it, with commas: the figures of its card."
    )
