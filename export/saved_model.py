"""Writes a network as a versioned SavedModel for TensorFlow Serving.

    python -m export.saved_model --workdir=runs/digits --directory=serving/digits
    python -m export.saved_model --network=mine.keras --labels=names.txt --directory=serving/mine
    python -m export.saved_model --workdir=runs/digits --directory=serving/digits --version=7

A version is written under a hidden name, checked by a fresh process that has neither Keras nor
this project, and only then renamed to `<name>/<version>/`: a server that watches `<name>` never
sees half a version, nor one that answers wrongly.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf
from absl import flags, logging

from export import (
    checks,
    expectations,
    extras,
    labels,
    server_files,
    signatures,
    verify,
    versions,
    warmup,
)
from flags import export as own_flags
from sat_tf import cli, loading
from sat_tf.data import crops
from sat_tf.runs import atomic, sealed


@dataclasses.dataclass(frozen=True)
class Options:
    """How `export` goes about it.

    Attributes:
      version: at least 1; None takes the one after the highest there.
      label: "stable", what clients ask for; or "canary", beside the stable one that there is.
      keep_versions: how many versions stay, this one and those with a label among them: the lowest
        go; 0 keeps all. Whatever the number, a version keeps that has a label or had one before.
      batching: sizes of batches, for batching_parameters.txt and the warm-up; None leaves what is
        there, or takes a starting point.
      class_names: K names, for the answer `labels` and the file `labels.txt`; or None.
      resize: what becomes of encoded pictures of another size; one of `signatures.RESIZES`.
      max_pixels: of encoded pictures; one whose header claims more is refused unread.
      training: what is known of the training (metrics.json); travels along in metadata.json.
      verified: whether a fresh process must confirm the answers before the version counts.
    """

    version: int | None = None
    label: str = labels.STABLE
    keep_versions: int = 3
    batching: server_files.Batching | None = None
    class_names: Sequence[str] | None = None
    resize: str = "fit"
    max_pixels: int = crops.MAX_PIXELS
    training: dict | None = None
    verified: bool = True


def export(network: keras.Model, directory: str | Path, options: Options = Options()) -> Path:
    """Writes `<directory>/<version>/`, whole or not at all, and what a server needs beside it.

    Args:
      network: pixels [N, H, W, C] in [0, 255] to logits [N, K]; H, W and C are fixed.
      directory: `<name>` as TensorFlow Serving counts, the parent of the versions.
      options: names, version and the like.

    Returns:
      The directory of the version.

    Raises:
      ValueError: a network of another form, or one that gives probabilities; the wrong number of
        names; a version that exists, or one that fails its verification; another export into the
        same directory at the same time; a name or a label that a server would not take. Nothing
        is left then.
    """
    atomic.refuse_remote(directory)
    directory = Path(directory)
    image_shape, num_classes = checks.check_network(network)
    names = options.class_names
    if names is not None and len(names) != num_classes:
        raise ValueError(
            f"{len(names)} class names came for a network of {num_classes} classes; "
            "give one a class, in the order of the logits"
        )
    checks.check_resize(options.resize, image_shape)
    checks.check_max_pixels(options.max_pixels, image_shape)
    checks.check_answers(network, image_shape)
    name = server_files.check_name(directory)
    if options.version is not None:
        versions.refuse_existing(directory / str(options.version))
    # Before anything is made; what counts is decided again once nobody else is exporting.
    labels.planned(directory, options.label, options.version or versions.next_version(directory))
    # Once as variables and once on their way there.
    size = 2 * sum(keras.ops.convert_to_numpy(weight).nbytes for weight in network.weights)
    atomic.require_space(directory, size, "the network's weights")
    with versions.exclusive(directory):
        version = options.version or versions.next_version(directory)
        planned = labels.planned(directory, options.label, version)
        batching = options.batching
        sizes = batching.sizes if batching else server_files.batch_sizes(directory)
        with versions.publishing(directory / str(version)) as partial:
            _write(partial, network, image_shape, options)
            warmup.write(partial / "assets.extra", name, image_shape, sizes)
            sealed.write_sums(partial)
            if options.verified:
                verify.verify(partial)
        server_files.write(directory, name, batching)
        # Until it has read the new labels, the server asks for those of before.
        needed = {version, *planned.values(), *labels.current(directory).values()}
        labels.write(directory, planned)
        for path in versions.surplus(directory, options.keep_versions, needed):
            versions.remove(path)
    return directory / str(version)


def _write(partial, network, image_shape, options):
    """Writes the files of a version under a name that no server looks at."""
    pictures = options.resize, options.max_pixels
    servable = signatures.Servable(network, image_shape, options.class_names, *pictures)
    # Without its custom gradients no gradient would flow through swish after loading.
    _save(servable, partial, tf.saved_model.SaveOptions(experimental_custom_gradients=True))
    facts = {"resize": pictures[0], "max_pixels": pictures[1], "training": options.training or {}}
    extras.write(partial / "assets.extra", network, options.class_names, facts)
    expectations.write(partial, network, image_shape, options.resize)


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


def from_flags(given: flags.FlagValues) -> Path:
    """Exports what the flags name and returns the directory of the version."""
    source, run = loading.chosen(given.workdir, given.network)
    if given.directory is None:
        raise ValueError("--directory is missing; give serving/NAME, the parent of the versions")
    network = loading.load(source)
    class_names = run.get("class_names")
    if given.labels is not None:
        names = extras.read_labels(Path(given.labels))
        if class_names is not None and names != class_names and set(names) == set(class_names):
            raise ValueError(
                f"{given.labels} has the run's class names in another order; the order of the "
                f"logits is: {', '.join(class_names)}"
            )
        class_names = names
    resize = given.resize or run.get("eval_resize", "fit")
    options = Options(
        version=given.version,
        label=given.label,
        keep_versions=given.keep_versions,
        batching=server_files.measured(given.batching) if given.batching else None,
        class_names=class_names,
        resize="fit" if resize == "whole" else resize,
        max_pixels=given.max_pixels,
        training=run,
        verified=given.verify,
    )
    return export(network, given.directory, options)


def main() -> None:
    """Exports what the flags name and prints where it is."""
    if not flags.FLAGS["verbosity"].present:  # saving tells of every function
        logging.set_verbosity(logging.WARNING)
        tf.get_logger().setLevel("WARNING")
    target = from_flags(flags.FLAGS)
    print(f"{target} ({'verified in a fresh process' if flags.FLAGS.verify else 'not verified'})")
    found = ", ".join(map(str, versions.present(target.parent)))
    called = ", ".join(f"{name} {n}" for name, n in labels.read(target.parent).items())
    print(f"versions there: {found}; {called}")
    print(f"look at it: saved_model_cli show --dir {target} --all")


def command() -> None:
    """Runs the program with the flags of the command line."""
    cli.run(main, own_flags, tidies=True)


if __name__ == "__main__":
    command()
