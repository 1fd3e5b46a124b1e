"""Flags of `python -m sat_tf.evaluate`."""

from absl import flags

from flags import pixels

flags.DEFINE_string("workdir", None, "A run: its network.keras is evaluated on its data set.")
flags.DEFINE_string(
    "network", None, "Another network: a .keras file, or module:function that returns a model."
)
flags.DEFINE_list(
    "attacks", ["pgd-10", "pgd-20", "pgd-50", "pgd-200"], "Attacks: pgd-STEPS, with commas."
)
pixels.define(
    "epsilon", None, "Radius of the ball in pixels (0-255); default: the one of training."
)
pixels.define(
    "step_size",
    None,
    "Step of PGD in pixels; default: epsilon / 4, which is 1 at epsilon 4 as in the paper.",
)
flags.DEFINE_string("norm", None, "Norm of the ball: linf or l2; default: the one of training.")
flags.DEFINE_integer("restarts", 1, "Random starts; the worst one counts, for each image.")
flags.DEFINE_integer("batch_size", 128, "Images evaluated at once.")
flags.DEFINE_integer("num_images", None, "Images from the beginning of the split; default: all.")
flags.DEFINE_integer("seed", 0, "Seed of all noise.")
flags.DEFINE_string("dataset", None, "Data set; default: the one of training.")
flags.DEFINE_string("split", "test", "Part of the data set: test, validation or train.")
flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data; default: TFDS_DATA_DIR.")
flags.DEFINE_integer("image_size", None, "Side of the images in pixels; default: the network's.")
flags.DEFINE_string("json", None, "Where the report goes; default: WORKDIR/report.json.")
