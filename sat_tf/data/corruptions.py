"""Common corruptions: what befalls photographs, such as noise, blur and weather, in 5 severities.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, arXiv 1903.12261: ImageNet-C and CIFAR-10-C. They are read where TFDS has them
(`cifar10_corrupted`, `imagenet2012_corrupted`), or computed here from the images of any other set
by the package imagecorruptions-imaug, which is optional. It computes with the constants of
ImageNet-C: those of CIFAR-10-C are milder, so figures of the two are not to be compared.
"""

import importlib
import itertools
import types
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from sat_tf import specs
from sat_tf.data.selection import Selected

# The fifteen that the mean corruption error is over, in the paper's order; then the four that are
# there to choose by.
COMMON = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
    "jpeg_compression",
)  # fmt: skip
NAMES = (*COMMON, "speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = (1, 2, 3, 4, 5)
PACKAGE = "imagecorruptions-imaug"

# What TFDS calls some of cifar10_corrupted otherwise.
_OF_CIFAR = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}
# The library draws these from a seed of their own, the others from NumPy's global generator.
_SEEDED = ("impulse_noise", "glass_blur")
_SMALLEST_SIDE = 32


def parse(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the corruptions asked for: some of `NAMES`, or `COMMON` for "all".

    Raises:
      ValueError: none, an unknown name, or one given twice.
    """
    if list(names) == ["all"]:
        return COMMON
    for name in names:
        specs.one_of("corruption", name, ("all", *NAMES))
    if not names or "all" in names or len(set(names)) < len(names):
        raise ValueError(f"--corruptions={','.join(names)}; give all, or some, each once")
    return tuple(names)


def parse_severities(texts: Sequence[str]) -> tuple[int, ...]:
    """Returns the severities asked for, each from 1 (mild) to 5.

    Raises:
      ValueError: another number, none, or one given twice.
    """
    found = [int(text) if text in map(str, SEVERITIES) else 0 for text in texts]
    if not found or 0 in found or len(set(found)) < len(found):
        raise ValueError(f"--severities={','.join(texts)}; give some of 1,2,3,4,5, each once")
    return tuple(found)


def is_stored(dataset: str) -> bool:
    """Tells whether a data set is one of TFDS that holds corrupted images, all kinds of them."""
    return dataset.endswith("_corrupted")


def stored(dataset: str, name: str, severity: int) -> str:
    """Returns the TFDS name of a kind: ("cifar10_corrupted", "fog", 3) is "…/fog_3"."""
    name = _OF_CIFAR.get(name, name) if dataset.startswith("cifar10") else name
    return f"{dataset}/{name}_{severity}"


class Corrupted:
    """The batches of another set with every image corrupted; readable more than once.

    An image's random numbers depend on the seed, its position in the set, the corruption and the
    severity alone. Pixels are rounded to whole numbers before and after, as in the source.

    Args:
      batches: (images float32 [N, H, W, 3] in pixels, labels [N]), readable more than once.
      name: of `NAMES`.
      severity: of `SEVERITIES`.
      seed: of the random numbers, at least 0.
      num_images: how many images from the beginning; None takes all.

    Raises:
      ValueError: the package that computes them is not installed.
    """

    def __init__(
        self,
        batches: Iterable[tuple[Any, Any]],
        name: str,
        severity: int,
        seed: int = 0,
        num_images: int | None = None,
    ):
        self.batches, self.name, self.severity, self.seed = batches, name, severity, seed
        self.num_images = num_images
        library()

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        chosen = isinstance(self.batches, Selected)
        positions = iter(self.batches.wanted) if chosen else itertools.count()
        left = self.num_images
        for images, labels in self.batches:
            images, labels = np.asarray(images)[:left], np.asarray(labels)[:left]
            check_shape(images.shape[1:])
            left = None if left is None else left - len(images)
            places = itertools.islice(positions, len(images))
            found = [
                corrupt(image, self.name, self.severity, (self.seed, int(place)))
                for image, place in zip(images, places, strict=True)
            ]
            yield np.array(found, np.float32).reshape(images.shape), labels
            if left == 0:
                return


def corrupt(image: np.ndarray, name: str, severity: int, seed: Sequence[int]) -> np.ndarray:
    """Corrupts one image.

    Args:
      image: [H, W, 3] in pixels, rounded here to whole ones.
      name: of `NAMES`.
      severity: of `SEVERITIES`.
      seed: whole numbers of at least 0 that with name and severity decide the random numbers.

    Returns:
      uint8 [H, W, 3]. NumPy's global generator is left as it was.
    """
    entropy = [*seed, severity, zlib.crc32(name.encode())]
    number = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    own = {"seed": number} if name in _SEEDED else {}
    before = np.random.get_state()
    np.random.seed(number)
    try:
        whole = np.rint(image).astype(np.uint8)
        return library().corrupt(whole, severity=severity, corruption_name=name, **own)
    finally:
        np.random.set_state(before)


def library() -> types.ModuleType:
    """Returns the package that computes corruptions.

    Raises:
      ValueError: it, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module("imagecorruptions")
    except ImportError as error:
        raise ValueError(
            f"{error.name or 'imagecorruptions'} is not installed, with which corruptions are "
            f"computed: pip install {PACKAGE} (requirements-corruptions.txt); or read them from "
            "TFDS: --dataset=cifar10_corrupted or imagenet2012_corrupted"
        ) from error


def check_shape(shape: Sequence[int | None]) -> None:
    """Refuses images that the package cannot corrupt.

    Args:
      shape: (height, width, channels); a side that is not known yet is None.

    Raises:
      ValueError: they are not RGB, or too small.
    """
    height, width, channels = shape
    if channels != 3 or any(side is not None and side < _SMALLEST_SIDE for side in shape[:2]):
        raise ValueError(
            f"images are {height} x {width} with {channels} channels; corruptions are of RGB "
            f"images of {_SMALLEST_SIDE} pixels a side at least"
        )
