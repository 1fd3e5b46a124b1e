"""Laws of the data streams: what a run sees depends on its seed and its step, on nothing else."""

import importlib.util
import math
import sys

import numpy as np
import pytest
import tensorflow as tf
from sklearn import datasets

from sat_tf import data
from sat_tf.data import augment, digits, encoded, info, memory, order
from sat_tf.runs import distribution


def stream(num_steps, **arguments):
    """Reads the first steps of a training stream: images [S, N, H, W, C] and labels [S, N]."""
    batches = data.load("digits", "train", **{"batch_size": 64, "training": True, **arguments})
    images, labels = zip(*batches.take(num_steps).as_numpy_iterator(), strict=True)
    return np.stack(images), np.stack(labels)


def everything(split, **arguments):
    """Reads a part of digits to its end."""
    batches = data.load("digits", split, **{"batch_size": 50, **arguments}).as_numpy_iterator()
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def sorted_rows(images):
    rows = images.reshape(len(images), -1)
    return rows[np.lexsort(rows.T)]


def test_digits_parts_are_disjoint_and_together_the_set_of_scikit_learn():
    parts = [everything(split) for split in data.SPLITS]
    truth = datasets.load_digits()
    assert [len(labels) for _, labels in parts] == [1295, 143, 359]
    together = np.concatenate([images for images, _ in parts])[..., 0]
    np.testing.assert_array_equal(
        sorted_rows(together), sorted_rows(np.rint(truth.images * 255 / 16))
    )
    counts = np.bincount(np.concatenate([labels for _, labels in parts]))
    np.testing.assert_array_equal(counts, np.bincount(truth.target))


def test_digits_span_the_pixel_range_in_float32_with_int32_labels():
    images, labels = everything("train")
    assert (images.min(), images.max()) == (0, 255)
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)


def test_evaluation_counts_every_image_in_the_same_order_at_any_batch_size():
    images, labels = everything("test", batch_size=100)
    again, labels_again = everything("test", batch_size=359)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert len(labels) == data.describe("digits").num_examples["test"]


@pytest.mark.parametrize("batch_size", [64, 259])  # the second divides 1,295
def test_every_epoch_holds_each_training_image_at_most_once_and_misses_only_the_remainder(
    batch_size,
):
    info = data.describe("digits")
    steps = info.steps_per_epoch(batch_size)
    batches = order.batches(1295, data.info.Request(batch_size, seed=5)).take(3 * steps)
    step, indices = zip(*batches.as_numpy_iterator(), strict=True)
    np.testing.assert_array_equal(step, np.arange(3 * steps))
    for epoch in np.reshape(indices, [3, -1]):
        assert len(np.unique(epoch)) == steps * batch_size
        assert epoch.min() >= 0 and epoch.max() < 1295


def test_epochs_and_seeds_are_uncorrelated_permutations():
    draws = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
    orders = [
        order.permutation(seed, tf.constant(e, tf.int64), 49_000).numpy() for seed, e in draws
    ]
    for values in orders:
        np.testing.assert_array_equal(np.sort(values), np.arange(49_000))
    correlations = np.corrcoef([*orders, np.arange(49_000)])
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 5 / np.sqrt(49_000)


def test_the_seed_alone_decides_the_stream():
    images, labels = stream(3, seed=1, augment="crop_flip")
    again, labels_again = stream(3, seed=1, augment="crop_flip")
    other, _ = stream(3, seed=2, augment="crop_flip")
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert (images != other).any()


@pytest.mark.parametrize("start_step", [1, 19, 20, 41])  # 20 steps an epoch
def test_a_stream_from_a_late_step_is_the_tail_of_the_full_stream(start_step):
    images, labels = stream(45, augment="crop_flip")
    tail, tail_labels = stream(45 - start_step, augment="crop_flip", start_step=start_step)
    np.testing.assert_array_equal(tail, images[start_step:])
    np.testing.assert_array_equal(tail_labels, labels[start_step:])


def test_a_start_after_a_million_epochs_is_immediate():
    images, _ = stream(1, start_step=20_000_000)
    assert images.shape == (1, 64, 8, 8, 1)


@pytest.mark.parametrize("width", [8, 16])  # of equal sides the draws could be, too
@pytest.mark.parametrize("name", ["crop", "crop_flip"])
def test_augmentation_gives_windows_of_the_padded_image_all_equally_often(name, width):
    rng, across = np.random.default_rng(0), width // 8
    images = rng.integers(1, 256, [4000, 16, width, 1], np.uint8)
    result = augment.augment_batch(tf.constant(images), name, augment.seed_of(0, 7)).numpy()
    padded = np.pad(images, [(0, 0), (2, 2), (across, across), (0, 0)])
    counts = np.zeros([5, 2 * across + 1, 2])
    for top in range(5):
        for left in range(2 * across + 1):
            window = padded[:, top : top + 16, left : left + width]
            counts[top, left, 0] = (result == window).all((1, 2, 3)).sum()
            counts[top, left, 1] = (result == window[:, :, ::-1]).all((1, 2, 3)).sum()
    if name == "crop":
        assert counts[..., 1].sum() == 0
        counts = counts[..., 0]
    assert counts.sum() == 4000
    expected = 4000 / counts.size
    assert np.square(counts - expected).sum() / expected < counts.size + 5 * np.sqrt(
        2 * counts.size
    )


def test_digits_are_not_augmented_unless_told():
    np.testing.assert_array_equal(stream(3)[0], stream(3, augment="none")[0])


def test_augment_none_leaves_the_images_as_they_are_stored():
    images, labels = stream(20, augment="none")
    stored, stored_labels = everything("train")
    known = {image.tobytes(): label for image, label in zip(stored, stored_labels, strict=True)}
    for image, label in zip(images.reshape(-1, 8, 8, 1), labels.ravel(), strict=True):
        assert known[image.tobytes()] == label


def test_another_image_size_stays_inside_the_pixel_range():
    images, _ = everything("test", image_size=20)
    assert images.shape == (359, 20, 20, 1)
    assert images.min() >= 0 and images.max() <= 255


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "train, validation, test"),
        ({"augment": "mixup"}, "none, crop, crop_flip"),
        ({"augment": "inception"}, "none, crop, crop_flip"),
        ({"eval_resize": "center_crop"}, "whole"),
        ({"batch_size": 2000}, "1295"),
        ({"batch_size": 0}, "1295"),
        ({"validation_examples": 1438}, "0 to 1437"),
        ({"split": "test", "training": True}, "'train'"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_possible(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        data.load(
            **{"name": "digits", "split": "train", "batch_size": 8, "training": True} | arguments
        )
    assert "\n" not in str(error.value)


def test_two_replicas_together_see_the_batch_of_one():
    strategy = distribution.strategy("mirrored")
    batches = data.load("digits", "train", batch_size=64, training=True, augment="crop_flip")
    images, labels = stream(5, augment="crop_flip")
    for step, (their_images, their_labels) in zip(
        range(5), strategy.experimental_distribute_dataset(batches), strict=False
    ):
        parts = strategy.experimental_local_results(their_images)
        assert [len(part) for part in parts] == [32, 32]
        np.testing.assert_array_equal(tf.concat(parts, 0), images[step])
        parts = strategy.experimental_local_results(their_labels)
        np.testing.assert_array_equal(tf.concat(parts, 0), labels[step])


def test_two_replicas_count_every_image_of_an_evaluation_part():
    strategy = distribution.strategy("mirrored")
    batches = data.load("digits", "test", batch_size=100)  # 3 full ones and 59
    seen = [
        part
        for labels in strategy.experimental_distribute_dataset(batches.map(lambda _, y: y))
        for part in strategy.experimental_local_results(labels)
    ]
    assert sum(len(part) for part in seen) == 359


def test_the_parts_of_digits_are_scikit_learns_images_in_its_order_each_with_its_own_label():
    truth = datasets.load_digits()
    pixels = np.rint(truth.images * 255 / 16)
    test = np.arange(1797) % 5 == 4
    images, labels = everything("test")
    np.testing.assert_array_equal(images[..., 0], pixels[test])
    np.testing.assert_array_equal(labels, truth.target[test])
    # The middles of 143 equal stretches of the rest are validation.
    rest = np.flatnonzero(~test)
    middles = np.floor((np.arange(143) + 0.5) * 1438 / 143).astype(int)
    for split, chosen in (("validation", rest[middles]), ("train", np.delete(rest, middles))):
        images, labels = everything(split)
        np.testing.assert_array_equal(images[..., 0], pixels[chosen])
        np.testing.assert_array_equal(labels, truth.target[chosen])
    names = data.describe("digits").class_names
    assert [names[label] for label in truth.target] == [str(label) for label in truth.target]


def test_digits_are_the_same_read_from_scikit_learns_file_and_by_scikit_learn(monkeypatch):
    of_file = digits._stored()
    loaded = []
    monkeypatch.setattr(datasets, "load_digits", lambda load=datasets.load_digits: (
        loaded.append(True) or load()))  # fmt: skip
    digits._stored()
    assert not loaded
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for ours, theirs in zip(of_file, digits._stored(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert loaded


def test_the_graphs_of_a_stream_are_made_by_our_own_lines(monkeypatch):
    callers = []

    def to_pixels(images, size, made=memory.to_pixels):
        callers.append(sys._getframe(1).f_code.co_filename)
        return made(images, size)

    monkeypatch.setattr(memory, "to_pixels", to_pixels)
    stream(1)
    everything("test")
    assert set(callers) == {memory.__file__}  # AutoGraph's would be a file that it has written


def test_a_training_stream_keeps_each_image_with_its_label_and_its_size():
    stored, stored_labels = everything("train", image_size=12)
    known = {image.tobytes(): label for image, label in zip(stored, stored_labels, strict=True)}
    images, labels = stream(20, image_size=12, augment="none")
    found = [known[image.tobytes()] for image in images.reshape(-1, 12, 12, 1)]
    np.testing.assert_array_equal(found, labels.ravel())


def test_the_size_asked_for_is_that_of_the_validation_part_and_taken_out_of_training():
    for arguments, num_train in ((100, 1338), (0, 1438), (1437, 1)):
        found = data.describe("digits", validation_examples=arguments).num_examples
        assert found == {"train": num_train, "validation": arguments, "test": 359}
    assert len(everything("validation", validation_examples=100)[1]) == 100
    # 2 % of the training split, 1,000 at least, a tenth or 10,000 at most.
    sizes = {1438: 143, 9_990: 999, 50_000: 1_000, 73_257: 1_465, 1_281_167: 10_000, 5: 0}
    assert {n: info.default_validation_examples(n) for n in sizes} == sizes


def test_an_even_cut_takes_the_same_share_of_every_class_and_nothing_twice():
    labels = np.repeat(np.arange(10), 50)
    for size in (10, 20, 50, 100):
        others, taken = info.cut_evenly(np.arange(500), size)
        np.testing.assert_array_equal(np.bincount(labels[taken]), size // 10)
        np.testing.assert_array_equal(np.sort([*others, *taken]), np.arange(500))
    assert len(info.cut_evenly(np.arange(500), 0)[1]) == 0
    # The middle of each of so many equal parts, for good: a run must find the parts it had.
    for count, size in ((500, 100), (7, 3), (1438, 143)):
        middles = [math.floor((one + 0.5) * count / size) for one in range(size)]
        assert info.cut_evenly(np.arange(count), size)[1].tolist() == middles


def test_windows_are_cut_and_mirrored_where_it_is_said():
    images = np.arange(2 * 16 * 24 * 3, dtype=np.float32).reshape(2, 16, 24, 3) + 1
    padded = np.pad(images, [(0, 0), (2, 2), (3, 3), (0, 0)])
    for top, left, flip in ((0, 6, False), (4, 1, True), (2, 3, False)):
        places = (tf.constant(pair) for pair in ([top, 2], [left, 3], [flip, True]))
        found = augment.windows(images, *places)
        window = padded[0, top : top + 16, left : left + 24]
        np.testing.assert_array_equal(found[0], window[:, ::-1] if flip else window)
        np.testing.assert_array_equal(found[1], images[1, :, ::-1])


def test_another_seed_augments_otherwise_whatever_the_order():
    # All images are one, so that the order changes nothing.
    pixels = np.random.default_rng(0).integers(1, 256, [1, 16, 16, 3], np.uint8)
    one = memory.Arrays.of(np.repeat(pixels, 40, 0), np.zeros(40))
    facts = data.Info("one", ("a",), (16, 16, 3), {"train": 40})
    png = tf.io.encode_png(pixels[0])

    def first(seed, name, held):
        request = info.Request(40, training=True, seed=seed)
        if held:
            batches = memory.training(one, np.arange(40), name, request)
        else:
            examples = tf.data.Dataset.range(40).map(lambda place: (place, png, 0))
            batches = encoded.training(examples, facts, name, request)
        return next(iter(batches))[0].numpy()

    for name, held in (("crop_flip", True), ("crop_flip", False), ("inception", False)):
        np.testing.assert_array_equal(first(3, name, held), first(3, name, held))
        assert (first(3, name, held) != first(4, name, held)).any()


@pytest.mark.parametrize("training", [True, False])
def test_every_argument_reaches_what_reads_the_set(training, monkeypatch):
    seen = []

    class Source:
        info = data.Info("pets", ("cat", "dog"), (4, 4, 3), {"train": 24, "test": 24})
        default_augment, has_lanes = "crop", True

        def load(self, split, request):
            seen.append((split, request))
            pixels = tf.zeros([len(request.own), 4, 4, 3])
            return tf.data.Dataset.from_tensors((pixels, tf.range(len(request.own)) % 2)).repeat(3)

    monkeypatch.setattr(data, "_source", lambda *given: seen.append(given) or Source())
    split = "train" if training else "test"
    given = {"batch_size": 8, "image_size": 4, "seed": 3, "start_step": 5, "eval_resize": "whole",
             "max_pixels": 99, "shard": data.Shard(1, 2), "lanes": 4}  # fmt: skip
    data.load("pets", split, training=training, data_dir="there", validation_examples=7,
              augment="crop_flip+color_jitter", **given)  # fmt: skip
    expected = info.Request(training=training, augment="crop_flip", **given)
    assert seen == [("pets", "there", 7, 99), (split, expected)]
    seen.clear()
    assert data.describe("pets", "there", 7, 99) is Source.info
    assert seen == [("pets", "there", 7, 99)]
