"""Flags of `python -m export.saved_model`."""

from absl import flags

from flags import numbers, source


def define() -> None:
    """Defines the flags; only a program calls it."""
    source.define()
    flags.DEFINE_string("directory", None, "Where <version>/ is written: serving/NAME.")
    numbers.whole("version", None, "Number of the version; default: the next one.", 1, 10**18)
    flags.DEFINE_enum(
        "label",
        "stable",
        ["stable", "canary"],
        "What the version is called: stable is what clients ask for, canary stands beside it.",
    )
    numbers.whole(
        "keep_versions", 3, "Versions that stay; older ones go, but none with a label. 0: all.", 0
    )
    flags.DEFINE_string(
        "batching",
        None,
        "A file of `python -m benchmarks.serving --json`: its sizes of batches are taken; default: "
        "those that are there.",
    )
    flags.DEFINE_string(
        "labels", None, "A text file, one class name a line; default: the run's class names."
    )
    flags.DEFINE_string(
        "resize",
        None,
        "What encoded pictures of another size become: fit, center_crop or shorter_side; default: "
        "as "
        "the run was evaluated, or fit.",
    )
    numbers.whole(
        "max_pixels",
        4096 * 4096,
        "Pixels that an encoded picture may have; one whose header claims more is refused unread.",
        1,
    )
    flags.DEFINE_bool("verify", True, "Check the version in a fresh process before it counts.")
