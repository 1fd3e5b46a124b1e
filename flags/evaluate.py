"""Flags of `python -m sat_tf.evaluate`."""

from absl import flags

from flags import numbers

# Themes of the help by their first flag.
THEMES = {
    "workdir": "The network",
    "dataset": "The images",
    "attacks": "The attacks",
    "corruptions": "Corrupted images, without attacks",
    "batch_size": "The run",
}


def define() -> None:
    """Defines the flags; only a program calls it."""
    for theme in (_network, _images, _attacks, _corruptions, _run):
        theme()


def _network():
    flags.DEFINE_string("workdir", None, "A run: its network.keras is evaluated on its data set.")
    flags.DEFINE_string(
        "network",
        None,
        "Another network: a run's directory, a .keras file, a SavedModel, zoo:NAME, "
        "keras.applications:NAME or module:function that returns a model.",
    )
    flags.DEFINE_list(
        "input_range",
        None,
        "What pixels 0 and 255 are to the network: 0,1 or -1,1; default: pixels.",
    )
    flags.DEFINE_string(
        "preprocessing",
        "none",
        "What a .keras file, SavedModel or function expects of its input, as keras.applications "
        "names it: tf, torch or caffe.",
    )


def _images():
    flags.DEFINE_string("dataset", None, "Data set; default: the one of training.")
    flags.DEFINE_string("split", "test", "Part of the data set: test, validation or train.")
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data; default: TFDS_DATA_DIR.")
    numbers.whole(
        "max_pixels",
        4096 * 4096,
        "Most pixels that the header of an encoded image may claim; one with more is refused.",
        1,
    )
    numbers.whole(
        "image_size", None, "Side of the images in pixels; default: the network's.", 1, 8_192
    )
    flags.DEFINE_string(
        "eval_resize", None, "How images get that size; default: the data set's way."
    )
    numbers.whole("num_images", None, "Images from the beginning of the split; default: all.", 1)
    flags.DEFINE_string(
        "ids", None, "A file with one image a line: its path in a folder, or its number from 0."
    )
    flags.DEFINE_string(
        "classes",
        None,
        "A file with a line for each class of the data set: the network's class that it is, by "
        "number "
        "from 0 or by name; default: both have the same classes, or it is refused.",
    )


def _attacks():
    flags.DEFINE_list(
        "attacks",
        ["pgd-10", "pgd-20", "pgd-50", "pgd-200"],
        "With commas: pgd-STEPS, apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square; towards a class, "
        "pgd-STEPS-random and pgd-STEPS-least_likely; or a version of AutoAttack: autoattack "
        "(standard), plus, rand; quick: its first two with few targets; or one's own, "
        "module:function (docs/evaluation.md). They run in this order, but pgd-STEPS first, unless "
        "--nolast_iterate or --surrogate.",
    )
    flags.DEFINE_string(
        "surrogate",
        None,
        "Another network, as --network, on which PGD is computed; its images are shown to the "
        "network, whose verdicts count.",
    )
    numbers.pixels(
        "epsilon", None, "Radius of the ball in pixels (0-255); default: the one of training."
    )
    numbers.pixels(
        "step_size",
        None,
        "Step of PGD in pixels; default: epsilon / 4, which is 1 at epsilon 4 as in the paper.",
    )
    flags.DEFINE_string("norm", None, "linf, l2 or l1; default: the one of training.")
    flags.DEFINE_list(
        "norms",
        [],
        "Several norms in one report, and their union: an image stands only if it stands in all, "
        "such as linf,l2,l1; in place of --norm and --epsilon.",
    )
    flags.DEFINE_list(
        "epsilons", [], "A radius in pixels for each of --norms, such as 8,127.5,3060."
    )
    numbers.whole(
        "restarts", 1, "Random starts of PGD; the worst one counts, for each image.", 1, 10_000
    )
    flags.DEFINE_bool(
        "last_iterate",
        True,
        "Run PGD to its last step on every image, as the paper; otherwise a broken image leaves.",
    )
    flags.DEFINE_list("curve", [], "Radii in pixels for accuracy over epsilon: 0,1,2,4,8.")
    flags.DEFINE_bool("steps_curve", False, "Print what stands after so many steps of each attack.")
    numbers.whole("seed", 0, "Seed of all noise.", 0)


def _corruptions():
    flags.DEFINE_list(
        "corruptions",
        [],
        "Measure accuracy on corrupted images instead of attacks: all, which are the 15 of "
        "ImageNet-C and CIFAR-10-C, or some by name, such as gaussian_noise,fog; of "
        "--dataset=cifar10_corrupted or imagenet2012_corrupted as TFDS has them, else computed.",
    )
    flags.DEFINE_list("severities", ["1", "2", "3", "4", "5"], "Of the corruptions, 1 is mild.")
    flags.DEFINE_string(
        "corruption_baseline",
        None,
        "Another network's JSON of --corruptions, to which the mean corruption error is relative.",
    )


def _run():
    numbers.whole("batch_size", 128, "Images evaluated at once, over all replicas.", 1, 2**20)
    flags.DEFINE_bool(
        "fold_batch_norm",
        True,
        "Attack with batch norm folded into the layers before it, which is faster; breaks are "
        "confirmed by the network as it is.",
    )
    flags.DEFINE_string(
        "strategy",
        "one_device",
        "one_device, mirrored, tpu or multi_worker: each worker attacks its share of the images "
        "with the devices of its machine, and worker 0 writes the report.",
    )
    flags.DEFINE_string(
        "cluster", "tf_config", "Where multi_worker finds the workers: tf_config or slurm."
    )
    numbers.real(
        "worker_timeout",
        600.0,
        "Seconds that worker 0 waits for another from which nothing new comes.",
        0.0,
        86_400.0,
    )
    numbers.whole("logical_cpus", 1, "Logical devices the CPU is split into, for mirrored.", 1, 64)
    flags.DEFINE_string(
        "json",
        None,
        "Where the report goes; default: WORKDIR/report.json, "
        "or report_WHAT_WAS_ASKED.json; of a network, in the current directory.",
    )
    flags.DEFINE_list(
        "write",
        ["html"],
        "Beside it: html, plots, landscape (the loss around an image), tensorboard, "
        "model_info; the adversarial images as npz, tfrecord.",
    )
    flags.DEFINE_string(
        "image_type", "float32", "Of those images: float32, or uint8, rounded inside the ball."
    )
    flags.DEFINE_bool("overwrite", False, "Evaluate from the beginning, whatever is there.")
    numbers.real("save_every", 30.0, "Seconds between saves of the verdicts.", 0, 86_400)
