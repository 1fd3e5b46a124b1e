"""Flags of the network that an export takes, which the theme that calls this has as its own."""

from absl import flags

flags.disclaim_key_flags()  # as in `numbers`


def define() -> None:
    """Defines the flags; only another theme calls it."""
    flags.DEFINE_string("workdir", None, "A run: its network.keras is exported.")
    flags.DEFINE_string(
        "network",
        None,
        "Another network: zoo:NAME, a .keras file, or module:function that returns a model.",
    )
