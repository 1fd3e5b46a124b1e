"""Laws of the data streams: what a run sees depends on its seed and its step, on nothing else."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn import datasets

from sat_tf import data, distribution
from sat_tf.data import augment, order


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
    batches = order.batches(1295, batch_size, seed=5, start_step=0).take(3 * steps)
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


@pytest.mark.parametrize("name", ["crop", "crop_flip"])
def test_augmentation_gives_windows_of_the_padded_image_all_equally_often(name):
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, [4000, 16, 8, 3], np.uint8)
    result = augment.augment_batch(tf.constant(images), name, augment.seed_of(0, 7)).numpy()
    padded = np.pad(images, [(0, 0), (2, 2), (1, 1), (0, 0)])
    counts = np.zeros([5, 3, 2])
    for top in range(5):
        for left in range(3):
            window = padded[:, top : top + 16, left : left + 8]
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
