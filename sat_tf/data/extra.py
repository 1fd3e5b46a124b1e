"""Extra training images, such as generated ones: a fixed share of every batch."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
import tensorflow as tf

from sat_tf.data import crops, record_files
from sat_tf.data.extra_files import Examples, Pictures, Pixels
from sat_tf.data.info import Info, Request

_KINDS = (
    "file.npz, file.tfrecord, several of these (extra-*.tfrecord, or their folder) or a folder of "
    "class folders"
)
FRACTION = 0.7  # of Gowal et al. with a million images, and of Wang et al.
_SEED = 0x657874726100  # the extra images' numbers are not those of the set's own


class Extra(Protocol):
    """A file or folder of labelled images.

    Attributes:
      num_examples: how many.
      soft: whether labels are rows of probabilities, float32 [N, C], else int32 [N].
    """

    num_examples: int
    soft: bool

    def training(self, augment: str, request: Request) -> tf.data.Dataset:
        """Makes batches (images float32 in pixels, labels), endlessly, as those of a set."""
        ...


def opened(path: str, info: Info, max_pixels: int = crops.MAX_PIXELS) -> Extra:
    """Opens extra images for a set; what is large is read when it is asked for.

    Args:
      path: `….npz` with `image` uint8 [M, H, W, C] of the set's size and `label`, integers [M] or
        floats [M, classes] (or `images` and `labels`); `….tfrecord` of `tf.train.Example` with
        `image`, a JPEG or PNG, and `label`, an integer or a float for each class; several of these,
        as a pattern of their names or the folder that they lie in, which come in the order of their
        names as one file would; or a folder of class folders, named as the set's classes are.
      info: the set.
      max_pixels: as in `data.load`.

    Raises:
      ValueError: nothing there, another kind of file, keys, types or shapes that do not fit, labels
        beyond the set's classes, a shard that is missing.
    """
    place = pathlib.Path(path).expanduser()
    if records := record_files.found(place):
        return Examples([one.resolve() for one in records], info)
    if place.is_dir():
        return Pictures(place.resolve(), info, max_pixels)
    if place.is_file() and ".npz" in place.name:
        return Pixels(place.resolve(), info)
    what = "is neither" if place.exists() else "is not there; expected"
    raise ValueError(f"the extra data {path} {what} {_KINDS}")


def joined(
    load: Callable[[Request], tf.data.Dataset],
    extra: Extra,
    fraction: float,
    info: Info,
    request: Request,
) -> tf.data.Dataset:
    """Makes batches of a set's own images and extra ones.

    Of every batch of B, `E = round(fraction B)` are extra: place p is one where
    `floor((p + 1) E / B) > floor(p E / B)`, so that they are spread evenly over workers and
    replicas. Both streams have passes of their own, in which each image comes at most once: of
    `floor(n / (B - E))` steps for the set's images, of `floor(m / E)` for the extra ones. Both
    depend on the seed and the step alone.

    Source: Gowal et al., arXiv 2110.09468; Wang et al., arXiv 2302.04638. As there, an epoch has as
    many steps as without extra images.

    Args:
      load: makes the set's own training stream.
      extra: the other images.
      fraction: share of a batch, from 0 to 1.
      info: the set.
      request: what was asked for; `augment` says how both are augmented.

    Raises:
      ValueError: a fraction outside [0, 1]; fewer extra images than are in a batch.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"--extra_fraction={fraction:g}; give the share of a batch, from 0 to 1")
    size, own = request.batch_size, request.own
    count = round(fraction * size)
    if count > extra.num_examples:
        raise ValueError(
            f"{count} extra images are in a batch of {size}, and there are {extra.num_examples} of "
            "them; make --extra_fraction or the batch smaller"
        )
    before = [place * count // size for place in range(size + 1)]  # extra ones
    first, last = before[own.start], before[own.stop]
    parts = {
        "own": dataclasses.replace(
            request, batch_size=size - count, part=range(own.start - first, own.stop - last)
        ),
        "extra": dataclasses.replace(
            request, batch_size=count, part=range(first, last), seed=request.seed ^ _SEED
        ),
    }
    streams = []
    if parts["own"].own:
        streams.append(load(parts["own"]))
    if parts["extra"].own:
        streams.append(extra.training(request.augment, parts["extra"]))
    is_extra = np.diff(before)[own.start : own.stop].astype(bool)
    # Stable: own images first, extra ones behind, each in their order; this is the way back.
    places = np.argsort(np.argsort(is_extra, kind="stable"))

    def join(*batches: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = zip(*batches, strict=True)
        if extra.soft:
            labels = [
                one if one.shape.rank == 2 else tf.one_hot(one, info.num_classes) for one in labels
            ]
        return tuple(tf.gather(tf.concat(one, 0), places) for one in (images, labels))

    return tf.data.Dataset.zip(tuple(streams)).map(join)
