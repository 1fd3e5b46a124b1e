"""The record files of a prepared TFDS set, read in an order that (seed, epoch) decides."""

import dataclasses

import tensorflow as tf

from sat_tf.data import augment, order
from sat_tf.data.info import Request

# Files read at once and records shuffled together, over all lanes: 2,048 of ImageNet are some
# 230 MB, held twice.
_FILES_AT_ONCE = 16
_CHUNK = 2048
_MOST_CHUNKS = 2**32  # of a lane


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

        With L lanes the row of files is cut into L parts of equally many records, of each of which
        16/L files are read in turn and every 2,048/L records are shuffled. A batch of B holds B/L
        records of each lane, one lane after the other; lanes that have none of the places
        `request.own` are not read, and records at other places are not decoded.

        Raises:
          ValueError: the lanes do not divide the batch.
        """
        share = _share(request)
        lanes = range(request.own.start // share, -(-request.own.stop // share))
        number = self.stop - self.start
        steps_per_epoch = number // request.batch_size
        files = self._files()
        num_files = int(files.cardinality())
        columns = files.batch(num_files).get_single_element()

        def of_epoch(epoch: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
            order_of_files = order.permutation(request.seed, epoch, num_files)
            shuffled = [tf.gather(column, order_of_files) for column in columns]
            seed = augment.seed_of(request.seed, epoch)

            def of_lane(lane: tf.Tensor) -> tf.data.Dataset:
                part = [lane * number // request.lanes, (lane + 1) * number // request.lanes]
                records = _in_turn(_cut(*shuffled, *part), request.lanes)
                records = _shuffled(records, seed, lane, request.lanes)
                return records.take(steps_per_epoch * share).skip(offset * share)

            return tf.data.Dataset.range(lanes.start, lanes.stop).interleave(
                of_lane, len(lanes), share, len(lanes), deterministic=True
            )

        def placed(count: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            step, place = count // (len(lanes) * share), count % (len(lanes) * share)
            step += request.start_step
            return step * request.batch_size + lanes.start * share + place, record

        def is_own(place: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
            place %= request.batch_size
            return (place >= request.own.start) & (place < request.own.stop)

        records = order.epochs(request.start_step, steps_per_epoch).flat_map(of_epoch)
        records = records.enumerate().map(placed)
        if len(lanes) * share > len(request.own):
            records = records.filter(is_own)
        return records.map(lambda place, record: (place, *self._parse(record)), tf.data.AUTOTUNE)

    def _files(self) -> tf.data.Dataset:
        split = self.builder.info.splits[f"{self.split}[{self.start}:{self.stop}]"]
        instructions = split.file_instructions
        return tf.data.Dataset.from_tensor_slices(
            (
                [str(instruction.filename) for instruction in instructions],
                tf.constant([instruction.skip for instruction in instructions], tf.int64),
                tf.constant([_taken(instruction) for instruction in instructions], tf.int64),
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


def _taken(instruction) -> int:
    if instruction.take >= 0:
        return instruction.take
    return instruction.examples_in_shard - instruction.skip  # TFDS says -1 for all the rest


def _share(request: Request) -> int:
    """Returns how many records of a batch a lane gives."""
    if request.batch_size % request.lanes:
        fitting = [lanes for lanes in range(1, 65) if request.batch_size % lanes == 0]
        raise ValueError(
            f"--lanes={request.lanes} do not divide the batch of {request.batch_size}; use one of: "
            f"{', '.join(map(str, fitting))}"
        )
    return request.batch_size // request.lanes


def _cut(
    names: tf.Tensor, skips: tf.Tensor, takes: tf.Tensor, start: tf.Tensor, stop: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Leaves the records start to stop - 1 of files in a row, of which each has `takes`."""
    ends = tf.cumsum(takes)
    low, high = tf.maximum(ends - takes, start), tf.minimum(ends, stop)
    skips, takes = skips + low - (ends - takes), high - low
    return tuple(tf.boolean_mask(column, takes > 0) for column in (names, skips, takes))


def _in_turn(files: tuple[tf.Tensor, tf.Tensor, tf.Tensor], lanes: int) -> tf.data.Dataset:
    """Reads one record after the other, of so many files in turn as one of the lanes may open."""
    return tf.data.Dataset.from_tensor_slices(files).interleave(
        _read, max(1, _FILES_AT_ONCE // lanes), 1, tf.data.AUTOTUNE, deterministic=True
    )


def _shuffled(
    records: tf.data.Dataset, seed: tf.Tensor, lane: tf.Tensor, lanes: int
) -> tf.data.Dataset:
    """Shuffles chunk after chunk of a lane's records, by the epoch's seed."""

    def shuffle(chunk: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        key = tf.random.experimental.stateless_fold_in(seed, lane * _MOST_CHUNKS + chunk)
        keys = tf.random.stateless_uniform(tf.shape(batch), key, None, None, tf.int32)
        return tf.gather(batch, tf.argsort(keys, stable=True))

    chunks = records.batch(max(1, _CHUNK // lanes)).enumerate()
    return chunks.map(shuffle).prefetch(1).unbatch()
