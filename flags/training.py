"""How the weights are updated."""

from absl import flags

from flags import numbers


def define() -> None:
    """Defines the flags; only a program calls it."""
    numbers.whole("epochs", 30, "Passes over the training images.", 1, 100_000)
    numbers.whole("batch_size", 128, "Images in a global batch, over all replicas.", 1, 2**20)
    flags.DEFINE_string(
        "optimizer",
        "sgd",
        "Optimiser, with options after a colon: sgd, rmsprop, adam, adamw:beta_2=0.95, lamb or "
        "lion; or one of TensorFlow Addons, with what it wraps in parentheses: "
        "tfa:LAMB:beta_1=0.95, tfa:Lookahead(sgd).",
    )
    numbers.real("learning_rate", 0.1, "Peak learning rate.", 0, 1_000)
    numbers.whole(
        "learning_rate_base_size",
        0,
        "Images that --learning_rate is for, such as 256: the peak is learning_rate * batch_size / "
        "learning_rate_base_size (Goyal et al.; not for LAMB). 0: for the global batch as it is.",
        0,
        2**20,
    )
    flags.DEFINE_string(
        "schedule", "one_cycle", "constant, step, cosine, one_cycle or exponential."
    )
    numbers.real(
        "warmup_epochs",
        None,
        "Epochs of linear warm-up from 0; default: 2, or a quarter of the epochs if that is "
        "shorter.",
        0,
        100_000,
    )
    numbers.reals("boundary", [], "Epoch at which the schedule 'step' falls.", 0, 100_000)
    numbers.real("factor", 0.1, "What the schedule 'step' multiplies the rate by.", 0, 1)
    numbers.real(
        "decay_epochs",
        2.4,
        "Epochs from a fall of the schedule 'exponential' to the next.",
        1e-3,
        100_000,
    )
    numbers.real("decay_factor", 0.97, "What each fall multiplies the rate by.", 0, 1)
    numbers.real("momentum", 0.9, "Momentum of sgd, rmsprop and tfa:SGDW.", 0, 1)
    flags.DEFINE_bool("nesterov", True, "Nesterov's momentum.")
    numbers.real(
        "weight_decay",
        5e-4,
        "Coefficient of 0.5 * |kernel|^2 in the loss; adamw, lamb, lion, tfa:AdamW, tfa:LAMB and "
        "tfa:SGDW decay kernels in their step instead.",
        0,
        1,
    )
    numbers.real(
        "activation_weight_decay",
        0.0,
        "The same coefficient for the scalars of SmoothReLU and PSSiLU; which one the paper's "
        "SmoothReLU had is unknown (0 in the released code, that of the kernels in its TPU "
        "ancestor).",
        0,
        1,
    )
    numbers.real("label_smoothing", 0.0, "Smoothing of the training labels.", 0, 0.999)
    numbers.real("ema_decay", 0.0, "Decay of the weight average; 0: none.", 0, 0.999999)
    numbers.whole(
        "gradient_accumulation", 1, "Pieces that each replica's batch is cut into.", 1, 2**20
    )
