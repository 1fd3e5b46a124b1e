"""Sets too large to hold decoded in memory: each image is decoded when it is read."""

import tensorflow as tf

from sat_tf.data import augment, crops
from sat_tf.data.info import Info, Request


def training(examples: tf.data.Dataset, info: Info, name: str, request: Request) -> tf.data.Dataset:
    """Makes training batches of encoded examples.

    Args:
      examples: (place int64, encoded string, label, which is a class or float32 [C]), place
        counting the examples of the endless stream, from
        `request.start_step * request.batch_size` on; those at the places
        `request.own` of each batch.
      info: the set.
      name: the augmentation.
      request: what was asked for.
    """
    augment.check_augment(name)
    size, resize = _size_and_resize(info, request)

    def image_of(place: tf.Tensor, encoded: tf.Tensor, label: tf.Tensor):
        if name == "inception":
            seed = augment.seed_of(request.seed, place)
            image = crops.training_image(encoded, size, seed, info.num_channels, request.max_pixels)
        else:
            image = crops.evaluation_image(
                encoded, size, resize, info.num_channels, request.max_pixels
            )
        return image, label if label.dtype.is_floating else tf.cast(label, tf.int32)

    batches = examples.map(image_of, tf.data.AUTOTUNE).batch(len(request.own), True)
    if name in ("none", "inception"):
        return batches

    def augmented(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]):
        seed = augment.seed_of(request.seed, step)
        return augment.augment_batch(batch[0], name, seed, request), batch[1]

    return batches.enumerate(request.start_step).map(augmented)


def evaluation(examples: tf.data.Dataset, info: Info, request: Request) -> tf.data.Dataset:
    """Makes evaluation batches of (encoded string, label), those of `order.own`."""
    size, resize = _size_and_resize(info, request)

    def image_of(encoded: tf.Tensor, label: tf.Tensor):
        image = crops.evaluation_image(encoded, size, resize, info.num_channels, request.max_pixels)
        return image, tf.cast(label, tf.int32)

    return examples.map(image_of, tf.data.AUTOTUNE).batch(len(request.own))


def default_augment(info: Info) -> str:
    """Says how a set is augmented unless told: photographs of any size as ImageNet is."""
    return "inception" if info.image_size is None else "crop_flip"


def _size_and_resize(info: Info, request: Request) -> tuple[int, str]:
    """Fills in what the request leaves open.

    Raises:
      ValueError: images of different sizes, and no size to bring them to.
    """
    size = request.image_size or info.image_size
    if size is None:
        raise ValueError(
            f"the images of {info.name} are not all squares of one size; "
            "say which size they are brought to: --image_size=224"
        )
    default = "center_crop" if info.image_size is None else "whole"
    return size, crops.check_resize(request.eval_resize or default)
