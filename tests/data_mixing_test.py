"""Laws of MixUp and CutMix: what becomes of pixels and labels, and what their numbers depend on."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from sat_tf import data
from sat_tf.data import info, mixing

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (8, 12, 10, 3)).astype(np.float32)
LABELS = np.arange(8, dtype=np.int32)
OTHERS = [1, 0, 3, 2, 5, 4, 7, 6]


def batches(steps, mixup=0.0, cutmix=0.0, images=IMAGES, labels=LABELS, **options):
    request = info.Request(8, training=True, **options)
    own = slice(request.own.start, request.own.stop)
    stream = tf.data.Dataset.from_tensors((images[own], labels[own])).repeat()
    stream = mixing.mixed(stream, request, 8, mixup, cutmix)
    found = list(stream.take(steps).as_numpy_iterator())
    return tuple(map(np.stack, zip(*found, strict=True)))


def shares(labels):
    """Returns the share of its own image that the labels of each batch say, and checks them."""
    found = np.diagonal(labels, axis1=1, axis2=2)
    assert np.ptp(found, axis=1).max() == 0
    share = found[:, 0].astype(np.float64)
    expected = share[:, None, None] * np.eye(8) + (1 - share)[:, None, None] * np.eye(8)[OTHERS]
    np.testing.assert_allclose(labels, expected, atol=1e-6)
    return share


def test_mixup_mixes_pixels_and_labels_by_one_number_of_a_beta_distribution():
    images, labels = batches(400, mixup=0.4)
    share = shares(labels)
    expected = [s * IMAGES + (1 - s) * IMAGES[OTHERS] for s in share[:20]]
    np.testing.assert_allclose(images[:20], expected, atol=1e-3)
    assert images.dtype == labels.dtype == np.float32 and images.min() >= 0 and images.max() <= 255
    assert scipy.stats.kstest(share, scipy.stats.beta(0.4, 0.4).cdf).pvalue > 1e-4
    white, _ = batches(100, mixup=0.4, images=np.full_like(IMAGES, 255))
    assert (white == 255).all()  # what both are, the mixture is


def test_cutmix_cuts_a_box_out_of_the_neighbour_and_counts_its_pixels():
    images, labels = batches(300, cutmix=1.0)
    share = shares(labels)
    np.testing.assert_allclose(share * 120, np.rint(share * 120), atol=1e-4)
    from_other = (images == IMAGES[OTHERS]).all(-1)
    assert ((images == IMAGES).all(-1) != from_other).all()
    assert (from_other == from_other[:, :1]).all()  # the same place in the whole batch
    np.testing.assert_allclose(from_other[:, 0].mean((1, 2)), 1 - share, atol=1e-6)
    sizes = []
    for box in from_other[:, 0]:
        rows, columns = np.nonzero(box)
        if len(rows):
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert height * width == len(rows)
            inside = rows.min() > 0 and columns.min() > 0 and rows.max() < 11 and columns.max() < 9
            sizes.append((height / 12 - width / 10, inside))
    # Sides in the image's proportions, but for the border and rounding.
    assert max(abs(off) for off, inside in sizes if inside) < 0.2
    covered = from_other[:, 0].mean(0)
    assert covered.min() > 0.1 and covered[5:7, 4:6].min() > covered[0, 0]


def test_the_box_has_the_area_that_the_beta_distribution_says():
    images, _ = batches(200, cutmix=100.0)  # about half of the image
    from_other = (images == IMAGES[OTHERS]).all(-1)[:, 0]
    heights = from_other.any(2).sum(1)
    assert heights.max() == pytest.approx(12 * np.sqrt(0.5), abs=1.5)
    assert (heights >= 8).any() and (heights < 8).any()  # those at the border are cut off


def test_with_both_each_batch_takes_one_or_the_other():
    images, labels = batches(200, mixup=100.0, cutmix=1.0)
    share = shares(labels)
    cut = np.isin(images, IMAGES).mean((1, 2, 3, 4)) > 0.99
    assert abs(cut.sum() - 100) < 5 * np.sqrt(50)
    # Each has its own alpha: the shares of MixUp are near a half here, those of CutMix anywhere.
    assert np.abs(share[~cut] - 0.5).max() < 0.25 and (share[cut] > 0.9).any()


@pytest.mark.parametrize("alphas", [{"mixup": 0.2}, {"mixup": 1.0, "cutmix": 1.0}])
def test_numbers_depend_on_seed_and_step_alone_whatever_the_workers(alphas):
    images, labels = batches(6, **alphas)
    for found, whole in zip(batches(2, start_step=4, **alphas), (images, labels), strict=True):
        np.testing.assert_array_equal(found, whole[4:])
    for count in (2, 4):
        parts = [batches(6, shard=data.Shard(k, count), **alphas) for k in range(count)]
        for kind, whole in enumerate((images, labels)):
            together = np.concatenate([part[kind] for part in parts], 1)
            np.testing.assert_array_equal(together, whole)
    assert (batches(6, seed=1, **alphas)[1] != labels).any((1, 2)).all()


def test_soft_labels_are_mixed_likewise():
    rows = RNG.dirichlet([1.0] * 8, 8).astype(np.float32)
    _, labels = batches(3, mixup=1.0)
    _, soft = batches(3, mixup=1.0, labels=rows)
    expected = [s * rows + (1 - s) * rows[OTHERS] for s in shares(labels)]
    np.testing.assert_allclose(soft, expected, atol=1e-6)
    np.testing.assert_allclose(soft.sum(-1), 1, atol=1e-5)


def test_a_training_stream_is_mixed_and_an_evaluation_is_not():
    def load(split, training, **options):
        return data.load("digits", split, batch_size=16, training=training, **options)

    stream = load("train", True, mixup=0.3)
    assert stream.element_spec[1] == tf.TensorSpec([16, 10], tf.float32)
    images, labels = next(iter(stream))
    plain, classes = next(iter(load("train", True)))
    share = np.max(labels[0]) if classes[0] != classes[1] else None
    assert share is not None and np.abs(images - plain).max() > 0
    assert load("test", False, mixup=0.3).element_spec[1].dtype == tf.int32


@pytest.mark.parametrize("options, said", [
    ({"mixup": -0.1}, "--mixup=-0.1; give the alpha"),
    ({"cutmix": float("nan")}, "--cutmix=nan"),
    ({"mixup": 1.0, "batch_size": 15}, "batch of 15 on 1 workers .* multiple of 2$"),
    ({"cutmix": 1.0, "batch_size": 12, "shard": data.Shard(0, 4)}, "multiple of 8$"),
])  # fmt: skip
def test_what_cannot_be_mixed_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        data.load("digits", "train", training=True, **{"batch_size": 16} | options)


def test_what_is_mixed_was_distorted_before():
    options = {"batch_size": 16, "training": True, "seed": 4, "augment": "none+color_jitter"}
    plain, classes = (x.numpy() for x in next(iter(data.load("digits", "train", **options))))
    images, labels = next(iter(data.load("digits", "train", **options, mixup=1.0)))
    others = np.arange(16) ^ 1
    unlike = np.flatnonzero(classes != classes[others])[0]
    share = labels.numpy()[unlike, classes[unlike]]
    assert 0.01 < share < 0.99
    np.testing.assert_allclose(images, share * plain + (1 - share) * plain[others], atol=1e-2)
