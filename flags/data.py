"""Which images."""

from absl import flags

flags.DEFINE_string(
    "dataset", "digits", "Data set: digits (embedded), folder:PATH, or the name of a TFDS set."
)
flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data; default: TFDS_DATA_DIR.")
flags.DEFINE_bool("download", False, "Let TFDS download the set if it is not there.")
flags.DEFINE_integer("image_size", None, "Side of the images in pixels; default: the data's own.")
flags.DEFINE_string("augment", None, "Augmentation of the training images; default: the data's.")
flags.DEFINE_string(
    "eval_resize", None, "How validation and test images get their size; default: the data's."
)
