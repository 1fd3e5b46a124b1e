"""Workers share out the data: together they read the stream of one, and each its own part alone."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from sat_tf import data
from sat_tf.data import augment, crops, info, order, records

BATCH = 16
SHARES = [(8, 5, 30), (0, 3, 9), (2, 40, 20), (0, 1, 31)]  # files: skipped, taken, left


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 40 pictures of many sizes; the colour tells which is which."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(80):
        image = np.full([9 + number % 5, 8 + number % 7, 3], number * 3, np.uint8)
        image[:3, :3] = 255 - image[:3, :3]
        file = root / "ab"[number % 2] / f"{number:02}.png"
        file.parent.mkdir(exist_ok=True)
        tf.io.write_file(str(file), tf.io.encode_png(image))
    return root


class Numbers(records.Records):
    """Record files whose records are pictures, each of one colour: the number of the record."""

    def __init__(self, directory):
        count = sum(take for _, take, _ in SHARES)
        super().__init__(directory, "train", 0, count)

    def write(self):
        number = 0
        for file, (skip, take, left) in enumerate(SHARES):
            with tf.io.TFRecordWriter(str(self.builder / f"{file}.tfrecord")) as writer:
                for place in range(skip + take + left):
                    own = skip <= place < skip + take
                    writer.write(str(number if own else 1000).encode())
                    number += own
        return self

    def _files(self):
        skips, takes, _ = (list(column) for column in zip(*SHARES, strict=True))
        names = [str(self.builder / f"{file}.tfrecord") for file in range(len(SHARES))]
        columns = (names, tf.constant(skips, tf.int64), tf.constant(takes, tf.int64))
        return tf.data.Dataset.from_tensor_slices(columns)

    def _parse(self, record):
        return record, tf.strings.to_number(record, tf.int32)


@pytest.fixture
def numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_CHUNK", 8)
    monkeypatch.setattr(records, "_FILES_AT_ONCE", 2)
    return Numbers(tmp_path).write()


def elements(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def assert_together(whole, parts):
    """Compares the batches of all with those of each shard, one shard after the other."""
    for step, expected in enumerate(whole):
        for kind, value in enumerate(expected):
            found = [part[step][kind] for part in parts if step < len(part)]
            np.testing.assert_array_equal(np.concatenate(found), value)


@pytest.mark.parametrize("count, start_step", [(2, 7), (4, 0)])
@pytest.mark.parametrize("kind, augmentation", [
    ("digits", "crop_flip"), ("folder", "inception"), ("folder", "crop_flip"),
])  # fmt: skip
def test_shards_make_the_batches_of_one_from_any_step_on(
    kind, augmentation, start_step, count, folder
):
    def read(shard):
        batches = data.load(
            "digits" if kind == "digits" else f"folder:{folder}", "train", batch_size=BATCH,
            training=True, seed=3, image_size=8, augment=augmentation, start_step=start_step,
            shard=shard,
        )  # fmt: skip
        assert batches.element_spec[0].shape[0] == BATCH // shard.count
        return elements(batches, 6)  # an epoch of the folder has four steps

    assert_together(read(data.WHOLE), [read(data.Shard(index, count)) for index in range(count)])


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("kind", ["digits", "folder"])
def test_shards_evaluate_every_image_once_and_in_its_batch(kind, count, folder):
    def read(shard):
        name = "digits" if kind == "digits" else f"folder:{folder}"
        batches = data.load(name, "validation", batch_size=28, image_size=8, shard=shard)
        assert batches.cardinality() == {"digits": 6, "folder": 1}[kind]
        return elements(batches, 100)

    whole, parts = read(data.WHOLE), [read(data.Shard(index, count)) for index in range(count)]
    assert len(whole[-1][1]) == {"digits": 3, "folder": 7}[kind]
    assert {len(part) for part in parts} == {len(whole)}  # else workers wait for each other
    assert_together(whole, parts)


@pytest.mark.parametrize("training", [True, False])
def test_a_shard_for_several_replicas_comes_in_as_many_pieces(training):
    """As one process with so many replicas would share out its batches."""

    def read(shard):
        split = "train" if training else "validation"
        options = dict(batch_size=28, training=training, shard=shard)
        return elements(data.load("digits", split, **options), 10)

    for index in range(2):
        pieces = read(data.Shard(index, 2, 2))
        for part, replica in ((pieces[::2], 2 * index), (pieces[1::2], 2 * index + 1)):
            for (images, labels), (again, _) in zip(
                part, read(data.Shard(replica, 4)), strict=False
            ):
                np.testing.assert_array_equal(images, again)
                assert len(labels) <= 7


def oracle(numbers, seed, steps_per_epoch, lanes, num_epochs):
    """Returns the records of every batch, [steps, BATCH], by lists."""
    ends = np.cumsum([take for _, take, _ in SHARES])
    files = [list(range(end - take, end)) for end, (_, take, _) in zip(ends, SHARES, strict=True)]
    batches = []
    for epoch in range(num_epochs):
        row = order.permutation(seed, tf.constant(epoch, tf.int64), len(files)).numpy()
        key = augment.seed_of(seed, epoch)
        streams = []
        for lane in range(lanes):
            part = range(lane * ends[-1] // lanes, (lane + 1) * ends[-1] // lanes)
            places = iter(range(ends[-1]))
            waiting = [[n for n in files[f] if next(places) in part] for f in row]
            waiting, read, turn = [one for one in waiting if one], [], 0
            slots = [None] * max(1, 2 // lanes)
            while waiting or any(slot is not None for slot in slots):
                if slots[turn] is None and waiting:
                    slots[turn] = waiting.pop(0)
                if slots[turn]:
                    read.append(slots[turn].pop(0))
                else:  # seen to be at its end: its successor comes a turn later
                    slots[turn] = None
                turn = (turn + 1) % len(slots)
            chunk = 8 // lanes
            mixed = []
            for first in range(0, len(read), chunk):
                some = np.array(read[first : first + chunk])
                number = tf.constant(lane * 2**32 + first // chunk, tf.int64)
                own = tf.random.experimental.stateless_fold_in(key, number)
                keys = tf.random.stateless_uniform([len(some)], own, None, None, tf.int32)
                mixed += some[np.argsort(keys, kind="stable")].tolist()
            streams.append(
                np.reshape(
                    mixed[: steps_per_epoch * BATCH // lanes], [steps_per_epoch, BATCH // lanes]
                )
            )
        batches += np.concatenate(streams, axis=1).tolist()
    return batches


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_records_come_in_the_order_that_seed_epoch_and_lanes_decide(lanes, numbers):
    request = info.Request(BATCH, training=True, seed=5, lanes=lanes)
    found = elements(numbers.training(request), 9 * BATCH)  # three epochs of three steps
    places, _, labels = zip(*found, strict=True)
    assert list(places) == list(range(9 * BATCH))
    assert np.reshape(labels, [9, BATCH]).tolist() == oracle(numbers, 5, 3, lanes, 3)


@pytest.mark.parametrize(
    "lanes, count, start_step",
    [(1, 2, 0), (1, 4, 4), (2, 2, 4), (2, 4, 0), (4, 2, 4), (8, 4, 0), (8, 4, 4)],
)
def test_shards_of_records_make_the_batches_of_one_whatever_the_lanes(
    lanes, count, start_step, numbers
):
    def read(shard):
        request = info.Request(
            BATCH, training=True, seed=5, start_step=start_step, shard=shard, lanes=lanes
        )
        batches = numbers.training(request).batch(BATCH // shard.count)
        return elements(batches, 6)

    assert_together(read(data.WHOLE), [read(data.Shard(index, count)) for index in range(count)])


def test_a_shard_reads_no_file_and_decodes_no_picture_of_another(folder, tmp_path, monkeypatch):
    request = info.Request(BATCH, seed=2, shard=data.Shard(0, 2))
    for file in folder.rglob("*.png"):
        copy = tmp_path / file.relative_to(folder)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())

    def read(shard):
        name = f"folder:{tmp_path}"
        options = dict(batch_size=BATCH, training=True, seed=2, image_size=8)
        return data.load(name, "train", shard=shard, **options).take(2)

    datasets = [read(data.Shard(index, 2)) for index in range(2)]
    source = data._source(f"folder:{tmp_path}", None, None, crops.MAX_PIXELS)
    (_, own) = next(iter(order.batches(source.info.num_examples["train"], request)))
    assert len(own) == BATCH // 2
    wanted = set(np.array(source.files("train"))[own.numpy()])
    for file in source.files("train"):
        if file not in wanted:
            pathlib.Path(file).unlink()
    assert len(next(iter(datasets[0]))[1]) == BATCH // 2
    with pytest.raises(tf.errors.NotFoundError):
        next(iter(datasets[1]))


def test_a_shard_opens_the_files_of_its_own_lanes_alone(numbers):
    row = order.permutation(5, tf.constant(0, tf.int64), len(SHARES)).numpy()
    assert row[0] != 2  # the others lie in the half of the records that they begin in
    (numbers.builder / f"{row[0]}.tfrecord").unlink()

    def read(index, lanes):
        request = info.Request(
            BATCH, training=True, seed=5, shard=data.Shard(index, 2), lanes=lanes
        )
        return elements(numbers.training(request), 3 * BATCH // 2 - 1)  # of the first epoch

    read(1, 2)
    for index, lanes in ((0, 2), (1, 1)):
        with pytest.raises(tf.errors.NotFoundError):
            read(index, lanes)


@pytest.mark.parametrize("options, said", [
    ({"shard": data.Shard(2, 2)}, "index=2, count=2, replicas=1.* of a batch of 16; give"),
    ({"shard": data.Shard(0, 3)}, "count times replicas divides"),
    ({"shard": data.Shard(0, 2, 3)}, "count times replicas divides"),
    ({"lanes": 4}, "lanes=4 are of record files, and the images of digits are read one by one"),
])  # fmt: skip
def test_what_cannot_be_shared_out_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        data.load("digits", "train", batch_size=BATCH, training=True, **options)


def test_lanes_that_do_not_divide_the_batch_are_refused_with_those_that_do(numbers):
    said = "lanes=3 do not divide the batch of 16; use one of: 1, 2, 4, 8, 16$"
    with pytest.raises(ValueError, match=said):
        numbers.training(info.Request(BATCH, training=True, lanes=3))


@pytest.mark.parametrize("count, replicas", [(1, 4), (2, 2), (4, 1), (4, 2), (8, 1)])
@pytest.mark.parametrize("num_examples", [1, 11])
def test_a_shard_with_few_images_or_none_has_as_many_pieces_as_the_others(
    num_examples, count, replicas
):
    options = {"batch_size": 8, "validation_examples": num_examples}
    whole = np.concatenate([y for _, y in data.load("digits", "validation", **options)])
    shards = [
        list(data.load("digits", "validation", shard=data.Shard(index, count, replicas), **options))
        for index in range(count)
    ]
    batches = -(-num_examples // 8)
    assert [len(pieces) for pieces in shards] == [batches * replicas] * count
    of_batches = [
        labels
        for batch in range(batches)
        for pieces in shards
        for _, labels in pieces[batch * replicas : (batch + 1) * replicas]
    ]
    np.testing.assert_array_equal(np.concatenate(of_batches), whole)
