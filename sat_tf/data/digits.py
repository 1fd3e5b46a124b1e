"""The handwritten digits that come with scikit-learn: real, small, nothing to download."""

import functools
import importlib.util
import pathlib

import numpy as np
import tensorflow as tf

from sat_tf.data import memory
from sat_tf.data.info import Info, Request, check_validation_examples, cut_evenly

# The set comes ordered by writer and without a test split: every fifth image is ours.
_TEST_EVERY = 5


class Digits:
    """1,797 grey images of 8 x 8 pixels, ten classes, stored values 0 to 16 scaled to 0 to 255.

    Fixed parts: every fifth image (the last of each five) is test, 359 in all; of the other 1,438,
    143 evenly spread ones are validation.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998, test
    part, as in `sklearn.datasets.load_digits`. The split into parts is ours.
    """

    default_augment = "none"  # a mirrored digit is another digit, or none
    has_lanes = False

    def __init__(self, validation_examples: int | None = None):
        indices = np.arange(len(_arrays().labels))
        is_test = indices % _TEST_EVERY == _TEST_EVERY - 1
        train = indices[~is_test]
        size = check_validation_examples(validation_examples, len(train))
        train, validation = cut_evenly(train, size)
        self._parts = {"train": train, "validation": validation, "test": indices[is_test]}
        self.info = Info(
            "digits",
            tuple("0123456789"),
            (8, 8, 1),
            {split: len(part) for split, part in self._parts.items()},
        )

    def load(self, split: str, request: Request) -> tf.data.Dataset:
        if request.training:
            name = request.augment or self.default_augment
            return memory.training(_arrays(), self._parts[split], name, request)
        return memory.evaluation(_arrays(), self._parts[split], request)


@functools.cache
def _arrays() -> memory.Arrays:
    images, labels = _stored()
    return memory.Arrays.of(np.rint(images[..., None] * (255 / 16)).astype(np.uint8), labels)


def _stored() -> tuple[np.ndarray, np.ndarray]:
    """Returns the images [N, 8, 8] and labels [N] that scikit-learn has."""
    # From its file, a table with a row an image, as importing scikit-learn takes longer than all
    # else that comes before the first step.
    package = importlib.util.find_spec("sklearn")
    file = package and pathlib.Path(package.origin).parent / "datasets/data/digits.csv.gz"
    if file and file.is_file():
        rows = np.loadtxt(file, delimiter=",")
        return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int)
    from sklearn import datasets

    digits = datasets.load_digits()
    return digits.images, digits.target
