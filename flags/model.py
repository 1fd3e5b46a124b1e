"""Which network."""

from absl import flags


def define() -> None:
    """Defines the flags; only a program calls it."""
    flags.DEFINE_string(
        "model",
        "resnet8",
        "Network, with options after a colon: resnet18:width=16. An unknown name lists all.",
    )
    flags.DEFINE_string(
        "activation",
        "swish",
        "Activation everywhere, with parameters after a colon: celu:alpha=1.6; or module:callable; "
        "or one of TensorFlow Addons: tfa:snake.",
    )
