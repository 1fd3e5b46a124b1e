"""Laws of extra images: their exact share, passes without repeats, one stream for all workers."""

import numpy as np
import pytest
import tensorflow as tf

from sat_tf import data
from sat_tf.data import archive, extra

COUNT = 50
LABELS = np.repeat(np.arange(10), 5)
# Image k is all of one colour, which no digit is; the colour says which it is.
IMAGES = np.broadcast_to(np.arange(100, 150, dtype=np.uint8)[:, None, None, None], (50, 8, 8, 1))
SOFT = np.random.default_rng(0).dirichlet([1.0] * 10, COUNT).astype(np.float32)


def write_records(path, labels, part=slice(None)):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(IMAGES[part], labels[part], strict=True):
            picture = tf.train.BytesList(value=[tf.io.encode_png(image).numpy()])
            number = (
                {"int64_list": tf.train.Int64List(value=[label])}
                if labels.ndim == 1
                else {"float_list": tf.train.FloatList(value=label)}
            )
            content = {
                "image": tf.train.Feature(bytes_list=picture), "label": tf.train.Feature(**number)
            }  # fmt: skip
            features = tf.train.Features(feature=content)
            writer.write(tf.train.Example(features=features).SerializeToString())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("extra")
    np.savez(root / "plain.npz", image=IMAGES, label=LABELS)
    np.savez(root / "soft.npz", images=IMAGES, labels=SOFT.astype(np.float64), other=[1])
    np.savez_compressed(root / "small.npz", image=IMAGES, label=LABELS.astype(np.uint8))
    write_records(root / "plain.tfrecord", LABELS)
    write_records(root / "soft.tfrecord", SOFT)
    for kind, labels in (("plain", LABELS), ("soft", SOFT)):
        (root / f"{kind}_shards").mkdir()
        for number, part in enumerate((slice(0, 1), slice(1, 33), slice(33, 50))):
            name = f"extra-{number:05}-of-00003.tfrecord"
            write_records(root / f"{kind}_shards" / name, labels, part)
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        folder = root / "folder" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        tf.io.write_file(str(folder / f"{number:02}.png"), tf.io.encode_png(image))
    return root


def batches(files, steps, name="plain.npz", batch_size=20, **options):
    """Reads images [S, N, H, W, C], labels [S, N], and which extra image each is, else -1."""
    if name:
        options["extra_data"] = str(files / name)
    options = {"batch_size": batch_size, "training": True, "seed": 3, **options}
    stream = data.load("digits", "train", **options)
    images, labels = map(np.stack, zip(*stream.take(steps).as_numpy_iterator(), strict=True))
    numbers = images[:, :, 0, 0, 0].astype(int) - 100
    one = np.ptp(images, axis=(2, 3, 4)) == 0
    return images, labels, np.where(one & (numbers >= 0) & (numbers < COUNT), numbers, -1)


@pytest.mark.parametrize(
    "fraction, count",
    [(0.0, 0), (0.02, 0), (0.05, 1), (0.33, 7), (0.5, 10), (None, 14), (0.97, 19), (1.0, 20)],
)
def test_every_batch_has_exactly_its_share_and_spread_evenly(files, fraction, count):
    # Twice the side leaves a flat image flat.
    images, labels, numbers = batches(files, 9, extra_fraction=fraction, image_size=16)
    assert images.shape == (9, 20, 16, 16, 1)
    is_extra = numbers >= 0
    assert is_extra.sum(1).tolist() == [count] * 9
    np.testing.assert_array_equal(labels[is_extra], LABELS[numbers[is_extra]])
    for parts in (2, 4, 5):
        shares = is_extra[0].reshape(parts, -1).sum(1)
        assert np.ptp(shares) <= 1


def test_no_image_comes_twice_in_a_pass_and_each_pass_has_an_order_of_its_own(files):
    _, _, numbers = batches(files, 12, extra_fraction=0.5)  # five steps a pass
    passes = numbers[numbers >= 0][:100].reshape(2, 50)
    for one in passes:
        assert sorted(one) == list(range(COUNT))
    assert (passes[0] != passes[1]).sum() > 40
    _, _, numbers = batches(files, 6, extra_fraction=0.7)  # three of 14, and eight left out
    for one in numbers[numbers >= 0].reshape(2, 42):
        assert len(set(one)) == 42


def test_all_extra_images_may_be_in_every_batch(files):
    _, _, numbers = batches(files, 2, batch_size=2 * COUNT, extra_fraction=0.5)
    assert [sorted(one[one >= 0]) for one in numbers] == [list(range(COUNT))] * 2


def test_the_sets_own_images_are_those_of_a_stream_of_their_number(files):
    images, labels, numbers = batches(files, 70, batch_size=200, extra_fraction=0.2)
    own, classes, _ = batches(files, 70, name=None, batch_size=160)  # eight steps a pass
    np.testing.assert_array_equal(images[numbers < 0].reshape(own.shape), own)
    np.testing.assert_array_equal(labels[numbers < 0].reshape(70, 160), classes)
    assert len({image.tobytes() for image in own[:8].reshape(-1, 64)}) > 1270  # few are alike


@pytest.mark.parametrize("name, counts, mixup", [
    ("plain.npz", (2, 4), 0.3), ("soft_shards/extra-*-of-*.tfrecord", (2,), 0.0),
])  # fmt: skip
def test_resumed_and_shared_out_it_is_the_same_stream(files, name, counts, mixup):
    options = {"augment": "crop", "mixup": mixup, "extra_fraction": 0.3, "name": name}
    images, labels, _ = batches(files, 9, batch_size=24, **options)  # seven steps a pass
    tail = batches(files, 1, batch_size=24, start_step=8, **options)
    np.testing.assert_array_equal(tail[0], images[8:])
    np.testing.assert_array_equal(tail[1], labels[8:])
    for count in counts:
        shards = [data.Shard(index, count) for index in range(count)]
        parts = [batches(files, 9, batch_size=24, shard=shard, **options) for shard in shards]
        for kind, whole in enumerate((images, labels)):
            np.testing.assert_array_equal(np.concatenate([p[kind] for p in parts], 1), whole)


def test_another_seed_is_another_order_of_own_and_extra_images(files):
    images, _, numbers = batches(files, 4)
    others, _, other_numbers = batches(files, 4, seed=4)
    for is_extra in (True, False):
        places = (numbers >= 0) == is_extra
        np.testing.assert_array_equal(places, (other_numbers >= 0) == is_extra)
        assert (images[places] != others[places]).any((1, 2, 3)).mean() > 0.9


def test_a_worker_without_an_extra_image_has_soft_labels_as_the_others(files):
    options = {"name": "soft.npz", "extra_fraction": 0.05}
    _, labels, numbers = batches(files, 3, **options)
    parts = [batches(files, 3, shard=data.Shard(k, 4), **options) for k in range(4)]
    assert [(part[2] >= 0).any() for part in parts].count(True) == 1
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts], 1), labels)
    assert labels.shape == (3, 20, 10)
    np.testing.assert_allclose(labels[numbers >= 0], SOFT[numbers[numbers >= 0]], atol=1e-7)
    assert (np.sort(labels[numbers < 0])[..., -1] == 1).all()


@pytest.mark.parametrize("names", [
    ("plain.npz", "small.npz", "plain.tfrecord", "plain_shards", "folder"),
    ("soft.npz", "soft.tfrecord", "soft_shards/extra-*-of-*.tfrecord"),
])  # fmt: skip
def test_the_kinds_of_files_give_the_same_batches(files, names):
    first, *others = (batches(files, 6, name=name, augment="crop") for name in names)
    for other in others:
        np.testing.assert_array_equal(other[0], first[0])
        np.testing.assert_allclose(other[1], first[1], atol=1e-7)


def test_extra_images_are_cropped_by_numbers_of_their_own(files):
    options = {"augment": "crop", "batch_size": 20, "extra_fraction": 0.5}
    images, _, _ = batches(files, 40, **options)
    colour = images.max((2, 3, 4))
    cut = (images == 0) & (colour[..., None, None, None] >= 100)
    flat = (np.ptp(np.where(images == 0, 255, images), axis=(2, 3, 4)) >= 0).sum()
    assert flat == 800 and cut.any()
    extra_images = images[(images == 0).mean((2, 3, 4)) < 0.25]
    # A window of the image and its black border: of nine, one is the image itself.
    whole = (np.ptp(extra_images, axis=(1, 2, 3)) == 0).sum()
    assert 400 / 9 - 30 < whole < 400 / 9 + 30


def test_extra_images_come_in_an_order_of_their_own(files):
    info = data.describe("digits")
    pixels = extra.opened(str(files / "plain.npz"), info)
    request = data.info.Request(20, training=True, seed=3, augment="none")
    # The same file as the set itself: only the seeds tell the two streams apart.
    stream = extra.joined(lambda part: pixels.training("none", part), pixels, 0.5, info, request)
    numbers = next(iter(stream))[0].numpy()[:, 0, 0, 0]
    assert (numbers[::2] != numbers[1::2]).sum() > 5


def test_arrays_of_an_npz_are_mapped_where_they_lie(tmp_path):
    arrays = {
        "image": np.random.default_rng(0).integers(0, 256, [7, 3, 4, 3], np.uint8),
        "label": np.asfortranarray(np.arange(14.0).reshape(7, 2)),
        "empty": np.zeros([0, 3], np.int32),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    found = archive.arrays(str(tmp_path / "a.npz"), ["image", "label", "empty", "absent"])
    assert found.keys() == arrays.keys()
    assert type(found["image"]) is type(found["label"]) is np.memmap
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(arrays["image"].tobytes()) + 5] ^= 1
    (tmp_path / "a.npz").write_bytes(content)  # it is the file that is looked at, not a copy
    assert archive.arrays(str(tmp_path / "a.npz"), ["image"])["image"].ravel()[5] == (
        arrays["image"].ravel()[5] ^ 1
    )


def replaced(**changes):
    return {"image": IMAGES, "label": LABELS, **changes}


@pytest.mark.parametrize("content, said", [
    ({"image": IMAGES}, "has image; expected image and label"),
    ({"x": IMAGES, "y": LABELS}, r"it has the arrays x, y\); write one with numpy.savez"),
    (replaced(image=IMAGES.astype(np.float32)), r"float32 \[50, 8, 8, 1\]; expected uint8"),
    (replaced(image=IMAGES[..., 0]), r"uint8 \[50, 8, 8\]; expected uint8 \[M, 8, 8, 1\]"),
    (replaced(image=IMAGES[:, :7]), r"uint8 \[50, 7, 8, 1\]; expected"),
    (replaced(image=np.repeat(IMAGES, 3, -1)), "expected .*the size of digits"),
    (replaced(label=LABELS[1:]), r"label is \[49\] for 50 images"),
    (replaced(label=LABELS[:, None]), r"label is int64 \[50, 1\]; expected integers"),
    (replaced(label=LABELS.astype(float)), r"label is float64 \[50\]"),
    (replaced(label=SOFT[:, :9]), r"expected integers \[M\] or floats \[M, 10\]"),
    (replaced(label=LABELS + 1), "label of image 45 is 10; expected 0 to 9 of digits"),
    (replaced(label=LABELS - 1), "label of image 0 is -1"),
    (replaced(label=2 * SOFT), "label of image 0 is .*; expected probabilities that sum to 1"),
    (replaced(label=LABELS.astype(object)), "label holds Python objects"),
])  # fmt: skip
def test_an_npz_that_does_not_fit_is_refused(tmp_path, content, said):
    np.savez(tmp_path / "bad.npz", **content)
    refuse(tmp_path, "bad.npz", said)


def refuse(directory, name, said, **options):
    with pytest.raises(ValueError, match=said) as error:
        batches(directory, 1, name=name, **options)
    assert "\n" not in str(error.value)


def test_files_that_are_damaged_or_of_another_kind_are_refused(files, tmp_path):
    refuse(tmp_path, "gone.npz", "gone.npz is not there; expected file.npz, file.tfrecord, se")
    (tmp_path / "a.csv").write_text("1")
    refuse(tmp_path, "a.csv", "a.csv is neither file.npz, file.tfrecord, several")
    refuse(tmp_path, "extra-*.tfrecord", "extra-[*].tfrecord is not there; expected")
    for name in ("plain.npz", "plain.tfrecord"):
        content = (files / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-9])
        refuse(tmp_path, name, f"{name} cannot be read as")
        (tmp_path / name).write_bytes(b"none of them")
        refuse(tmp_path, name, f"{name} cannot be read as")
    (tmp_path / "empty.tfrecord").touch()
    refuse(tmp_path, "empty.tfrecord", "empty.tfrecord holds no record; expected pictures")
    write_records(tmp_path / "high.tfrecord", LABELS + 1)
    refuse(tmp_path, "high.tfrecord", "label of image 45 is 10; expected 0 to 9 of digits")
    write_records(tmp_path / "few.tfrecord", SOFT[:, :9])
    refuse(tmp_path, "few.tfrecord", "label .one int64, or 10 floats")
    (tmp_path / "pictures" / "ten").mkdir(parents=True)
    (tmp_path / "pictures" / "ten" / "a.png").write_bytes((files / "folder/1/05.png").read_bytes())
    refuse(tmp_path, "pictures", "pictures has classes that are not in train: ten")


def test_shards_that_do_not_make_one_set_are_refused(files, tmp_path):
    def folder(name, *shards):
        (tmp_path / name).mkdir()
        for kind, number in shards:
            part = f"extra-{number:05}-of-00003.tfrecord"
            content = (files / f"{kind}_shards" / part).read_bytes()
            (tmp_path / name / part).write_bytes(content)
        return tmp_path / name

    folder("gap", ("plain", 0), ("plain", 2))
    for name in ("gap", "gap/extra-*.tfrecord"):
        refuse(tmp_path, name, "means 2 of the 3 files of extra.tfrecord; missing: 1$")
    folder("mixed", ("plain", 0), ("soft", 1), ("plain", 2))
    refuse(tmp_path, "mixed", "00001.* has a float for each class as label, and .*00000.* an int")
    two = folder("two", ("plain", 0), ("plain", 1), ("plain", 2))
    write_records(two / "other.tfrecord-00000-of-00001", LABELS)  # as TFDS calls its files
    refuse(tmp_path, "two", "several sets, extra.tfrecord, other.tfrecord; .*two/extra[*].tfrecord")
    for kept in (".extra-00000-of-00003.tfrecord", "extra.tfrecord.bak"):  # by other programs
        (two / kept).write_bytes(b"half a file")
    assert (batches(tmp_path, 1, name="two/extra*.tfrecord")[2] >= 0).sum() == 14
    (two / "extra-00003-of-00003.tfrecord").touch()
    refuse(tmp_path, "two/extra*.tfrecord", "4 files of extra.tfrecord, which are 3 by their names")
    (two / "extra-00003-of-00003.tfrecord").rename(two / "extra-00000-of-00001.tfrecord")
    for other in ("extra-00000-of-00001.tfrecord", "extra.tfrecord"):
        for name in ("two", "two/extra*.tfrecord"):
            said = "files of extra.tfrecord in 1 and in 3 parts, of which one is older"
            refuse(tmp_path, name, said)
        (two / other).rename(two / "extra.tfrecord")


def test_a_file_without_a_record_is_no_fault_beside_others(files, tmp_path):
    for number, part in enumerate((slice(0, 0), slice(0, 20), slice(20, 20), slice(20, 50))):
        write_records(tmp_path / f"extra-{number:05}-of-00004.tfrecord", LABELS, part)
    whole = batches(files, 3, name="plain.tfrecord")
    parts = batches(tmp_path, 3, name="extra-*.tfrecord")
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("options, said", [
    ({"extra_fraction": 1.1}, "--extra_fraction=1.1; give the share of a batch, from 0 to 1"),
    ({"extra_fraction": float("nan")}, "--extra_fraction=nan"),
    ({"batch_size": 200}, "140 extra images are in a batch of 200, and there are 50 of them"),
    ({"augment": "inception"}, "augment is 'inception'; use one of: none, crop, crop_flip"),
    ({"name": None, "extra_fraction": 0.5}, "--extra_fraction=0.5 is of no --extra_data"),
])  # fmt: skip
def test_what_cannot_be_mixed_in_is_refused(files, options, said):
    refuse(files, **{"name": "plain.npz", **options}, said=said)


def test_what_is_read_in_memory_is_said(files, caplog):
    extra.opened(str(files / "small.npz"), data.describe("digits"))
    assert "image is compressed, so its 0 MB are held in memory" in caplog.text


def test_extra_pictures_that_claim_too_much_are_refused(files):
    with pytest.raises(ValueError, match="8 x 8 pixels, more than --max_pixels=63"):
        batches(files, 1, name="folder", max_pixels=63)
