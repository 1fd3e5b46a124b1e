"""The record files of a prepared TFDS set, read in an order that (seed, epoch) decides."""

import dataclasses

import tensorflow as tf

from sat_tf.data import augment, order
from sat_tf.data.info import Request

# Files read at once, and records shuffled together: 2,048 of ImageNet are some 230 MB, held twice.
_FILES_AT_ONCE = 16
_CHUNK = 2048


@dataclasses.dataclass(frozen=True)
class Records:
    """A range of examples in the record files of one TFDS split.

    Attributes:
      builder: the prepared TFDS builder.
      split: the TFDS split.
      start: first example of the range, in TFDS's order.
      stop: the one after its last.
    """

    builder: object
    split: str
    start: int
    stop: int

    def evaluation(self) -> tf.data.Dataset:
        """Yields every (encoded image, label) of the range once, in TFDS's order."""
        return self._files().flat_map(_read).map(self._parse, tf.data.AUTOTUNE)

    def training(self, request: Request) -> tf.data.Dataset:
        """Yields (place, encoded image, label) endlessly from `request.start_step` on.

        In every epoch the files come in a new order, sixteen are read in turn, and every 2,048
        records are shuffled. A start inside an epoch reads the epoch's records up to there without
        decoding them: at most one pass over the files.
        """
        steps_per_epoch = (self.stop - self.start) // request.batch_size
        files = self._files()
        num_files = int(files.cardinality())
        columns = files.batch(num_files).get_single_element()

        def of_epoch(epoch: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
            places = order.permutation(request.seed, epoch, num_files)
            shuffled = [tf.gather(column, places) for column in columns]
            records = tf.data.Dataset.from_tensor_slices(tuple(shuffled)).interleave(
                lambda *file: _read(*file), _FILES_AT_ONCE, 1, tf.data.AUTOTUNE, deterministic=True
            )
            seed = augment.seed_of(request.seed, epoch)

            def shuffle(chunk: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
                key = tf.random.experimental.stateless_fold_in(seed, chunk)
                keys = tf.random.stateless_uniform(tf.shape(batch), key, None, None, tf.int32)
                return tf.gather(batch, tf.argsort(keys, stable=True))

            records = records.batch(_CHUNK).enumerate().map(shuffle).prefetch(1).unbatch()
            records = records.take(steps_per_epoch * request.batch_size)
            return records.skip(offset * request.batch_size)

        records = order.epochs(request.start_step, steps_per_epoch).flat_map(of_epoch)
        examples = records.map(self._parse, tf.data.AUTOTUNE)
        places = tf.data.Dataset.counter(request.start_step * request.batch_size)
        return tf.data.Dataset.zip(places, examples).map(lambda place, e: (place, *e))

    def _files(self) -> tf.data.Dataset:
        split = self.builder.info.splits[f"{self.split}[{self.start}:{self.stop}]"]
        instructions = split.file_instructions
        return tf.data.Dataset.from_tensor_slices(
            (
                [str(instruction.filename) for instruction in instructions],
                tf.constant([instruction.skip for instruction in instructions], tf.int64),
                tf.constant([instruction.take for instruction in instructions], tf.int64),
            )
        )

    def _parse(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        import tensorflow_datasets as tfds

        example = self.builder.info.features.deserialize_example(
            record, decoders={"image": tfds.decode.SkipDecoding()}
        )
        return example["image"], example["label"]


def _read(filename: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(filename, buffer_size=2**20).skip(skip).take(take)
