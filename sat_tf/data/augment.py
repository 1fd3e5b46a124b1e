"""Random changes of a training batch, decided by (seed, step) and the place in the batch."""

from collections.abc import Sequence

import tensorflow as tf

from sat_tf import specs
from sat_tf.data import distortions
from sat_tf.data.info import Request

OF_BATCHES = ("none", "crop", "crop_flip")
NAMES = (*OF_BATCHES, "inception")

# Separates the numbers of augmentation from those of the order, which use (seed, epoch).
_AUGMENT_STREAM = 0x617567
_DISTORTION_STREAM = 0x646973


def check_augment(name: str, supported: tuple[str, ...] = NAMES) -> str:
    """Returns `name` if it is one of `supported`; else a ValueError lists them."""
    return specs.one_of("--augment", name, supported)


def seed_of(seed: int, place: tf.Tensor, stream: int = _AUGMENT_STREAM) -> tf.Tensor:
    """Derives the seed [2] of a step, or of one example's place in the endless stream."""
    return tf.random.experimental.stateless_fold_in(
        tf.constant([seed, stream], tf.int64), tf.cast(place, tf.int64)
    )


def augment_batch(
    images: tf.Tensor, name: str, seed: tf.Tensor, request: Request | None = None
) -> tf.Tensor:
    """Crops and flips every image of a batch at random.

    "crop" pads every side with an eighth of it in black (4 pixels for 32, as is usual for CIFAR;
    1 for 8) and cuts a window of the original size at a random place; "crop_flip" also mirrors
    half of the images; "none" changes nothing.

    Args:
      images: tensor [N, H, W, C] of any dtype.
      name: "none", "crop" or "crop_flip".
      seed: integer tensor [2], as from `seed_of`.
      request: whose places `own` of a batch these images have; None is a whole batch.
    """
    if check_augment(name, OF_BATCHES) == "none":
        return images
    height, width = images.shape[1], images.shape[2]
    seeds = tf.random.experimental.stateless_split(seed, 3)
    whole = tf.shape(images)[0] if request is None else request.batch_size
    first = 0 if request is None else request.own.start

    def drawn(number: int, below: int) -> tf.Tensor:
        values = tf.random.stateless_uniform([whole], seeds[number], 0, below, tf.int32)
        return values[first : first + tf.shape(images)[0]]

    top, left = drawn(0, 2 * (height // 8) + 1), drawn(1, 2 * (width // 8) + 1)
    return windows(images, top, left, (drawn(2, 2) == 1) & (name == "crop_flip"))


def windows(images: tf.Tensor, top: tf.Tensor, left: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
    """Cuts a window of the original size out of each image, padded by an eighth of its sides.

    Args:
      images: tensor [N, H, W, C].
      top: int32 [N], first row of the window in the padded image, 0 to 2 (H // 8).
      left: int32 [N], first column, 0 to 2 (W // 8).
      flip: bool [N], which windows are mirrored left to right.
    """
    height, width = images.shape[1], images.shape[2]
    rows, columns = height // 8, width // 8
    padded = tf.pad(images, [[0, 0], [rows, rows], [columns, columns], [0, 0]])
    across = tf.range(width)
    across = tf.where(flip[:, None], across[::-1], across)
    padded = tf.gather(padded, top[:, None] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(padded, left[:, None] + across, axis=2, batch_dims=1)


def parse(spec: str | None, num_channels: int) -> tuple[str | None, list[distortions.Distortion]]:
    """Splits `crop_flip+color_jitter:contrast=0.2+random_erasing` into its crop and the rest.

    Args:
      spec: what `NAMES` lists, then distortions in the order in which they happen, with
        options of theirs; None is the set's own crop alone.
      num_channels: of the images.

    Raises:
      ValueError: an unknown crop, or as `distortions.make`.
    """
    if spec is None:
        return None, []
    crop, *rest = (part.strip() for part in spec.split("+"))
    check_augment(crop)
    return crop, [distortions.make(part, num_channels) for part in rest]


def distorted(
    batches: tf.data.Dataset, changes: Sequence[distortions.Distortion], request: Request
) -> tf.data.Dataset:
    """Distorts the images of a training stream's batches, those at the places `request.own`."""
    if not changes:
        return batches
    own = request.own

    def distort(image: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        seed = seed_of(request.seed, place, _DISTORTION_STREAM)
        for number, one in enumerate(changes):
            image = one(image, tf.random.experimental.stateless_fold_in(seed, number))
        return image

    def change(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]):
        images, labels = batch
        places = step * request.batch_size + tf.range(own.start, own.stop, dtype=tf.int64)
        spec = tf.TensorSpec(images.shape[1:], tf.float32)
        pairs = (images, places)
        return tf.map_fn(lambda pair: distort(*pair), pairs, fn_output_signature=spec), labels

    return batches.enumerate(request.start_step).map(change, tf.data.AUTOTUNE)
