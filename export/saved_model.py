"""Writes a network as a versioned SavedModel for TensorFlow Serving.

    python -m export.saved_model --workdir=runs/digits --directory=serving/digits
    python -m export.saved_model --network=mine.keras --labels=names.txt --directory=serving/mine
    python -m export.saved_model --workdir=runs/digits --directory=serving/digits --version=7

A version is written under a hidden name, checked by a fresh process that has neither Keras nor
this project, and only then renamed to `<name>/<version>/`: a server that watches `<name>` never
sees half a version, nor one that answers wrongly.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import flags, logging

from export import expectations, extras, signatures, verify, warmup
from flags import export as own_flags
from sat_tf import cli, loading, specs
from sat_tf.runs import atomic, sealed, workdir

BATCH_SIZES = (1, 8, 64)


def export(
    network: keras.Model,
    directory: str | Path,
    *,
    version: int | None = None,
    class_names: Sequence[str] | None = None,
    resize: str = "fit",
    training: dict | None = None,
    verified: bool = True,
) -> Path:
    """Writes `<directory>/<version>/`, whole or not at all.

    Args:
      network: pixels [N, H, W, C] in [0, 255] to logits [N, K]; H, W and C are fixed.
      directory: `<name>` as TensorFlow Serving counts, the parent of the versions.
      version: at least 1; None takes the one after the highest there.
      class_names: K names, for the answer `labels` and the file `labels.txt`; or None.
      resize: what becomes of encoded pictures of another size; one of `signatures.RESIZES`.
      training: what is known of the training (metrics.json); travels along in metadata.json.
      verified: whether a fresh process must confirm the answers before the version counts.

    Returns:
      The directory of the version.

    Raises:
      ValueError: a network of another form, or one that gives probabilities; the wrong number of
        names; a version that exists, or one that fails its verification. Nothing is left then.
    """
    directory = Path(directory)
    image_shape, num_classes = check_network(network)
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(
            f"{len(class_names)} class names came for a network of {num_classes} classes; "
            "give one a class, in the order of the logits"
        )
    check_resize(resize, image_shape)
    check_answers(network, image_shape)
    version = next_version(directory) if version is None else version
    target = directory / str(version)
    refuse_existing(target)
    # Once as variables and once on their way there.
    size = 2 * sum(keras.ops.convert_to_numpy(weight).nbytes for weight in network.weights)
    atomic.require_space(directory, size, "the network's weights")
    atomic.make_directory(directory, "--directory")
    # TensorFlow Serving looks only at directories that are named by a number.
    with tempfile.TemporaryDirectory(prefix=f".{version}.partial-", dir=directory) as hidden:
        partial = Path(hidden) / str(version)
        servable = signatures.Servable(network, image_shape, class_names, resize)
        # Without its custom gradients no gradient would flow through swish after loading.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
        _save(servable, partial, options)
        facts = {"resize": resize, "training": training or {}}
        extras.write(partial / "assets.extra", network, class_names, facts)
        warmup.write(partial / "assets.extra", directory.resolve().name, image_shape, BATCH_SIZES)
        expectations.write(partial, network, image_shape, resize)
        sealed.write_sums(partial)
        if verified:
            verify.verify(partial)
        try:
            partial.rename(target)
        except OSError:
            refuse_existing(target)  # another export was faster
            raise
    return target


def _save(servable, partial, options):
    try:
        tf.saved_model.save(servable, str(partial), servable.answers, options)
    except tf.errors.OpError as error:  # its words name neither the place nor what is missing
        free = shutil.disk_usage(partial.parent).free
        reason = error.message.rpartition("; ")[2]
        target = partial.parents[1] / partial.name
        raise OSError(
            f"cannot write {target}: {reason} ({free:,} bytes are free); nothing is left of it"
        ) from error


def check_network(network: keras.Model) -> tuple[tuple[int, int, int], int]:
    """Returns the image shape (H, W, C) and the number of classes.

    Raises:
      ValueError: no Keras model, not one fixed image size, or as `loading.image_form`.
    """
    if not isinstance(network, keras.Model):
        raise ValueError(
            f"a Keras model was expected, not a {type(network).__name__}: what was exported is "
            "exported already, and its directory can be copied"
        )
    image_shape, num_classes = loading.image_form(network)
    if None in image_shape:
        raise ValueError(
            f"the network takes images of {image_shape}, any size; a fixed one was expected: build "
            "it with its image size"
        )
    return image_shape, num_classes


def check_answers(network: keras.Model, image_shape: tuple[int, int, int]) -> None:
    """Looks at what comes out of a network: its last operation, and its answers to pictures.

    Raises:
      ValueError: answers that are not finite, or probabilities: the end is a softmax or a sigmoid,
        or all answers lie in [0, 1] and their rows sum to 1, or some exceed 1/2, as no logits do.
    """
    expected = (
        "logits were expected: build it without (keras.applications: classifier_activation=None)"
    )
    if (last := last_operation(network, image_shape)) in ("Softmax", "Sigmoid"):
        raise ValueError(f"the network ends in a {last.lower()}; {expected}")
    answers = expectations.logits_of(network, expectations.probes(*image_shape))
    if not np.isfinite(answers).all():
        bad = int((~np.isfinite(answers)).any(axis=1).sum())
        raise ValueError(
            f"the network's answers to {bad} of {len(answers)} pictures are not finite"
        )
    low, high = answers.min(), answers.max()
    sums_to_1 = np.all(np.abs(answers.sum(axis=1) - 1) <= 1e-5)
    if low >= 0 and high <= 1 and (sums_to_1 or high > 0.5):
        raise ValueError(
            f"the network's answers run from {low:.4g} to {high:.4g}, as probabilities do; "
            f"{expected}"
        )


def last_operation(network: keras.Model, image_shape: tuple[int, int, int]) -> str:
    """Returns the kind of the TensorFlow operation that makes the answers, however nested."""
    spec = tf.TensorSpec([None, *image_shape], tf.float32)
    answer = tf.function(lambda pixels: network(pixels, training=False), autograph=False)
    operation = answer.get_concrete_function(spec).graph.outputs[0].op
    while operation.type in ("Identity", "IdentityN", "Cast", "Reshape", "Squeeze"):
        operation = operation.inputs[0].op
    return operation.type


def check_resize(resize: str, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError where the name is unknown or wants a square and the network has none."""
    specs.one_of("resize", resize, signatures.RESIZES)
    if resize != "fit" and image_shape[0] != image_shape[1]:
        raise ValueError(f"resize {resize!r} makes squares, the network takes {image_shape}: fit")


def next_version(directory: Path) -> int:
    """Returns the number after the highest version there, 1 where there is none."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return 1 + max((int(name) for name in names if name.isdecimal()), default=0)


def refuse_existing(target: Path) -> None:
    """Raises ValueError where the version is there already or its name is no version's."""
    if int(target.name) < 1:
        raise ValueError(f"version is {target.name}; give a whole number of at least 1")
    if target.exists():
        raise ValueError(
            f"{target} exists and is never overwritten; leave --version out for the next number"
        )


def from_flags(given: flags.FlagValues) -> Path:
    """Exports what the flags name and returns the directory of the version."""
    if (given.workdir is None) == (given.network is None):
        raise ValueError("give either --workdir=RUN or --network=FILE.keras")
    if given.directory is None:
        raise ValueError("--directory is missing; give serving/NAME, the parent of the versions")
    metrics = {}
    if given.workdir is not None:
        metrics = workdir.read_metrics(Path(given.workdir))
        network = loading.load(str(Path(given.workdir) / "network.keras"))
    else:
        network = loading.load(given.network)
    class_names = metrics.get("class_names")
    if given.labels is not None:
        labels = extras.read_labels(Path(given.labels))
        if class_names is not None and labels != class_names and set(labels) == set(class_names):
            raise ValueError(
                f"{given.labels} has the run's class names in another order; the order of the "
                f"logits is: {', '.join(class_names)}"
            )
        class_names = labels
    resize = given.resize or metrics.get("eval_resize", "fit")
    return export(
        network,
        given.directory,
        version=given.version,
        class_names=class_names,
        resize="fit" if resize == "whole" else resize,
        training=metrics,
        verified=given.verify,
    )


def main() -> None:
    """Exports what the flags name and prints where it is."""
    if not flags.FLAGS["verbosity"].present:  # saving tells of every function
        logging.set_verbosity(logging.WARNING)
        tf.get_logger().setLevel("WARNING")
    target = from_flags(flags.FLAGS)
    print(f"{target} ({'verified in a fresh process' if flags.FLAGS.verify else 'not verified'})")
    print(f"look at it: saved_model_cli show --dir {target} --all")


if __name__ == "__main__":
    cli.run(main, own_flags)
