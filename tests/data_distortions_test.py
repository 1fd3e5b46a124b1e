"""Laws of the distortions of single images: their formulas, and what their numbers depend on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import data
from sat_tf.data import augment, distortions, info, mixing

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(0, 255, (10, 12, 3)).astype(np.float32)
GREY = np.array([0.299, 0.587, 0.114])


def seeds(count):
    return tf.constant(np.stack([np.arange(count) * 7 + 1, np.arange(count)], 1), tf.int64)


def test_a_colour_jitter_scales_brightness_contrast_and_saturation_in_turn():
    jitter = distortions.color_jitter(brightness=0.1, contrast=0.3, saturation=0.9)
    for seed in seeds(5):
        drawn = tf.random.stateless_uniform([3], seed, -1, 1).numpy().astype(np.float64)
        bright, contrast, saturation = 1 + drawn * [0.1, 0.3, 0.9]
        x = IMAGE.astype(np.float64) * bright
        mean = (x @ GREY).mean()
        x = mean + contrast * (x - mean)
        grey = (x @ GREY)[..., None]
        expected = np.clip(grey + saturation * (x - grey), 0, 255)
        np.testing.assert_allclose(jitter(tf.constant(IMAGE), seed), expected, atol=1e-3)
    one = distortions.color_jitter(brightness=0, contrast=0, saturation=1)(IMAGE[..., :1], seed)
    np.testing.assert_allclose(one, IMAGE[..., :1], atol=1e-4)  # grey has no saturation


def test_lighting_adds_one_colour_along_the_axes_of_imagenets():
    # The covariance of the colours added, by AlexNet's numbers (blue last) and any other way.
    axes = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140],
                     [-0.5836, -0.6948, 0.4203]])  # fmt: skip
    widths = 255 * 0.01 * np.array([0.2175, 0.0188, 0.0045])
    light, middle = distortions.pca_lighting(deviation=0.01), np.full((2, 2, 3), 100, np.float32)
    added = np.stack([light(middle, seed) - middle for seed in seeds(600)])
    assert np.ptp(added, axis=(1, 2)).max() == 0
    found = added[:, 0, 0] @ axes / widths
    assert np.abs(found.mean(0)).max() < 5 / np.sqrt(600)
    assert np.abs(np.cov(found.T) - np.eye(3)).max() < 8 / np.sqrt(600)


def test_an_erased_part_is_a_rectangle_of_the_area_and_aspect_asked_for_and_random():
    unseen = tf.fill([40, 30, 3], -1.0)
    erase = tf.function(distortions.random_erasing(
        probability=0.75, min_area=0.1, max_area=0.2, min_aspect=0.5))  # fmt: skip
    found, pixels, corners, upright = 0, [], [], []
    for seed in seeds(400):
        image = erase(unseen, seed).numpy()
        rows, columns, _ = np.nonzero(image >= 0)
        if not len(rows):
            continue
        found += 1
        top, left, height, width = rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1
        assert (image[top : top + height, left : left + width] >= 0).all()
        assert (image >= 0).sum() == 3 * height * width
        # Sides are rounded.
        assert (height - 0.5) * (width - 0.5) <= 0.2 * 1200
        assert (height + 0.5) * (width + 0.5) >= 0.1 * 1200
        assert (height + 0.5) / (width - 0.5) >= 0.5 and (height - 0.5) / (width + 0.5) <= 2
        pixels.append(image[image >= 0])
        corners.append([top / 40, left / 30])
        upright.append((np.sign(height - width) + 1) / 2)
    assert abs(found - 300) < 5 * np.sqrt(400 * 0.75 * 0.25)
    # Height over width is uniform from 1/2 to 2, so above 1 twice in three.
    assert abs(np.mean(upright) - 2 / 3) < 5 * np.sqrt(2 / 9 / found)
    pixels, corners = np.concatenate(pixels), np.array(corners)
    assert (pixels == np.rint(pixels)).all() and (pixels.min(), pixels.max()) == (0, 255)
    assert abs(pixels.mean() - 127.5) < 1 and abs(pixels.std() - 256 / np.sqrt(12)) < 1
    assert corners.min() < 0.02 and np.ptp(corners, axis=0).min() > 0.5


def test_rand_augment_is_that_of_keras_with_its_state_at_the_seed():
    ours = tf.function(distortions.rand_augment(num_ops=2, factor=0.3))
    theirs = keras.layers.RandAugment((0, 255), 2, 0.3)
    results = []
    for seed in seeds(6):
        theirs.generator.state.assign(seed)
        expected = np.clip(theirs(IMAGE, training=True), 0, 255)
        results.append(ours(tf.constant(IMAGE), seed).numpy())
        np.testing.assert_allclose(results[-1], expected, atol=1e-2)
    assert len({image.tobytes() for image in results}) == 6


def batches(spec, seed=0, start_step=0, shard=data.WHOLE, steps=4):
    request = info.Request(8, training=True, seed=seed, start_step=start_step, shard=shard)
    _, made = augment.parse(spec, 3)
    images = np.repeat(IMAGE[None, :6, :6], len(request.own), 0)
    stream = tf.data.Dataset.from_tensors((images, tf.range(len(request.own)))).repeat()
    stream = augment.distorted(stream, made, request)
    return np.stack([images for images, _ in stream.take(steps).as_numpy_iterator()])


def test_numbers_depend_on_seed_step_and_place_and_on_nothing_else():
    spec = "none+color_jitter+random_erasing:probability=1+pca_lighting"
    whole = batches(spec)
    assert whole.dtype == np.float32 and whole.min() >= 0 and whole.max() <= 255
    assert len({image.tobytes() for image in whole.reshape(32, -1)}) == 32
    np.testing.assert_array_equal(batches(spec, start_step=3, steps=1), whole[3:])
    for count in (2, 4):
        parts = [batches(spec, shard=data.Shard(k, count), steps=2) for k in range(count)]
        np.testing.assert_array_equal(np.concatenate(parts, 1), whole[:2])
    assert (batches(spec, seed=1, steps=1) != whole[:1]).any((2, 3, 4)).all()


def test_the_same_distortion_twice_draws_other_numbers():
    light = distortions.pca_lighting(deviation=0.01)
    once, twice = (batches("none" + n * "+pca_lighting:deviation=0.01") for n in (1, 2))
    assert np.abs((twice - once) - (once - IMAGE[:6, :6])).max(axis=(2, 3, 4)).min() > 1e-3
    assert np.abs(light(IMAGE, seeds(1)[0]) - IMAGE).max() > 0


def test_a_stream_distorts_what_it_has_cropped_and_nothing_that_is_evaluated():
    def first(spec, split="train", training=True):
        options = {"batch_size": 16, "training": training, "augment": spec}
        return next(iter(data.load("digits", split, **options)))[0].numpy()

    plain, erased = first("crop"), first("crop+random_erasing:probability=1")
    share = (plain != erased).mean(axis=(1, 2, 3))
    assert share.min() > 0 and share.max() <= 0.5
    some = first("crop+random_erasing", "test", False)
    np.testing.assert_array_equal(some, first("none", "test", False))


@pytest.mark.parametrize("spec, said", [
    ("crop+blur", "color_jitter, pca_lighting, random_erasing, rand_augment$"),
    ("color_jitter", "augment is 'color_jitter'; use one of: none, crop, crop_flip"),
    ("none+color_jitter:hue=1", "one of: brightness, contrast, saturation"),
    ("none+color_jitter:contrast=1.5", "contrast=1.5 of color_jitter; give a number from 0 to 1"),
    ("none+color_jitter:contrast=nan", "give a number from 0 to 1"),
    ("none+color_jitter:contrast=true", "give a number from 0 to 1"),
    ("none+random_erasing:min_area=0.5", "min_area=0.5 of random_erasing is above max_area=0.4"),
    ("none+random_erasing:min_aspect=0", "from 0.01 to 1"),
    ("none+pca_lighting", "pca_lighting is of colours, and the images have 1 channel"),
    ("none+rand_augment", "rand_augment is of colours"),
    ("none+", "augmentation after \\+ is ''"),
])  # fmt: skip
def test_what_is_no_augmentation_is_refused_with_what_is_one(spec, said):
    with pytest.raises(ValueError, match=said):
        data.load("digits", "train", batch_size=8, training=True, augment=spec)
    with pytest.raises(ValueError, match="num_ops=1.5 of rand_augment; give a whole number"):
        augment.parse("none+rand_augment:num_ops=1.5", 3)


def test_crops_distortions_and_mixtures_of_one_place_have_numbers_of_their_own():
    streams = (augment._AUGMENT_STREAM, augment._DISTORTION_STREAM, mixing._STREAM)
    seeds = {tuple(augment.seed_of(3, tf.constant(5), one).numpy()) for one in streams}
    assert len(seeds) == len(streams)
