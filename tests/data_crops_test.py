"""Laws of decoding, cropping and resizing; Pillow and float64 NumPy are the oracles."""

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from export import signatures
from sat_tf.data import crops, memory
from sat_tf.data import encoded as encoded_sets
from sat_tf.data.info import Info, Request
from sat_tf.evaluation.stream import Stream

SAMPLE = pathlib.Path(__file__).parents[1] / "../shared/data/imagenet_sample/images"


def pictures():
    """A landscape, a portrait and a grey picture of the sample, or pictures of our own."""
    files = sorted(SAMPLE.glob("*.JPEG"))
    if not files:
        pytest.skip(f"no ImageNet sample in {SAMPLE}")
    bytes_of = [file.read_bytes() for file in files]
    opened = [Image.open(io.BytesIO(encoded)) for encoded in bytes_of]
    grey = next(i for i, picture in enumerate(opened) if picture.mode == "L")
    tall = next(i for i, picture in enumerate(opened) if picture.height > picture.width)
    return [bytes_of[i] for i in sorted({0, 1, grey, tall})]


def noise(height=37, width=50, kind="PNG", channels=3):
    """Encodes a picture of noise."""
    values = np.random.default_rng(0).integers(0, 256, [height, width, channels], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values.squeeze()).save(buffer, kind)
    return buffer.getvalue()


def pillow(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def cubic_matrix(old, new, half_pixel):
    """Weights [new, old] of the bicubic kernel with a = -0.75, the border repeated."""
    result = np.zeros([new, old])
    for place in range(new):
        x = (place + 0.5) * old / new - 0.5 if half_pixel else place * old / new
        for tap in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            d = abs(x - tap)
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            result[place, min(max(tap, 0), old - 1)] += near if d <= 1 else far
    return result


def resized(image, height, width, half_pixel):
    rows = cubic_matrix(image.shape[0], height, half_pixel)
    columns = cubic_matrix(image.shape[1], width, half_pixel)
    return np.einsum("ah,hwc,bw->abc", rows, image.astype(np.float64), columns, optimize=True)


def center_crop(image, size):
    """The central square of fraction size / (size + 32), in float64."""
    side = min(image.shape[:2]) * size // (size + 32)
    top, left = ((length - side + 1) // 2 for length in image.shape[:2])
    return resized(image[top : top + side, left : left + side], size, size, half_pixel=False)


def shorter_side(image, size):
    """The shorter side to size + 32, then the central square, in float64 and not rounded."""
    height, width = image.shape[:2]
    scale = (size + 32) / min(height, width)
    image = resized(image, int(scale * height + 0.5), int(scale * width + 0.5), half_pixel=True)
    top, left = ((length - size) // 2 for length in image.shape[:2])
    return image[top : top + size, left : left + size]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_decoding_gives_the_pixels_of_pillow(kind, channels):
    encoded = noise(kind=kind, channels=channels)
    np.testing.assert_array_equal(crops.decode(tf.constant(encoded)).numpy(), pillow(encoded))


def test_photographs_decode_to_the_pixels_of_pillow():
    for encoded in pictures():
        np.testing.assert_array_equal(crops.decode(tf.constant(encoded)).numpy(), pillow(encoded))


@pytest.mark.parametrize(("height", "width"), [(37, 50), (51, 36), (300, 301), (2, 90), (61, 1)])
def test_evaluation_crops_of_noise_equal_the_float64_oracles(height, width):
    encoded = noise(height, width)
    check_evaluation_crops(encoded, 32)


def test_evaluation_crops_of_photographs_equal_the_float64_oracles():
    for encoded in pictures():
        check_evaluation_crops(encoded, 224)


def check_evaluation_crops(encoded, size):
    image = pillow(encoded)
    result = crops.evaluation_image(tf.constant(encoded), size, "center_crop", 3).numpy()
    # TensorFlow's legacy kernel reads its weights from a table of 1,024 steps.
    np.testing.assert_allclose(result, np.clip(center_crop(image, size), 0, 255), atol=0.75)
    assert np.abs(result - np.clip(center_crop(image, size), 0, 255)).mean() < 0.05
    result = crops.evaluation_image(tf.constant(encoded), size, "shorter_side", 3).numpy()
    np.testing.assert_allclose(result, np.clip(shorter_side(image, size), 0, 255), atol=0.501)
    np.testing.assert_array_equal(result, np.round(result))


def test_a_long_picture_costs_what_its_middle_does():
    encoded = tf.constant(noise(3001, 1))
    whole = pillow(encoded.numpy())
    buffer = io.BytesIO()
    Image.fromarray(whole[1450:1551]).save(buffer, "PNG")
    resized_whole, resized_middle = (
        crops.evaluation_image(one, 224, "shorter_side", 3).numpy()
        for one in (encoded, tf.constant(buffer.getvalue()))
    )
    # Where a value lies halfway, the last bit of a place decides how it is rounded.
    np.testing.assert_allclose(resized_whole, resized_middle, atol=1)
    assert (resized_whole != resized_middle).mean() < 0.01


@pytest.mark.parametrize("resize", [*crops.RESIZES, "a training window"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1)])
def test_a_picture_of_one_row_or_column_is_resized(height, width, resize):
    encoded = tf.constant(noise(height, width))
    if resize in crops.RESIZES:
        image = crops.evaluation_image(encoded, 32, resize, 3)
    else:
        image = crops.training_image(encoded, 32, tf.constant([0, 1]), 3)
    assert image.shape == (32, 32, 3)
    assert 0 <= tf.reduce_min(image) and tf.reduce_max(image) <= 255


def claiming(height, width):
    """An 8-bit RGB PNG whose header claims a size and whose data are missing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_a_header_that_claims_too_much_is_refused_before_decoding():
    jpeg = noise(20, 30, "JPEG")
    # The frame header: length, precision, then height and width.
    start = jpeg.index(b"\xff\xc0") + 5
    vast = jpeg[:start] + struct.pack(">HH", 50_000, 40_000) + jpeg[start + 4 :]
    for encoded in (claiming(20_000, 20_000), claiming(2**31 - 1, 2**31 - 1), vast):
        for decoded in (
            lambda one: crops.decode(one),
            lambda one: crops.training_image(one, 32, tf.constant([0, 1]), 3),
            tf.function(lambda one: crops.evaluation_image(one, 224, "shorter_side", 3)),
        ):
            with pytest.raises(tf.errors.InvalidArgumentError, match="max_pixels=16777216"):
                decoded(tf.constant(encoded))
    for encoded in (noise(20, 30), jpeg):
        assert crops.decode(tf.constant(encoded), 3, 600).shape == (20, 30, 3)
        with pytest.raises(tf.errors.InvalidArgumentError, match="max_pixels=599"):
            crops.decode(tf.constant(encoded), 3, 599)


def test_no_stream_decodes_what_claims_more_than_was_asked_for():
    example = tf.constant(noise(10, 12)), tf.constant(1)
    examples = tf.data.Dataset.from_tensors(example)
    placed = tf.data.Dataset.from_tensors((tf.constant(0, tf.int64), *example))
    varied = Info("varied", ("a", "b"), (None, None, 3), {})
    request = Request(1, image_size=8, max_pixels=119)
    for stream in (
        encoded_sets.evaluation(examples, varied, request),
        encoded_sets.training(placed, varied, "none", request),
        encoded_sets.training(placed, varied, "inception", request),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="at most max_pixels=119"):
            next(iter(stream))


def test_whole_leaves_an_image_of_the_wanted_size_as_it_is():
    encoded = noise(32, 32)
    result = crops.evaluation_image(tf.constant(encoded), 32, "whole", 3).numpy()
    np.testing.assert_array_equal(result, pillow(encoded))


def test_random_windows_keep_area_aspect_and_border_and_reach_their_limits():
    height, width = 300, 400
    window = tf.function(lambda seed: crops.random_window([height, width, 3], seed))
    windows = np.array([window(tf.constant([1, number])) for number in range(1000)])
    top, left, rows, columns = windows.T
    assert (windows[:, :2] >= 0).all()
    assert (top + rows <= height).all() and (left + columns <= width).all()
    area, aspect = rows * columns / (height * width), columns / rows
    assert 0.078 < area.min() < 0.1 and 0.9 < area.max() <= 1
    # Rounding to whole pixels moves the ratio of an 85 pixel side by about 1 %.
    assert 0.74 < aspect.min() < 0.78 and 1.3 < aspect.max() < 1.35


def test_a_training_image_is_its_window_resized_and_half_of_them_are_mirrored():
    encoded = noise(40, 60)
    image = pillow(encoded)
    mirrored = 0
    for number in range(60):
        seed = tf.constant([7, number])
        window_seed = tf.random.experimental.stateless_split(seed, 2)[0]
        top, left, rows, columns = crops.random_window([40, 60, 3], window_seed).numpy()
        expected = resized(image[top : top + rows, left : left + columns], 16, 16, False)
        expected = np.clip(expected, 0, 255)
        result = crops.training_image(tf.constant(encoded), 16, seed, 3).numpy()
        flipped = np.abs(result - expected).max() > 2
        mirrored += flipped
        np.testing.assert_allclose(result, expected[:, ::-1] if flipped else expected, atol=1.0)
    assert 15 < mirrored < 45


def test_a_jpeg_window_is_the_window_of_the_decoded_image():
    for encoded in pictures():
        image, seed = pillow(encoded), tf.constant([3, 4])
        window_seed = tf.random.experimental.stateless_split(seed, 2)[0]
        top, left, rows, columns = crops.random_window(image.shape, window_seed).numpy()
        expected = resized(image[top : top + rows, left : left + columns], 224, 224, False)
        expected = np.clip(expected, 0, 255)
        result = crops.training_image(tf.constant(encoded), 224, seed, 3).numpy()
        gaps = [np.abs(result[:, ::way] - expected).mean() for way in (1, -1)]
        assert min(gaps) < 0.1 < max(gaps)


def test_an_unknown_resize_is_refused_with_the_list():
    with pytest.raises(ValueError, match="center_crop, shorter_side, whole"):
        crops.evaluation_image(tf.constant(noise()), 32, "squash", 3)


def served(resize):
    return lambda encoded, image, size: signatures.decode(encoded, (size, size, 3), resize)


def evaluated(resize):
    return lambda encoded, image, size: crops.evaluation_image(encoded, size, resize, 3)


PATHS = {
    "in memory": lambda encoded, image, size: memory.to_pixels(image[None], size)[0],
    "training": lambda encoded, image, size: crops.training_image(encoded, size, [size, 1], 3),
    **{name: evaluated(name) for name in crops.RESIZES},
    **{f"served {name}": served(name) for name in signatures.RESIZES},
}


@pytest.mark.parametrize("path", PATHS)
def test_white_stays_white_and_black_black_at_every_pair_of_sizes(path):
    resized = PATHS[path]
    for old in (11, 23, 32, 37, 50, 75):
        # A black corner, so that weights of either sign are at work.
        image = np.full([old, old + old % 3, 3], 255, np.uint8)
        image[: old // 3, : old // 3] = 0
        encoded = tf.io.encode_png(image)
        for new in (7, 20, 24, 28, 33, 48):
            result = np.asarray(resized(encoded, tf.constant(image), new))
            assert result.shape == (new, new, 3) and result.dtype == np.float32
            assert 0 <= result.min() and 255 - 1e-3 <= result.max() <= 255, (old, new)
            list(Stream((result[None], [0]), 1))  # what training saw, an evaluation takes


def test_what_is_out_of_range_by_the_last_bit_is_said_to_the_last_bit():
    white = np.full([1, 2, 2, 1], np.nextafter(np.float32(255), np.float32(256)))
    with pytest.raises(ValueError, match=r"from 255\.000015 to 255\.000015; expected pixels"):
        list(Stream((white, [0]), 1))
