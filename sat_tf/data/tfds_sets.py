"""Image classification sets of TensorFlow Datasets, by their TFDS name."""

import functools

import numpy as np
import tensorflow as tf

from sat_tf.data import memory
from sat_tf.data.info import Info, Request, check_validation_examples

# Decoded sets up to this many bytes are held in memory (CIFAR-10 and its test split: 184 MB).
_MOST_BYTES_IN_MEMORY = 2**30

# A mirrored character is another character, or none.
_CHARACTERS = ("mnist", "emnist", "kmnist", "svhn", "omniglot", "cmaterdb", "binarized_mnist")


class Tfds:
    """One TFDS set: small fixed-size images from memory.

    Parts: "test" is the set's test split, or its validation split where it has no labelled test
    split (imagenet2012). The validation part is the tail of the training split, which TFDS has
    already shuffled, in its prepared order, by keys that do not depend on any run.
    """

    def __init__(self, name: str, data_dir: str | None, validation_examples: int | None = None):
        self._builder = _builder(name, data_dir)
        info = self._builder.info
        sizes = {split: info.splits[split].num_examples for split in info.splits}
        test = "test" if "test" in sizes and not name.startswith("imagenet2012") else "validation"
        size = check_validation_examples(validation_examples, sizes["train"])
        border = sizes["train"] - size
        self._parts = {
            "train": ("train", 0, border),
            "validation": ("train", border, sizes["train"]),
            "test": (test, 0, sizes[test]),
        }
        self.default_augment = "crop" if name.startswith(_CHARACTERS) else "crop_flip"
        self.info = Info(
            name,
            tuple(info.features["label"].names),
            tuple(info.features["image"].shape),
            {split: stop - start for split, (_, start, stop) in self._parts.items()},
        )

    def load(self, split: str, request: Request) -> tf.data.Dataset:
        tfds_split, start, stop = self._parts[split]
        arrays = _arrays(self._builder.name, str(self._builder.data_dir), tfds_split)
        indices = np.arange(start, stop)
        if request.training:
            name = request.augment or self.default_augment
            return memory.training(arrays, indices, name, request)
        return memory.evaluation(arrays, indices, request)


def _builder(name: str, data_dir: str | None):
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare()
    return builder


@functools.cache
def _arrays(name: str, directory: str, tfds_split: str) -> memory.Arrays:
    """Decodes a whole split, once a process; CIFAR-10's training split takes 4 s on two cores."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(directory)
    shape = builder.info.features["image"].shape
    num = builder.info.splits[tfds_split].num_examples
    # One at a time, into its place: a second copy of the set would double the peak memory.
    images, labels = np.empty((num, *shape), np.uint8), np.empty(num, np.int32)
    examples = builder.as_dataset(
        split=tfds_split, read_config=tfds.ReadConfig(interleave_cycle_length=1)
    )
    start = 0
    for batch in examples.batch(1000).as_numpy_iterator():
        stop = start + len(batch["label"])
        images[start:stop], labels[start:stop] = batch["image"], batch["label"]
        start = stop
    return memory.Arrays.of(images, labels)
