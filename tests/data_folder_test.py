"""Laws of a folder of class folders, with good images and bad ones."""

import io
import logging
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from sat_tf import data
from sat_tf.data import crops
from sat_tf.data.folder import Folder, _report, _size, scan


def fill(directory, classes, num_images, sizes=((20, 30),)):
    """Writes plain images; the colour (red, green) tells (class, number)."""
    for label, name in enumerate(classes):
        (directory / name).mkdir(parents=True)
        for number in range(num_images):
            size = sizes[number % len(sizes)]
            Image.new("RGB", size, (label, number, 255)).save(directory / name / f"{number:03}.png")


def read(name, split, **arguments):
    batches = data.load(name, split, **{"batch_size": 16, "image_size": 8} | arguments)
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def identities(images):
    """Reads (class, number) back from the colours."""
    return [tuple(colour) for colour in np.rint(images.mean((1, 2)))[:, :2].astype(int).tolist()]


@pytest.fixture
def cats_and_dogs(tmp_path):
    fill(tmp_path, ("cat", "dog"), 100, sizes=((20, 30), (33, 17)))
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    return tmp_path


def test_parts_of_a_plain_folder_are_disjoint_balanced_and_together_the_folder(cats_and_dogs):
    name = f"folder:{cats_and_dogs}"
    info = data.describe(name)
    assert info.class_names == ("cat", "dog")
    assert info.num_examples == {"train": 162, "validation": 18, "test": 20}
    assert info.image_shape == (None, None, 3)
    seen = []
    for split in data.SPLITS:
        images, labels = read(name, split)
        assert [label for label, _ in identities(images)] == labels.tolist()
        np.testing.assert_array_equal(np.bincount(labels), info.num_examples[split] // 2)
        seen += identities(images)
    assert sorted(seen) == [(label, number) for label in range(2) for number in range(100)]


def test_images_at_any_depth_and_of_any_case_below_a_class_folder_are_of_that_class(tmp_path):
    fill(tmp_path, ("cat", "dog"), 20)
    for number in range(10):
        (tmp_path / "dog" / f"a{number}/b").mkdir(parents=True)
        file = f"{number:03}.png"
        (tmp_path / "dog" / file).rename(tmp_path / "dog" / f"a{number}/b" / file)
        (tmp_path / "cat" / file).rename(tmp_path / "cat" / file.upper())
    name = f"folder:{tmp_path}"
    found = [read(name, split) for split in ("train", "validation", "test")]
    images, labels = (np.concatenate(column) for column in zip(*found, strict=True))
    assert sorted(identities(images)) == [(c, n) for c in (0, 1) for n in range(20)]
    assert labels.tolist() == [label for label, _ in identities(images)]


@pytest.mark.parametrize("augment", ["none", "crop_flip", "inception"])
def test_the_stream_of_a_folder_depends_on_seed_and_step_alone(cats_and_dogs, augment):
    def stream(steps, **arguments):
        return list(
            data.load(
                f"folder:{cats_and_dogs}", "train", batch_size=16, image_size=8,
                training=True, augment=augment, **arguments,
            ).take(steps).as_numpy_iterator()
        )  # fmt: skip

    full, tail = stream(23), stream(11, start_step=12)  # ten steps an epoch
    for (images, labels), (images_again, labels_again) in zip(full[12:], tail, strict=True):
        np.testing.assert_array_equal(images, images_again)
        np.testing.assert_array_equal(labels, labels_again)
    assert any((a[0] != b[0]).any() for a, b in zip(full, stream(23, seed=1), strict=True))
    if augment != "crop_flip":  # the black border would change the mean colour
        for epoch in (full[:10], full[10:20]):
            names = identities(np.concatenate([images for images, _ in epoch]))
            assert len(set(names)) == len(names) == 160


def test_every_place_of_the_stream_has_its_own_window_from_any_step_on(cats_and_dogs, monkeypatch):
    def shown(encoded, size, seed, channels, *more):
        return tf.fill([size, size, channels], tf.cast(seed[1], tf.float32))

    monkeypatch.setattr(crops, "training_image", shown)

    def seeds(num_steps, **arguments):
        batches = data.load(
            f"folder:{cats_and_dogs}", "train", batch_size=16, image_size=1,
            training=True, augment="inception", **arguments,
        )  # fmt: skip
        return [images.ravel() for images, _ in batches.take(num_steps).as_numpy_iterator()]

    full = np.stack([batch[::3] for batch in seeds(9)])
    assert len(np.unique(full)) == full.size
    np.testing.assert_array_equal([batch[::3] for batch in seeds(2, start_step=7)], full[7:])


def test_train_test_and_val_folders_are_taken_as_they_are(tmp_path):
    for part, num_images in (("train", 30), ("test", 5), ("val", 4)):
        fill(tmp_path / part, ("a", "b"), num_images)
    name = f"folder:{tmp_path}"
    assert data.describe(name).num_examples == {"train": 60, "validation": 8, "test": 10}
    cut = data.describe(name, validation_examples=6)
    assert cut.num_examples == {"train": 54, "validation": 6, "test": 10}


def test_val_alone_is_the_test_part(tmp_path):
    for part, num_images in (("train", 30), ("val", 4)):
        fill(tmp_path / part, ("a", "b"), num_images)
    info = data.describe(f"folder:{tmp_path}")
    assert info.num_examples == {"train": 54, "validation": 6, "test": 8}
    fill(tmp_path / "validation", ("a", "b"), 2)  # another name of it, and no part of its own
    assert data.describe(f"folder:{tmp_path}").num_examples == info.num_examples


def test_a_test_part_with_fewer_classes_keeps_the_labels_of_train(tmp_path):
    fill(tmp_path / "train", ("a", "b", "c"), 10)
    fill(tmp_path / "test", ("c",), 5)
    _, labels = read(f"folder:{tmp_path}", "test")
    assert labels.tolist() == [2] * 5


def test_images_of_one_square_size_need_no_image_size(tmp_path):
    fill(tmp_path, ("a", "b"), 20, sizes=((12, 12),))
    name = f"folder:{tmp_path}"
    assert data.describe(name).image_size == 12
    images, _ = read(name, "train", image_size=None)
    assert images.shape == (33, 12, 12, 3)
    assert set(identities(images)) <= {(label, n) for label in range(2) for n in range(20)}


def test_a_grey_image_becomes_three_equal_channels(tmp_path):
    fill(tmp_path, ("a", "b"), 10)
    for number in range(10):
        Image.new("L", (20, 20), 77).save(tmp_path / "a" / f"{number:03}.png")
    images, labels = read(f"folder:{tmp_path}", "train")
    assert (images[labels == 0] == 77).all()


def test_a_corrupt_image_is_named_and_left_out(cats_and_dogs, caplog):
    bad = cats_and_dogs / "dog" / "007.png"
    bad.write_bytes(bad.read_bytes()[:60])
    (cats_and_dogs / "cat" / "003.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "absl"):
        info = data.describe(f"folder:{cats_and_dogs}")
    assert "2 of the 201 images" in caplog.text and str(bad) in caplog.text
    assert sum(info.num_examples.values()) == 199
    seen = [
        i for split in data.SPLITS for i in identities(read(f"folder:{cats_and_dogs}", split)[0])
    ]
    assert (1, 7) not in seen and len(seen) == 199


def test_a_truncated_jpeg_is_corrupt(tmp_path):
    fill(tmp_path, ("a", "b"), 60)
    noise = np.random.default_rng(0).integers(0, 256, [64, 64, 3], np.uint8)
    Image.fromarray(noise).save(tmp_path / "a" / "cut.jpg")
    whole = (tmp_path / "a" / "cut.jpg").read_bytes()
    (tmp_path / "a" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    info = data.describe(f"folder:{tmp_path}")
    assert sum(info.num_examples.values()) == 120


def test_more_than_one_percent_of_corrupt_images_stop_the_run(cats_and_dogs):
    for number in range(3):
        (cats_and_dogs / "dog" / f"{number:03}.png").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"3 of the 200 images .* 1 %.*replace or delete"):
        data.describe(f"folder:{cats_and_dogs}")


def test_one_percent_of_corrupt_images_is_left_out(cats_and_dogs):
    for number in range(2):
        (cats_and_dogs / "dog" / f"{number:03}.png").write_bytes(b"nonsense")
    assert sum(data.describe(f"folder:{cats_and_dogs}").num_examples.values()) == 198


def test_ten_corrupt_images_are_named_and_the_others_counted(tmp_path, caplog):
    files = [f"{number}.png" for number in range(12)]
    said = f"12 of the 1200 images in {tmp_path} are corrupt, or neither JPEG nor PNG: "
    said += ", ".join(files[:10]) + " and 2 more"
    _report(tmp_path, files, 1200)
    assert f"{said}; left out" in caplog.text
    with pytest.raises(ValueError, match="12 of the 1199 .* and 2 more; at most 1 % may be"):
        _report(tmp_path, files, 1199)
    caplog.clear()
    _report(tmp_path, files[:10], 1200)
    assert "9.png; left out" in caplog.text


def test_what_is_not_a_folder_of_class_folders_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no directory"):
        data.describe(f"folder:{tmp_path / 'missing'}")
    with pytest.raises(ValueError, match="one a class"):
        data.describe(f"folder:{tmp_path}")
    fill(tmp_path / "more", ("a",), 3)
    (tmp_path / "more" / "hollow").mkdir()
    with pytest.raises(ValueError, match="no image in: hollow"):
        data.describe(f"folder:{tmp_path / 'more'}")
    fill(tmp_path / "parts" / "train", ("a", "b"), 3)
    fill(tmp_path / "parts" / "test", ("b", "z"), 3)
    with pytest.raises(ValueError, match="not in train: z"):
        data.describe(f"folder:{tmp_path / 'parts'}")


def test_images_of_several_sizes_need_an_image_size(cats_and_dogs):
    with pytest.raises(ValueError, match="image_size"):
        data.load(f"folder:{cats_and_dogs}", "test", batch_size=4)


@pytest.mark.parametrize(
    "sizes, default", [([(8, 8)], "crop_flip"), ([(8, 8), (9, 8)], "inception")]
)
def test_pictures_are_augmented_as_photographs_unless_told(tmp_path, sizes, default):
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 255, (*sizes[number % len(sizes)], 3))
        (tmp_path / f"{number % 2}").mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number % 2}" / f"{number}.png")

    def first(**options):
        batches = data.load(
            f"folder:{tmp_path}", "train", batch_size=4, image_size=8, training=True, **options
        )
        return next(iter(batches))[0]

    np.testing.assert_array_equal(first(), first(augment=default))
    assert np.abs(first() - first(augment="none")).max() > 1


def batches(folder, split, **arguments):
    stream = data.load(f"folder:{folder}", split, batch_size=2, **arguments)
    return [images for images, _ in stream.take(1).as_numpy_iterator()]


def test_a_folder_is_cropped_as_images_of_its_sizes_are_unless_told(cats_and_dogs, tmp_path):
    one_size = tmp_path / "more"
    noise = np.random.default_rng(0).integers(0, 256, [30, 16, 16, 3], np.uint8)
    for number, image in enumerate(noise):
        path = one_size / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        Image.fromarray(np.tile(image, (2, 1 + number % 2, 1))).save(
            cats_and_dogs / "cat" / f"{number:03}.png"
        )
    for folder, resize in ((one_size, "whole"), (cats_and_dogs, "center_crop")):
        default = batches(folder, "test", image_size=12)
        assert default[0].shape[1:] == (12, 12, 3)
        same = batches(folder, "test", image_size=12, eval_resize=resize)
        np.testing.assert_array_equal(default, same)
    for resize in ("shorter_side", "whole"):
        other = batches(cats_and_dogs, "test", image_size=12, eval_resize=resize)
        assert np.abs(np.stack(other) - np.stack(default)).max() > 1


def test_the_files_of_a_part_are_named_in_the_order_in_which_they_are_read(cats_and_dogs):
    for split in data.SPLITS:
        images, _ = read(f"folder:{cats_and_dogs}", split)
        files = [pathlib.Path(file) for file in Folder(str(cats_and_dogs)).files(split)]
        named = [(("cat", "dog").index(file.parent.name), int(file.stem)) for file in files]
        assert named == identities(images) == sorted(named)


def saved(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def odd_pictures():
    """Maps names to (bytes, whether they are decoded)."""
    colours = np.random.default_rng(0).integers(0, 256, [9, 13, 3], np.uint8)
    plain = Image.fromarray(colours)
    deep = Image.fromarray(np.arange(117, dtype=np.uint16).reshape(9, 13) * 500)
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [Image.new("RGB", (5, 5), (shade, 0, 0)) for shade in (0, 90, 200)]
    jpeg = saved(plain, "JPEG")
    return {
        "dot.png": (saved(Image.new("RGB", (1, 1)), "PNG"), True),
        "row.png": (saved(Image.new("RGB", (500, 1)), "PNG"), True),
        "column.png": (saved(Image.new("RGB", (1, 500)), "PNG"), True),
        "turned.jpg": (saved(plain, "JPEG", exif=turned), True),
        "cmyk.jpg": (saved(plain.convert("CMYK"), "JPEG"), True),
        "deep.png": (saved(deep, "PNG"), True),
        "palette.png": (saved(plain.convert("P"), "PNG"), True),
        "clear.png": (saved(plain.convert("RGBA"), "PNG"), True),
        "png.jpg": (saved(plain, "PNG"), True),
        os.fsdecode(b"caf\xe9.jpg"): (jpeg, True),
        "webp.jpg": (saved(plain, "WEBP"), False),
        "moving.jpg": (saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), False),
        "bitmap.png": (saved(plain, "BMP"), False),
        "cut.jpg": (jpeg[: len(jpeg) // 2], False),
        "empty.png": (b"", False),
    }


def test_odd_pictures_are_decoded_or_left_out_as_the_table_says(tmp_path, caplog):
    (tmp_path / "b").mkdir()
    fill(tmp_path, ("a",), 600)
    (tmp_path / "b" / "one.png").write_bytes(odd_pictures()["dot.png"][0])
    for name, (content, _) in odd_pictures().items():
        (tmp_path / "a" / name).write_bytes(content)
    os.mkfifo(tmp_path / "a" / "z.jpg")
    (tmp_path / "a" / "moving.gif").write_bytes(odd_pictures()["moving.jpg"][0])
    with caplog.at_level(logging.WARNING, "absl"):
        found = scan(tmp_path)
    taken = {os.path.basename(file) for file in found.files}
    assert {n for n in odd_pictures() if n in taken} == {
        n for n, (_, decoded) in odd_pictures().items() if decoded
    }
    assert "6 of the 617 images" in caplog.text and "z.jpg" in caplog.text
    assert "1 .gif" in caplog.text
    images, labels = read(f"folder:{tmp_path}", "train", eval_resize="shorter_side")
    assert len(images) + 114 > len(labels) > 400 and np.isfinite(images).all()


@pytest.mark.parametrize("seed", range(3))
def test_what_the_scan_takes_the_decoder_takes(tmp_path, seed):
    generator, taken = np.random.default_rng(seed), 0
    contents = [content for content, _ in odd_pictures().values() if content]
    for _ in range(100):
        octets = bytearray(contents[generator.integers(len(contents))])
        for place in generator.integers(0, len(octets), generator.integers(1, 4)):
            octets[place] = generator.integers(256)
        path = tmp_path / "one.jpg"
        path.write_bytes(bytes(octets))
        try:
            size = _size(str(path), 10_000)
        except ValueError as error:
            assert "max_pixels" in str(error)
            continue
        if size is not None:
            taken += 1
            image = crops.evaluation_image(tf.constant(bytes(octets)), 8, "shorter_side", 3, 10_000)
            assert image.shape == (8, 8, 3)
            assert crops.decode(tf.constant(bytes(octets))).shape[:2] == size
    assert taken > 5


def test_links_that_put_an_image_in_two_classes_are_refused(tmp_path):
    fill(tmp_path / "up", ("a", "b"), 3)
    (tmp_path / "up" / "loop").symlink_to("..")
    with pytest.raises(ValueError, match="loop holds itself; remove the link"):
        data.describe(f"folder:{tmp_path / 'up'}")
    fill(tmp_path / "twice", ("a", "b"), 3)
    (tmp_path / "twice" / "c").symlink_to("a")
    with pytest.raises(ValueError, match="folders (a and c|c and a) in .* are one, or one lies"):
        data.describe(f"folder:{tmp_path / 'twice'}")
    fill(tmp_path / "apart", ("a",), 20)
    (tmp_path / "apart" / "d").symlink_to(tmp_path / "up" / "b")
    assert data.describe(f"folder:{tmp_path / 'apart'}").class_names == ("a", "d")


def test_a_picture_that_claims_too_much_stops_the_run_by_name(tmp_path):
    fill(tmp_path, ("a", "b"), 3)
    with pytest.raises(ValueError, match="png claims to be 30 x 20 pixels, more than"):
        data.describe(f"folder:{tmp_path}", max_pixels=599)
    assert data.describe(f"folder:{tmp_path}", max_pixels=600).num_classes == 2
