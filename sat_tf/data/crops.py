"""From encoded JPEG or PNG bytes to one float32 image of the wanted size, as ImageNet is read."""

import tensorflow as tf

from sat_tf import specs

RESIZES = ("center_crop", "shorter_side", "whole")

# Decoded, so many pixels take 50 MB; their header may be all that a file of 80 bytes holds.
MAX_PIXELS = 4096 * 4096

_PNG = b"\x89PNG\r\n\x1a\n"

# The margin of both reference pipelines: 224 is cut from the middle of 256.
_MARGIN = 32

# The reference pipelines' bicubic kernels (OpenCV, TensorFlow 1); Keys' own is -0.5.
_CUBIC = -0.75


def check_resize(name: str, supported: tuple[str, ...] = RESIZES) -> str:
    """Returns `name` if it is one of `supported`; else a ValueError lists them."""
    return specs.one_of("--eval_resize", name, supported)


def claimed_size(encoded: tf.Tensor) -> tf.Tensor:
    """Reads (height, width), int64 [2], out of the header of a JPEG or PNG without decoding it.

    Raises:
      tf.errors.InvalidArgumentError: neither a JPEG nor a PNG, whatever the file's name is. What
        else TensorFlow decodes (GIF, WebP) differs in rank from op to op and version to version.
    """

    def of_png():
        whole = tf.strings.length(encoded) >= 24  # to the end of the size
        known = whole & (tf.strings.substr(encoded, 0, len(_PNG)) == _PNG)
        check = tf.debugging.Assert(known, ["not a JPEG and not a PNG"])
        with tf.control_dependencies([check] if check is not None else []):
            octets = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.uint8)
        places = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
        width_height = tf.reduce_sum(tf.reshape(tf.cast(octets, tf.int64), [2, 4]) * places, 1)
        return width_height[::-1]

    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.int64),
        of_png,
    )


def refuse_larger(encoded: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Returns the encoded picture unless its header claims more than `max_pixels` pixels.

    Raises:
      tf.errors.InvalidArgumentError: it does, or it is no JPEG or PNG; nothing has been decoded.
    """
    size = claimed_size(encoded)
    few = tf.reduce_prod(size) <= max_pixels
    what = ["a picture claims height and width", size, f"of at most max_pixels={max_pixels}"]
    check = tf.debugging.Assert(few, what)
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(encoded)


def decode(encoded: tf.Tensor, channels: int = 3, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Decodes JPEG or PNG bytes to uint8 [H, W, channels]; grey becomes RGB for 3 channels.

    The accurate inverse transform gives what Pillow and OpenCV give; TensorFlow's default is the
    fast one.

    Raises:
      tf.errors.InvalidArgumentError: damaged, not a JPEG or PNG, or larger than `max_pixels`.
    """
    encoded = refuse_larger(encoded, max_pixels)
    return tf.io.decode_jpeg(encoded, channels, dct_method="INTEGER_ACCURATE")


def evaluation_image(
    encoded: tf.Tensor,
    image_size: int,
    resize: str,
    channels: int,
    max_pixels: int = MAX_PIXELS,
) -> tf.Tensor:
    """Decodes an image and brings it to [image_size, image_size, channels], always alike.

    "center_crop": the central square of side `floor(m S / (S + 32))`, m the shorter side, resized
      by TensorFlow 1's bicubic kernel (a = -0.75, no half-pixel centres, no antialiasing).
      Source: the TPU loader behind the paper's numbers. Deviation: clipped to the pixel range,
      which every attack assumes.
    "shorter_side": the shorter side to S + 32 by OpenCV's bicubic kernel (a = -0.75, half-pixel
      centres, no antialiasing, rounded to whole pixels), then the central square of side S.
      Source: the reference ResNet evaluation. Only that square is computed: a picture of 500 x 1
      pixels would become one of 128,000 x 256.
    "whole": the whole image by `bilinear`; unchanged where it has that size already.
    """
    check_resize(resize)
    image = decode(encoded, channels, max_pixels)
    if resize == "center_crop":
        side = tf.reduce_min(tf.shape(image)[:2]) * image_size // (image_size + _MARGIN)
        side = tf.maximum(side, 1)
        return _legacy_bicubic(_central(image, side, 1), image_size)
    if resize == "whole":
        image = bilinear(image, image_size, image_size)
        return tf.ensure_shape(image, [image_size, image_size, channels])
    side = tf.reduce_min(tf.shape(image)[:2])
    scale = (image_size + _MARGIN) / tf.cast(side, tf.float64)
    height, width = tf.unstack(
        tf.cast(scale * tf.cast(tf.shape(image)[:2], tf.float64) + 0.5, tf.int64)
    )
    image = _central_half_pixel_bicubic(image, height, width, image_size)
    image = tf.round(tf.clip_by_value(image, 0.0, 255.0))
    return tf.ensure_shape(image, [image_size, image_size, channels])


def training_image(
    encoded: tf.Tensor,
    image_size: int,
    seed: tf.Tensor,
    channels: int,
    max_pixels: int = MAX_PIXELS,
) -> tf.Tensor:
    """Decodes a random window of an image, resizes it to a square and mirrors half of them.

    The window covers 0.08 to 1 of the area with an aspect ratio of 3/4 to 4/3; after ten failed
    attempts it is the whole image. Bicubic as "center_crop".

    Args:
      encoded: scalar string, JPEG or PNG.
      image_size: side of the result in pixels.
      seed: integer tensor [2]: the same seed gives the same window.
      channels: 1 or 3.
      max_pixels: of the whole image; see `decode`.

    Source: Szegedy et al. 2015 as in the TPU loader. Deviation: that loader also asks for a tenth
    of the image in the window, which quietly raises the 0.08.
    """
    seeds = tf.random.experimental.stateless_split(seed, 2)
    encoded = refuse_larger(encoded, max_pixels)
    image = _legacy_bicubic(_random_window(encoded, seeds[0], channels), image_size)
    return tf.image.stateless_random_flip_left_right(image, seeds[1])


def random_window(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws a window (top, left, height, width), int32 [4], of an image of shape [H, W, C]."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


def bilinear(images: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Resizes images [..., H, W, C] bilinearly, antialiased where they shrink, to float32 pixels.

    Clipped to the pixel range: TensorFlow's weights add up to 1 only as float32 does, so that
    white becomes 255.00002 at some sizes.
    """
    resized = tf.image.resize(images, [height, width], "bilinear", antialias=True)
    return tf.clip_by_value(resized, 0.0, 255.0)


def _central(image: tf.Tensor, side: int | tf.Tensor, rounding: int) -> tf.Tensor:
    """Cuts the central square; where the margins are odd, `rounding` says which is wider."""
    top, left = tf.unstack((tf.shape(image)[:2] - side + rounding) // 2)
    return image[top : top + side, left : left + side]


def _random_window(encoded: tf.Tensor, seed: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes a random window; of a JPEG, only that (its last column may be off by the chroma)."""

    def of_jpeg():
        window = random_window(tf.io.extract_jpeg_shape(encoded), seed)
        return tf.io.decode_and_crop_jpeg(encoded, window, channels, dct_method="INTEGER_ACCURATE")

    def of_png():
        image = tf.io.decode_jpeg(encoded, channels)
        top, left, height, width = tf.unstack(random_window(tf.shape(image), seed))
        return image[top : top + height, left : left + width]

    return tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_png)


def _legacy_bicubic(image: tf.Tensor, image_size: int) -> tf.Tensor:
    result = tf.raw_ops.ResizeBicubic(
        images=image[None], size=[image_size, image_size], half_pixel_centers=False
    )
    return tf.clip_by_value(result[0], 0.0, 255.0)


def _central_half_pixel_bicubic(
    image: tf.Tensor, height: tf.Tensor, width: tf.Tensor, side: int
) -> tf.Tensor:
    """Resizes to [height, width] as OpenCV's INTER_CUBIC and keeps the central square.

    Computed by hand, as TensorFlow pairs half-pixel centres with a = -0.5 only; and of the central
    rows and columns alone, from the part of the image that they are made of.
    """
    rows = _taps(tf.shape(image)[0], height, side)
    columns = _taps(tf.shape(image)[1], width, side)
    (top, bottom), (left, right) = (
        (tf.reduce_min(i), tf.reduce_max(i)) for i, _ in (rows, columns)
    )
    image = image[top : bottom + 1, left : right + 1]
    for axis, ((indices, weights), first) in enumerate(((rows, top), (columns, left))):
        weights = tf.reshape(weights, [4, -1, 1, 1] if axis == 0 else [4, 1, -1, 1])
        neighbours = [tf.gather(image, indices[tap] - first, axis=axis) for tap in range(4)]
        image = tf.add_n([weights[tap] * tf.cast(neighbours[tap], tf.float32) for tap in range(4)])
    return image


def _taps(old: tf.Tensor, new: tf.Tensor, side: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the four neighbours of the `side` central of `new` pixels and their weights.

    The neighbours are places among the `old` pixels, int32 [4, side]; the weights are float32.
    """
    central = tf.range(side, dtype=tf.float64) + tf.cast((new - side) // 2, tf.float64)
    ratio = tf.cast(old, tf.float64) / tf.cast(new, tf.float64)
    place = (central + 0.5) * ratio - 0.5
    first = tf.floor(place)
    offset = tf.constant([-1.0, 0.0, 1.0, 2.0], tf.float64)[:, None]
    distance = tf.abs(place - first - offset)
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    weights = tf.cast(tf.where(distance <= 1, near, far), tf.float32)
    return tf.clip_by_value(tf.cast(first + offset, tf.int32), 0, old - 1), weights
