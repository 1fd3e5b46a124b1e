"""Flags of `python -m export.litert`."""

from absl import flags

from flags import numbers, source


def define() -> None:
    """Defines the flags; only a program calls it."""
    source.define()
    flags.DEFINE_string("output", None, "A new file, NAME.tflite.")
    flags.DEFINE_bool(
        "int8",
        False,
        "Quantise the file to integers after training, and measure its clean and transferred "
        "adversarial accuracy, into NAME.json.",
    )
    flags.DEFINE_string("dataset", None, "Of --int8, its data set; default: the one of training.")
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data; default: TFDS_DATA_DIR.")
    numbers.whole(
        "calibration_images", None, "Training images that tell the ranges; default: 256.", 1
    )
    numbers.whole("num_images", None, "Test images that are measured on; default: 1000.", 1)
    numbers.pixels("epsilon", None, "Radius of PGD in pixels; default: the one of training.")
    numbers.whole("seed", None, "Seed of the choice and of PGD's noise; default: 0.", 0)
