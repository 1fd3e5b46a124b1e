"""Laws of TFDS sets: a prepared set of ours in several files, and CIFAR-10 where it is at hand."""

import logging
import os
import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from sat_tf import data
from sat_tf.data import crops, info, records, tfds_sets

NUM_IMAGES = {"train": 220, "validation": 30, "test": 20}


class SatPlainPhotos(tfds.core.GeneratorBasedBuilder):
    """Plain images of many sizes; the colour tells (split, number)."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="train_only"),
        tfds.core.BuilderConfig(name="three"),
        tfds.core.BuilderConfig(name="test_only"),
        tfds.core.BuilderConfig(name="unlabelled"),
        tfds.core.BuilderConfig(name="unpublished_test"),
        tfds.core.BuilderConfig(name="unpublished_train"),
    ]

    def _info(self):
        label = tfds.features.ClassLabel(names=["even", "odd"])
        if self.builder_config.name == "unlabelled":
            label = tfds.features.Scalar(np.int64)
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        splits = {"three": list(NUM_IMAGES), "unpublished_test": list(NUM_IMAGES)}.get(
            self.builder_config.name,
            ["test" if self.builder_config.name == "test_only" else "train"],
        )
        return {split: self._generate_examples(split) for split in splits}

    def _generate_examples(self, split):
        for number in range(NUM_IMAGES[split]):
            image = np.empty([10 + number % 7, 12 + number % 5, 3], np.uint8)
            image[:] = (number, list(NUM_IMAGES).index(split), 255)
            unpublished = self.builder_config.name == f"unpublished_{split}"
            yield number, {"image": image, "label": -1 if unpublished else number % 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    config = tfds.download.DownloadConfig(num_shards=3)
    for config_of_set in SatPlainPhotos.BUILDER_CONFIGS:
        name = config_of_set.name
        tfds.builder(f"sat_plain_photos/{name}", data_dir=directory).download_and_prepare(
            download_config=config
        )
    return str(directory)


def numbers(images):
    return np.rint(images.mean((1, 2)))[:, :2].astype(int)


def read(data_dir, split, name="sat_plain_photos/train_only", **arguments):
    batches = data.load(
        name, split, batch_size=16, image_size=8, data_dir=data_dir, **arguments
    ).as_numpy_iterator()
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def test_parts_of_a_single_split_are_disjoint_and_together_the_split(data_dir):
    info = data.describe("sat_plain_photos/train_only", data_dir)
    assert info.num_examples == {"train": 179, "validation": 19, "test": 22}
    assert info.class_names == ("even", "odd") and info.image_shape == (None, None, 3)
    seen = []
    for split in data.SPLITS:
        images, labels = read(data_dir, split)
        assert len(labels) == info.num_examples[split]
        np.testing.assert_array_equal(numbers(images)[:, 0] % 2, labels)
        seen += numbers(images)[:, 0].tolist()
    assert sorted(seen) == list(range(220))


def test_splits_of_the_set_are_taken_as_they_are(data_dir):
    name = "sat_plain_photos/three"
    assert data.describe(name, data_dir).num_examples == NUM_IMAGES
    for part, split in enumerate(NUM_IMAGES):
        images, _ = read(data_dir, split, name)
        assert (numbers(images)[:, 1] == part).all()
    cut = data.describe(name, data_dir, validation_examples=40)
    assert cut.num_examples == {"train": 180, "validation": 40, "test": 20}


def test_a_set_without_a_training_split_has_a_test_alone(data_dir):
    name = "sat_plain_photos/test_only"
    info = data.describe(name, data_dir)
    assert info.num_examples == {"train": 0, "validation": 0, "test": 20}
    images, labels = read(data_dir, "test", name)
    assert sorted(numbers(images).tolist()) == [[number, 2] for number in range(20)]
    np.testing.assert_array_equal(numbers(images)[:, 0] % 2, labels)
    with pytest.raises(ValueError, match="test_only has no training images, it is there to"):
        info.steps_per_epoch(4)
    # As imagenet2012_corrupted, whose one split is "validation".
    parts = tfds_sets._parts("imagenet2012_corrupted/blur", {"validation": 50_000}, None)
    assert parts["test"] == ("validation", 0, 50_000)
    with pytest.raises(ValueError, match="no labelled split train, test or validation, only: more"):
        tfds_sets._parts("odd", {"more": 7}, None)


@pytest.mark.parametrize("augment", ["none", "inception"])
def test_the_stream_of_record_files_depends_on_seed_and_step_alone(data_dir, augment, monkeypatch):
    monkeypatch.setattr("sat_tf.data.records._CHUNK", 50)  # several chunks an epoch

    def stream(num_steps, **arguments):
        batches = data.load(
            "sat_plain_photos/train_only", "train", batch_size=16, image_size=8,
            data_dir=data_dir, training=True, augment=augment, **arguments,
        )  # fmt: skip
        return list(batches.take(num_steps).as_numpy_iterator())

    full = stream(25)
    for start_step in (7, 13):  # eleven steps an epoch
        tail = stream(25 - start_step, start_step=start_step)
        for (images, labels), (again, labels_again) in zip(full[start_step:], tail, strict=True):
            np.testing.assert_array_equal(images, again)
            np.testing.assert_array_equal(labels, labels_again)
    train = set(numbers(read(data_dir, "train")[0])[:, 0].tolist())
    epochs = [np.concatenate([images for images, _ in full[e : e + 11]]) for e in (0, 11)]
    first, second = (numbers(images)[:, 0].tolist() for images in epochs)
    for epoch in (first, second):
        assert len(set(epoch)) == len(epoch) == 176 and set(epoch) <= train
    assert first != second
    assert abs(np.corrcoef(first, range(176))[0, 1]) < 0.4
    assert any((a[0] != b[0]).any() for a, b in zip(full, stream(25, seed=1), strict=True))


def test_a_split_of_which_some_labels_are_known_is_kept(monkeypatch):
    labels = {"train": [0, 1], "validation": [-1, 2], "test": [-1, -1]}

    def reader(builder, split, start, stop):
        examples = [(b"", label) for label in labels[split][start:stop]]
        return types.SimpleNamespace(evaluation=lambda: examples)

    monkeypatch.setattr(tfds_sets, "Records", reader)
    sizes = dict.fromkeys(labels, 2)
    assert tfds_sets._labelled("pets", None, sizes) == {"train": 2, "validation": 2}


def test_the_labels_of_a_split_are_looked_for_in_its_first_eight_examples(monkeypatch):
    opened = []

    def reader(builder, split, start, stop):
        opened.append((split, start, stop))
        return types.SimpleNamespace(evaluation=lambda: [(b"", 0)])

    monkeypatch.setattr(tfds_sets, "Records", reader)
    sizes = {"train": 100, "validation": 5, "test": 7, "more": 9}
    assert tfds_sets._labelled("imagenet2012_subset", None, sizes) == sizes
    assert opened == [("train", 0, 8), ("validation", 0, 5)]  # its test split need not be there
    assert tfds_sets._labelled("pets", None, sizes) == sizes
    assert opened[2:] == [("train", 0, 8), ("validation", 0, 5), ("test", 0, 7)]


@pytest.mark.parametrize(
    "shape, more, lanes",
    [((64, 64, 4), 0, False), ((64, 64, 4), 1, True), ((None, 64, 4), 0, True)],
)
def test_a_set_is_held_in_memory_up_to_a_gibibyte_of_its_largest_split(
    shape, more, lanes, monkeypatch
):
    sizes = {"test": 4, "train": 2**30 // (64 * 64 * 4) + more, "validation": 4}
    splits = {name: types.SimpleNamespace(num_examples=size) for name, size in sizes.items()}
    features = {
        "image": types.SimpleNamespace(shape=shape),
        "label": types.SimpleNamespace(names=["a", "b"]),
    }
    builder = types.SimpleNamespace(info=types.SimpleNamespace(splits=splits, features=features))
    monkeypatch.setattr(tfds_sets, "_prepared", lambda *_: builder)
    monkeypatch.setattr(tfds_sets, "_labelled", lambda name, builder, sizes: sizes)
    assert tfds_sets.Tfds("pets", None).has_lanes is lanes


def test_the_records_of_one_file_come_in_another_order_every_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_CHUNK", 100)
    path = tmp_path / "numbers.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(100):
            writer.write(str(number).encode())

    class Numbers(records.Records):
        def _files(self):
            takes = ([str(path)], tf.constant([0], tf.int64), tf.constant([100], tf.int64))
            return tf.data.Dataset.from_tensor_slices(takes)

        def _parse(self, record):
            return tf.strings.to_number(record), 0

    stream = Numbers(None, "train", 0, 100).training(info.Request(100, training=True, seed=3))
    found = [float(number) for _, number, _ in stream.take(300)]
    epochs = np.reshape(found, [3, 100])
    assert (np.sort(epochs) == np.arange(100)).all()
    likeness = np.abs(np.corrcoef([*epochs, np.arange(100)]) - np.eye(4))
    assert likeness.max() < 0.4  # four deviations


def test_every_place_of_the_stream_has_its_own_window_from_any_step_on(data_dir, monkeypatch):
    def shown(encoded, size, seed, channels, *more):
        return tf.fill([size, size, channels], tf.cast(seed[1], tf.float32))

    monkeypatch.setattr(crops, "training_image", shown)

    def seeds(num_steps, **arguments):
        batches = data.load(
            "sat_plain_photos/train_only", "train", batch_size=16, image_size=1,
            data_dir=data_dir, training=True, augment="inception", **arguments,
        )  # fmt: skip
        return [images.ravel() for images, _ in batches.take(num_steps).as_numpy_iterator()]

    full = np.stack([batch[::3] for batch in seeds(9)])
    assert len(np.unique(full)) == full.size
    np.testing.assert_array_equal([batch[::3] for batch in seeds(2, start_step=7)], full[7:])


def test_a_set_without_class_labels_is_refused(data_dir):
    with pytest.raises(ValueError, match="not an image classification set"):
        data.describe("sat_plain_photos/unlabelled", data_dir)


def test_an_unknown_name_is_refused_with_what_is_possible_and_what_is_close():
    with pytest.raises(ValueError, match=r"digits, folder:.*cifar10, cifar100.*close to it: cifar"):
        data.describe("cifra10")


def test_a_set_that_is_not_there_is_refused_with_where_it_was_sought_and_how_to_mend_it(tmp_path):
    with pytest.raises(
        ValueError, match="TFDS_DATA_DIR.*sat_tf.train .*=cifar10 --download"
    ) as error:
        data.describe("cifar10", str(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).endswith("fetch it")


@pytest.mark.parametrize("name", ["cifar10_corrupted", "imagenet2012_corrupted/fog_3"])
def test_corrupted_images_that_are_not_there_can_be_computed(name, tmp_path):
    own = name.partition("_")[0]
    with pytest.raises(ValueError, match=f"--corruptions=all computes .* of --dataset={own}$"):
        data.describe(name, str(tmp_path))


def test_a_set_that_cannot_be_downloaded_says_why(tmp_path):
    with pytest.raises(ValueError, match="cannot download imagenet2012.*Manual directory") as error:
        data.download("imagenet2012", str(tmp_path))  # TFDS wants the archives put there by hand
    assert "\n" not in str(error.value)


def test_a_download_without_a_network_ends_in_one_line_and_in_no_pages_of_retries(
    tmp_path, monkeypatch, caplog
):
    def away(builder):
        for left in range(40):
            logging.getLogger("urllib3.connectionpool").warning("Retrying, %d left", left)
        raise ConnectionError("HTTPSConnectionPool:\n name not known")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", away)
    with pytest.raises(ValueError, match="cannot download mnist .*name not known") as error:
        data.download("mnist", str(tmp_path))
    assert "\n" not in str(error.value) and "Retrying" not in caplog.text
    logging.getLogger("urllib3.connectionpool").warning("heard again")
    assert "heard again" in caplog.text


def test_there_is_nothing_to_download_for_digits_and_folders(tmp_path):
    data.download("digits")
    data.download(f"folder:{tmp_path}")


def test_imagenet_is_tested_on_its_validation_split():
    sizes = {"train": 1_281_167, "validation": 50_000, "test": 100_000}
    assert tfds_sets._parts("imagenet2012", sizes, None) == {
        "train": ("train", 0, 1_271_167),
        "validation": ("train", 1_271_167, 1_281_167),
        "test": ("validation", 0, 50_000),
    }


@pytest.fixture(scope="module")
def cifar10():
    shared = pathlib.Path(__file__).parents[1] / "../shared/data/tfds"
    directory = os.environ.get("TFDS_DATA_DIR", str(shared))
    if not (pathlib.Path(directory) / "cifar10").is_dir():
        pytest.skip(f"no CIFAR-10 in {directory}; set TFDS_DATA_DIR")
    return directory


def test_cifar10_is_what_tfds_itself_reads(cifar10):
    info = data.describe("cifar10", cifar10)
    assert info.num_examples == {"train": 49_000, "validation": 1_000, "test": 10_000}
    assert info.class_names[:3] == ("airplane", "automobile", "bird")
    for split, theirs in (("test", "test"), ("validation", "train[49000:]")):
        images, labels = zip(
            *data.load("cifar10", split, batch_size=300, data_dir=cifar10).as_numpy_iterator(),
            strict=True,
        )
        truth = tfds.load("cifar10", split=theirs, data_dir=cifar10, download=False, batch_size=-1)
        np.testing.assert_array_equal(np.concatenate(images), truth["image"].numpy())
        np.testing.assert_array_equal(np.concatenate(labels), truth["label"].numpy())


def test_cifar10_is_decoded_once_for_all_its_parts(cifar10):
    for split in ("train", "validation"):
        data.load("cifar10", split, batch_size=10, data_dir=cifar10)
    before = tfds_sets._arrays.cache_info().misses
    data.load("cifar10", "train", batch_size=10, data_dir=cifar10, training=True)
    assert tfds_sets._arrays.cache_info().misses == before


def test_a_set_is_augmented_as_its_kind_unless_told(data_dir):
    def first(**options):
        batches = data.load(
            "sat_plain_photos/three", "train", batch_size=4, image_size=8, training=True,
            data_dir=data_dir, **options,
        )  # fmt: skip
        return next(iter(batches))[0]

    np.testing.assert_array_equal(first(), first(augment="inception"))
    source = tfds_sets.Tfds("sat_plain_photos/three", data_dir, None)
    kinds = {}
    for name in ("mnist", "svhn_cropped", "emnist", "cifar10", "imagenet2012"):
        shape = (None, None, 3) if name == "imagenet2012" else (28, 28, 3)
        source.info = data.Info(name, ("a", "b"), shape, {})
        source._builder = types.SimpleNamespace(name=name)
        kinds[name] = source.default_augment
    assert kinds == {
        "mnist": "crop", "svhn_cropped": "crop", "emnist": "crop", "cifar10": "crop_flip",
        "imagenet2012": "inception",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["mnist:99.9.9", "huggingface:foo", "mnist/nothing", "a:b:c", "/"])
def test_a_name_that_tfds_cannot_read_is_refused_in_one_line(name, tmp_path):
    with pytest.raises(ValueError, match="data set") as refusal:
        data.describe(name, str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_a_split_whose_labels_were_never_published_is_not_tested_on(data_dir):
    name = "sat_plain_photos/unpublished_test"
    assert data.describe(name, data_dir).num_examples == {
        "train": 220 - 22, "validation": 22, "test": NUM_IMAGES["validation"],
    }  # fmt: skip
    _, labels = read(data_dir, "test", name)
    assert sorted(set(labels.tolist())) == [0, 1] and len(labels) == NUM_IMAGES["validation"]
    with pytest.raises(ValueError, match="split 'train' have no labels"):
        data.describe("sat_plain_photos/unpublished_train", data_dir)
