"""Which network."""

from absl import flags

from flags import numbers


def define() -> None:
    """Defines the flags; only a program calls it."""
    flags.DEFINE_string(
        "model",
        None,
        "Network, with options after a colon: resnet18:width=16; or keras:NAME, of "
        "keras.applications, without its weights; or module:function, which returns a model. An "
        "unknown name lists all. Default: resnet8, or the initial network as it is.",
    )
    flags.DEFINE_string(
        "activation",
        None,
        "Activation everywhere, with parameters after a colon: celu:alpha=1.6; or module:callable; "
        "or one of TensorFlow Addons: tfa:snake; or keep, what the network has. Default: swish; "
        "keep for an initial network.",
    )
    flags.DEFINE_bool(
        "synchronized_batch_norm",
        False,
        "In training, batch norm's mean and variance are those of all replicas' images, not of a "
        "replica's.",
    )
    flags.DEFINE_string(
        "initial_network",
        None,
        "Fine-tuning: a run, zoo:NAME, a .keras file, keras.applications:NAME or module:function, "
        "whose weights training begins with. Other classes get a new head. With --model, that "
        "network takes the weights of one of its architecture.",
    )
    flags.DEFINE_list(
        "freeze",
        [],
        "Layers of the initial network that are not trained, by patterns with commas: "
        "conv0*,group0_*; '*' is all but the head.",
    )
    numbers.real(
        "body_learning_rate_multiplier",
        1.0,
        "What the learning rate is multiplied by for all layers but the head, of an initial "
        "network.",
        0,
        1_000,
    )
