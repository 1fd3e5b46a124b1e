"""Image classification data as `tf.data`: float32 pixels in [0, 255] and int32 labels.

What a training batch holds depends on the seed and the step number alone (see `order`), so that a
run that stops and starts again sees exactly the batches of one that never stopped.
"""

import dataclasses
import functools

import tensorflow as tf

from sat_tf import specs
from sat_tf.data import augment as augmentation
from sat_tf.data import crops, mixing, service
from sat_tf.data.info import SPLITS, Info, Request, Shard

__all__ = ["SPLITS", "WHOLE", "Info", "Shard", "describe", "download", "load", "shared_out"]

WHOLE = Shard()  # of one process, whatever its devices


def describe(
    name: str,
    data_dir: str | None = None,
    validation_examples: int | None = None,
    max_pixels: int = crops.MAX_PIXELS,
) -> Info:
    """Tells the classes, image shape and number of examples of a set without decoding it.

    Args:
      name: as in `load`.
      data_dir: as in `load`.
      validation_examples: as in `load`.
      max_pixels: as in `load`.
    """
    return _source(name, data_dir, validation_examples, max_pixels).info


def download(name: str, data_dir: str | None = None) -> None:
    """Fetches a TFDS set that is not on disk; `load` and `describe` never do.

    Args:
      name: as in `load`; nothing is to be done for digits and folders.
      data_dir: as in `load`.

    Raises:
      ValueError: an unknown name, or TFDS cannot download it.
    """
    if name != "digits" and not name.startswith("folder:"):
        from sat_tf.data import tfds_sets

        tfds_sets.download(name, data_dir)


# The graphs of a stream are written for graphs: AutoGraph would translate them, for half a second.
@tf.autograph.experimental.do_not_convert
def load(
    name: str,
    split: str,
    *,
    batch_size: int,
    image_size: int | None = None,
    training: bool = False,
    seed: int = 0,
    start_step: int = 0,
    augment: str | None = None,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    extra_data: str | None = None,
    extra_fraction: float | None = None,
    eval_resize: str | None = None,
    data_dir: str | None = None,
    validation_examples: int | None = None,
    max_pixels: int = crops.MAX_PIXELS,
    shard: Shard = WHOLE,
    lanes: int = 1,
    data_service: str | None = None,
) -> tf.data.Dataset:
    """Reads a part of a set in batches (images float32 [N, H, W, C] in pixels, labels int32 [N]).

    With `training`, an endless stream of full batches, shuffled anew every epoch of
    `describe(name).steps_per_epoch(batch_size)` steps and augmented; otherwise every image once, in
    a fixed order, the last batch smaller where the number does not divide.

    Args:
      name: "digits", "folder:<directory of class folders>" or the name of a TFDS image
        classification set.
      split: "train", "validation" or "test". The validation part is cut from the training split by
        position, the same for every seed, and is never trained on.
      batch_size: images a batch, over all replicas.
      image_size: side of the images in pixels; None keeps the stored one, and is refused where
        the stored images differ.
      training: whether to shuffle, repeat and augment.
      seed: decides order and augmentation.
      start_step: the first batch is that of this step of the stream.
      augment: one of `augment.NAMES`, and after a "+" each distortions of training images, such as
        "crop_flip+random_erasing" (`augment.parse`); None takes the set's own default.
      mixup: alpha of MixUp in training (`mixing`), 0 for none; labels are then float32 [N, C].
      cutmix: likewise of CutMix.
      extra_data: file or folder of other training images in every batch (`extra.opened`).
      extra_fraction: their share of a batch; None is 0.7.
      eval_resize: one of `crops.RESIZES`; None is "whole" for images of one size, else
        "center_crop".
      data_dir: where TFDS looks; None is TFDS's own default (TFDS_DATA_DIR, ~/tensorflow_datasets).
      validation_examples: size of the validation part; None takes `default_validation_examples`.
      max_pixels: an encoded image whose header claims more is refused before it is decoded.
      shard: the part of every batch that is read; no image of another one is decoded. What all
        shards read, one after the other, are the batches of the whole.
      lanes: of sets that are read from the record files of TFDS, how many streams a training batch
        is made of. A shard reads only those of its own images; 1 is read whole by every shard.
        Another number is another order.
      data_service: "grpc://host:port" of a tf.data service whose workers make the training batches
        (see `service`), which are the same; they must see the data under the same names. Extra data
        are read, and what follows their joining is done, in this process.

    Raises:
      ValueError: an unknown name, split or augmentation; a batch that cannot be filled, or not be
        shared out; lanes of a set that has none; a set that is not there.
      ConnectionError: the data service does not answer in time.
    """
    specs.one_of("--split", split, SPLITS)
    if training and split != "train":
        raise ValueError(f"training=True reads the split 'train', not {split!r}")
    source = _source(name, data_dir, validation_examples, max_pixels)
    if training:
        source.info.steps_per_epoch(batch_size)
    elif batch_size < 1:
        raise ValueError(f"--batch_size={batch_size}; give 1 or more")
    if not 0 <= shard.index < shard.count or batch_size % (shard.count * shard.replicas):
        raise ValueError(
            f"{shard} of a batch of {batch_size}; give an index below the count, and a batch that "
            "count times replicas divides"
        )
    if lanes != 1 and not source.has_lanes:
        raise ValueError(
            f"--lanes={lanes} are of record files, and the images of {name} are read one by one; "
            "leave it at 1"
        )
    if extra_data is None and extra_fraction is not None:
        raise ValueError(
            f"--extra_fraction={extra_fraction:g} is of no --extra_data; give both, or none"
        )
    crop, distorting = augmentation.parse(augment, source.info.num_channels)
    request = Request(
        batch_size, image_size, training, seed, start_step, crop, eval_resize, max_pixels,
        shard, lanes,
    )  # fmt: skip

    def served(make):
        return functools.partial(service.distributed, make, data_service) if data_service else make

    def own(request: Request) -> tf.data.Dataset:
        return source.load(split, request)

    def finished(batches: tf.data.Dataset, request: Request) -> tf.data.Dataset:
        batches = augmentation.distorted(batches, distorting, request)
        return mixing.mixed(batches, request, source.info.num_classes, mixup, cutmix)

    if not training:
        batches = own(request)
    elif extra_data is None:
        batches = served(lambda piece: finished(own(piece), piece))(request)
    else:
        # A service does not see this process, which opens the extra images: they join here.
        batches = _with_extra(served(own), source, request, extra_data, extra_fraction)
        batches = finished(batches, request)
    if shard.replicas > 1 or not training:
        batches = _in_pieces(batches, request, source.info.num_examples[split])
    options = tf.data.Options()
    options.deterministic = True
    return shared_out(batches.prefetch(2 * shard.replicas).with_options(options))


def _with_extra(load, source, request: Request, path: str, fraction: float | None):
    from sat_tf.data import extra  # most runs have none

    request = dataclasses.replace(request, augment=request.augment or source.default_augment)
    return extra.joined(
        load,
        extra.opened(path, source.info, request.max_pixels),
        extra.FRACTION if fraction is None else fraction,
        source.info,
        request,
    )


def shared_out(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Makes each of several replicas take its own part of every batch, not files of its own."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options)


def _in_pieces(batches: tf.data.Dataset, request: Request, num_examples: int) -> tf.data.Dataset:
    """Cuts a shard's batches for its replicas, on every shard as many, at the end maybe empty."""
    sizes = request.shard.sizes(request.batch_size)
    if request.training:
        return batches.rebatch(sizes[0], drop_remainder=True)
    number, rest = divmod(num_examples, request.batch_size)
    sizes = sizes * number + (request.shard.sizes(rest) if rest else [])
    if request.shard != WHOLE:
        # Of no image at all, or of none at the end, it makes empty batches without end.
        batches = batches.rebatch(sizes).take(len(sizes))
    return batches.apply(tf.data.experimental.assert_cardinality(len(sizes)))


def _source(name: str, data_dir: str | None, validation_examples: int | None, max_pixels: int):
    if name == "digits":
        from sat_tf.data.digits import Digits

        return Digits(validation_examples)
    if name.startswith("folder:"):
        from sat_tf.data.folder import Folder

        return Folder(name.removeprefix("folder:"), validation_examples, max_pixels)
    from sat_tf.data.tfds_sets import Tfds

    return Tfds(name, data_dir, validation_examples)
