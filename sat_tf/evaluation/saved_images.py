"""The adversarial images of a finished evaluation: judged once more, as npz or as TFRecord."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from sat_tf.attacks import losses
from sat_tf.evaluation import ball
from sat_tf.evaluation.kept_images import KeptImages
from sat_tf.evaluation.stream import Stream
from sat_tf.runs import atomic


@dataclasses.dataclass
class SavedImages:
    """The images as they are on the disk, and what the network says of exactly these pixels.

    Attributes:
      kept: the file that holds them.
      correct: bool [N], whether the image as it was saved is classified right.
      distance: float32 [N], norm of its perturbation in pixels.
    """

    kept: KeptImages
    correct: np.ndarray
    distance: np.ndarray

    def summary(self, broken: np.ndarray) -> dict[str, Any]:
        """Returns how many images are still broken as they were saved.

        Args:
          broken: bool [N], images that an attack broke.
        """
        return {
            "image_type": self.kept.image_type,
            "num_broken": int(broken.sum()),
            "num_still_broken": int((broken & ~self.correct).sum()),
            "largest_distance": float(self.distance.max(initial=0.0)),
        }


def judge(
    kept: KeptImages,
    stream: Stream,
    forward: Callable[[Any], tf.Tensor],
    balls: tuple[list[tuple[float, str]], np.ndarray],
) -> SavedImages:
    """Reads every image back, holds it against its ball and shows it to the network.

    Args:
      kept: the images.
      stream: the clean images.
      forward: the network in inference mode.
      balls: epsilon and norm of several attacks, and int [N], the one each image came from.

    Raises:
      ValueError: an image that is not as it was written, or is outside its ball or the pixel range:
        the file is damaged.
    """
    rows, correct, distance = kept.rows, [], []
    kinds, of_image = balls
    for clean in stream:
        shown = clean.images.copy()
        taken = rows[clean.indices[: clean.count]]
        for index, row in zip(clean.indices, taken, strict=False):
            kept.require_intact(index, row)
        shown[: clean.count] = taken
        wrong = losses.misclassified(forward(shown), tf.constant(clean.labels)).numpy()
        correct.append(~wrong[: clean.count])
        for row, index in enumerate(clean.indices[: clean.count]):
            try:
                found = ball.assert_inside(
                    clean.images[row], shown[row], *kinds[of_image[index]], f"image {index}"
                )
            except ball.OutsideBall as error:
                raise ValueError(
                    f"{kept.path} is damaged: {error}; give --overwrite to evaluate from the "
                    "beginning"
                ) from error
            distance.append(found)
    return SavedImages(kept, np.concatenate(correct), np.asarray(distance, np.float32))


def write_npz(path: pathlib.Path, images: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """Writes `adversarial` [N, H, W, C] and the columns as a NumPy archive, without compression.

    Mapped images are copied in parts: memory does not depend on how many there are.
    """
    with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, adversarial=images, **columns)


def write_tfrecord(path: pathlib.Path, images: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """Writes a `tf.train.Example` for each image, in their order.

    `adversarial` holds the bytes, rows first, little endian, for `tf.io.decode_raw`; `shape` and
    `image_type` say how to read them. The columns are int64, float or bytes features.
    """
    with atomic.replacing(path) as temporary:
        try:
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for row, image in enumerate(images):
                    columns_here = {name: column[row] for name, column in columns.items()}
                    writer.write(_example(image, columns_here).SerializeToString())
        except tf.errors.OpError as error:
            # TensorFlow names its file before the reason; `replacing` names the one that is meant.
            raise OSError(error.message.rpartition("; ")[2]) from error


def _example(image, columns):
    content = {
        "adversarial": _bytes(image.tobytes()),
        "shape": tf.train.Feature(int64_list=tf.train.Int64List(value=image.shape)),
        "image_type": _bytes(image.dtype.name.encode()),
        **{name: _feature(value) for name, value in columns.items()},
    }
    return tf.train.Example(features=tf.train.Features(feature=content))


def _feature(value):
    if isinstance(value, str):
        return _bytes(value.encode())
    if isinstance(value, np.floating):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))


def _bytes(value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
