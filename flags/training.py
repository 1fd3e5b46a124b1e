"""How the weights are updated."""

from absl import flags

flags.DEFINE_integer("epochs", 30, "Passes over the training images.", lower_bound=1)
flags.DEFINE_integer(
    "batch_size", 128, "Images in a global batch, over all replicas.", lower_bound=1
)
flags.DEFINE_float("learning_rate", 0.1, "Peak learning rate, for the global batch as it is.")
flags.DEFINE_string("schedule", "one_cycle", "constant, step, cosine or one_cycle.")
flags.DEFINE_float(
    "warmup_epochs",
    None,
    "Epochs of linear warm-up from 0; default: 2, or a quarter of the epochs if that is shorter.",
    lower_bound=0,
)
flags.DEFINE_multi_float("boundary", [], "Epoch at which the schedule 'step' falls; repeatable.")
flags.DEFINE_float("factor", 0.1, "What the schedule 'step' multiplies the rate by.", lower_bound=0)
flags.DEFINE_float("momentum", 0.9, "Momentum of SGD.", lower_bound=0, upper_bound=1)
flags.DEFINE_bool("nesterov", True, "Nesterov's momentum.")
flags.DEFINE_float(
    "weight_decay", 5e-4, "Coefficient of 0.5 * |kernel|^2 in the loss.", lower_bound=0
)
flags.DEFINE_float(
    "activation_weight_decay",
    0.0,
    "The same coefficient for the scalars of SmoothReLU and PSSiLU; which one the paper's "
    "SmoothReLU had is unknown (0 in the released code, that of the kernels in its TPU ancestor).",
    lower_bound=0,
)
flags.DEFINE_float("label_smoothing", 0.0, "Smoothing of the training labels.")
flags.DEFINE_float(
    "ema_decay", 0.0, "Decay of the weight average; 0: none.", lower_bound=0, upper_bound=0.999999
)
flags.DEFINE_integer(
    "gradient_accumulation", 1, "Pieces that each replica's batch is cut into.", lower_bound=1
)
