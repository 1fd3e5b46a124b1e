"""Which images."""

from absl import flags

from flags import numbers


def define() -> None:
    """Defines the flags; only a program calls it."""
    flags.DEFINE_string(
        "dataset", "digits", "Data set: digits (embedded), folder:PATH, or the name of a TFDS set."
    )
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data; default: TFDS_DATA_DIR.")
    flags.DEFINE_bool(
        "download",
        False,
        "Let TFDS download the set, and Keras the weights of its applications, if they are not "
        "there.",
    )
    numbers.whole(
        "max_pixels",
        4096 * 4096,
        "Most pixels that the header of an encoded image may claim; one with more is refused.",
        1,
    )
    numbers.whole(
        "image_size", None, "Side of the images in pixels; default: the data's own.", 1, 8_192
    )
    flags.DEFINE_string(
        "augment",
        None,
        "Augmentation of the training images: none, crop, crop_flip or inception; then after a + "
        "each color_jitter, pca_lighting, random_erasing or rand_augment, with options after a "
        "colon, such as crop_flip+color_jitter:contrast=0.2; default: the data's.",
    )
    flags.DEFINE_string(
        "extra_data",
        None,
        "Other training images, such as generated ones, in every batch: file.npz, file.tfrecord, "
        "several of these (extra-*.tfrecord, or their folder) or a folder of class folders.",
    )
    numbers.real("extra_fraction", None, "Their share of a batch; default: 0.7.", 0, 1)
    numbers.real(
        "mixup", 0.0, "Alpha of MixUp, such as 0.2, which makes labels soft; 0: off.", 0, 100
    )
    numbers.real("cutmix", 0.0, "Alpha of CutMix, such as 1, likewise; 0: off.", 0, 100)
    flags.DEFINE_string(
        "eval_resize", None, "How validation and test images get their size; default: the data's."
    )
    numbers.whole(
        "lanes",
        1,
        "Streams that a TFDS set's record files are read in, each a part of every batch: of "
        "several workers each reads only those it needs. It must divide the batch; another number "
        "is another order.",
        1,
        1_024,
    )
    flags.DEFINE_string(
        "data_service",
        None,
        "grpc://host:port of a tf.data service whose workers decode and augment the training "
        "images (docs/scaling.md); default: this process does.",
    )
