"""Image classification sets of TensorFlow Datasets, by their TFDS name."""

import difflib
import functools
import logging
import math

import numpy as np
import tensorflow as tf

from sat_tf.data import corruptions, encoded, memory, order
from sat_tf.data.info import Info, Request, check_validation_examples
from sat_tf.data.records import Records

# Splits that decode to at most this are held in memory; CIFAR-10's take 154 and 31 MB.
_MOST_BYTES_IN_MEMORY = 2**30

# A mirrored character is another character, or none.
_CHARACTERS = ("mnist", "emnist", "kmnist", "svhn", "omniglot", "cmaterdb", "binarized_mnist")


class Tfds:
    """One TFDS set: decoded in memory where it is small, else read image by image.

    Parts: "test" is the set's test split, or its validation split where it has no labelled test
    split (imagenet2012: the 50,000 validation images). "validation" is the set's own where it has
    one beside that, else the tail of the training split, by position: TFDS has shuffled the
    examples once, when it prepared them, so the tail is the same random sample for every run. A set
    of one split gives a tenth of it to "test" the same way, and one without a training split, such
    as cifar10_corrupted, has a test alone: the other parts are empty.
    """

    def __init__(self, name: str, data_dir: str | None, validation_examples: int | None = None):
        self._builder = _prepared(name, data_dir)
        info = self._builder.info
        sizes = {split: info.splits[split].num_examples for split in info.splits}
        self._parts = _parts(name, _labelled(name, self._builder, sizes), validation_examples)
        shape = tuple(info.features["image"].shape)
        self.info = Info(
            name,
            tuple(info.features["label"].names),
            shape,
            {split: stop - start for split, (_, start, stop) in self._parts.items()},
        )
        self.has_lanes = (
            None in shape or max(sizes.values()) * math.prod(shape) > _MOST_BYTES_IN_MEMORY
        )

    @property
    def default_augment(self) -> str:
        if self._builder.name.startswith(_CHARACTERS):
            return "crop"
        return encoded.default_augment(self.info)

    def load(self, split: str, request: Request) -> tf.data.Dataset:
        """Reads a part, "train", "validation" or "test"."""
        tfds_split, start, stop = self._parts[split]
        name = request.augment or self.default_augment
        if self.has_lanes:
            records = Records(self._builder, tfds_split, start, stop)
            if request.training:
                return encoded.training(records.training(request), self.info, name, request)
            examples = order.own(records.evaluation(), stop - start, request)
            return encoded.evaluation(examples, self.info, request)
        arrays, indices = _arrays(str(self._builder.data_dir), tfds_split), np.arange(start, stop)
        if request.training:
            return memory.training(arrays, indices, name, request)
        return memory.evaluation(arrays, indices, request)


def _parts(
    name: str, sizes: dict[str, int], validation_examples: int | None
) -> dict[str, tuple[str, int, int]]:
    """Maps our splits to ranges (TFDS split, start, stop)."""
    # The labels of ImageNet's test split were never published.
    own = [s for s in ("test", "validation") if s in sizes]
    if name.startswith("imagenet2012") and "validation" in sizes:
        own = ["validation"]
    if "train" not in sizes:
        if not own:
            raise ValueError(
                f"{name} has no labelled split train, test or validation, only: {', '.join(sizes)}"
            )
        nothing = (own[0], 0, 0)
        return {"train": nothing, "validation": nothing, "test": (own[0], 0, sizes[own[0]])}
    stop = sizes["train"]
    parts = {}
    if own:
        parts["test"] = (own[0], 0, sizes[own[0]])
    else:
        parts["test"] = ("train", stop - stop // 10, stop)
        stop -= stop // 10
    if len(own) == 2 and validation_examples is None:
        parts["validation"] = (own[1], 0, sizes[own[1]])
    else:
        border = stop - check_validation_examples(validation_examples, stop)
        parts["validation"] = ("train", border, stop)
        stop = border
    return {"train": ("train", 0, stop)} | parts


def _labelled(name: str, builder, sizes: dict[str, int]) -> dict[str, int]:
    """Leaves out splits whose labels were never published, which TFDS gives as -1.

    The first examples tell: such a split has no label at all.

    Raises:
      ValueError: the training split is one.
    """
    labelled = dict(sizes)
    for split in ("train", "validation", "test"):
        if not sizes.get(split) or (split == "test" and name.startswith("imagenet2012")):
            continue  # ImageNet's test split need not even be on the disk
        first = Records(builder, split, 0, min(8, sizes[split])).evaluation()
        if all(int(label) < 0 for _, label in first):
            if split == "train":
                raise ValueError(f"the images of {name}'s split 'train' have no labels (all -1)")
            del labelled[split]
    return labelled


def download(name: str, data_dir: str | None) -> None:
    """Downloads and prepares a TFDS set, unless it is on disk.

    Raises:
      ValueError: as `Tfds`, or TFDS cannot download it (after its own retries, some minutes).
    """
    builder = _builder_of(name, data_dir)
    if builder.info.splits:
        return
    retries = logging.getLogger("urllib3")
    level = retries.level
    retries.setLevel(logging.ERROR)  # it warns of each of its dozens of tries
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever TFDS meets: no network, no disk, a manual download
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"TFDS cannot download {name} to {builder.data_dir} ({type(error).__name__}: {reason})"
        ) from error
    finally:
        retries.setLevel(level)


def _prepared(name: str, data_dir: str | None):
    """Returns the TFDS builder of a set that is on disk.

    Raises:
      ValueError: an unknown name, a set of something else than images with class labels, or one
        that is not there.
    """
    builder = _builder_of(name, data_dir)
    if not builder.info.splits:
        computed, kind = "", name.partition("/")[0]
        if corruptions.is_stored(kind):
            computed = (
                "; --corruptions=all computes corrupted images from those of "
                f"--dataset={kind.removesuffix('_corrupted')}"
            )
        raise ValueError(
            f"data set {name} is not in {builder.data_dir}; point --data_dir or TFDS_DATA_DIR to "
            "the directory that holds it, or let python -m sat_tf.train "
            f"--dataset={name} --download fetch it{computed}"
        )
    return builder


def _builder_of(name, data_dir):
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name, ["digits", *known])
        raise ValueError(
            f"unknown data set {name!r}; use digits, folder:<directory of class folders>, or an "
            "image classification set of TFDS such as cifar10, cifar100, imagenet2012"
            + (f" (close to it: {', '.join(close)})" if close else "")
        ) from None
    except Exception as error:  # a version, configuration or namespace that TFDS does not have
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"TFDS has no data set {name!r} ({type(error).__name__}: {reason}); give a name "
            "such as cifar10, with a configuration or version only as in its catalogue"
        ) from error
    _check_features(name, builder.info.features)
    return builder


def _check_features(name: str, features) -> None:
    import tensorflow_datasets as tfds

    wanted = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    given = dict(features.items()) if hasattr(features, "items") else {}
    if not all(isinstance(given.get(key), kind) for key, kind in wanted.items()):
        raise ValueError(
            f"{name} is not an image classification set: expected the features 'image' and "
            f"'label', got: {', '.join(given) or type(features).__name__}"
        )
    if given["image"].np_dtype != np.uint8:
        raise ValueError(f"the images of {name} are {given['image'].np_dtype}, not uint8")


@functools.lru_cache(maxsize=8)  # not all 75 of cifar10_corrupted
def _arrays(directory: str, tfds_split: str) -> memory.Arrays:
    """Decodes a whole split, once; CIFAR-10's training split takes 4 s on two cores."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(directory)
    size = builder.info.splits[tfds_split].num_examples
    images = np.empty((size, *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(size, np.int32)

    def decode(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.io.decode_image(image, images.shape[-1]), label

    examples = Records(builder, tfds_split, 0, size).evaluation().map(decode, 2)
    start = 0
    for some_images, some_labels in examples.batch(1000).as_numpy_iterator():
        stop = start + len(some_labels)
        images[start:stop], labels[start:stop] = some_images, some_labels
        start = stop
    return memory.Arrays.of(images, labels)
