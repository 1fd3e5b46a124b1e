"""Pictures from strangers: each has a defined answer or is refused, and none takes the memory."""

import io
import json
import pathlib
import struct
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings, strategies
from PIL import Image

from export import saved_model, signatures
from tests.served import HEIGHT, WIDTH, encode, logits_of, make_network, random_pixels

MANY = 2**31 - 1


@pytest.fixture(scope="module", params=[3, 1], ids=["colour", "grey"])
def served(request, tmp_path_factory):
    """A network and what answers to encoded pictures of it, loaded from a version."""
    keras.utils.set_random_seed(0)
    network = make_network(request.param)
    options = saved_model.Options(verified=False)
    version = saved_model.export(network, tmp_path_factory.mktemp("serving") / "net", options)
    loaded = tf.saved_model.load(version)
    signature = loaded.signatures[signatures.ENCODED]
    return network, lambda *encoded: (loaded, signature(image_bytes=tf.constant(encoded)))[1]


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(tag, data):
    check = zlib.crc32(tag + data)
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", check)


def png(width, height, depth=8, colours=2, rows=b"\0"):
    """Makes a PNG by hand: its header may claim what its data do not hold."""
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def jpeg_that_claims(height, width):
    """Makes a JPEG whose header says another size than it has."""
    data = bytearray(encode(random_pixels(1)[0], "jpeg"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


RGB = random_pixels(1)[0]
OTHER = random_pixels(2)[1]
COLOUR = Image.fromarray(RGB)
DEEP = np.random.default_rng(3).integers(0, 2**16, (HEIGHT, WIDTH, 3)).astype(">u2")


def rows_of(pixels):
    return b"".join(b"\0" + row.tobytes() for row in pixels)


# Each with the colours that Pillow, or the format's rule, makes of it.
ANSWERED = {
    "grey JPEG": (saved(COLOUR.convert("L"), "JPEG", quality=95), None),
    "CMYK JPEG": (saved(COLOUR.convert("CMYK"), "JPEG", quality=95), None),
    "progressive JPEG": (saved(COLOUR, "JPEG", progressive=True), None),
    "grey PNG": (saved(COLOUR.convert("L"), "PNG"), None),
    "PNG of two colours": (saved(COLOUR.convert("1"), "PNG"), None),
    "PNG with a palette": (saved(COLOUR.convert("P"), "PNG"), None),
    "PNG with alpha": (encode(np.concatenate([RGB, OTHER[..., :1]], axis=-1)), RGB),
    "grey PNG with alpha": (
        encode(np.stack([RGB[..., 0], OTHER[..., 0]], axis=-1)),
        RGB[..., :1].repeat(3, axis=-1),
    ),
    "PNG of 16 bits": (png(WIDTH, HEIGHT, 16, 2, rows_of(DEEP)), DEEP >> 8),
    "grey PNG of 16 bits": (
        png(WIDTH, HEIGHT, 16, 0, rows_of(DEEP[..., 0])),
        (DEEP[..., :1] >> 8).repeat(3, axis=-1),
    ),
    "animated PNG": (
        saved(COLOUR, "PNG", save_all=True, append_images=[Image.fromarray(OTHER)]),
        RGB,
    ),
}


@pytest.mark.parametrize("kind", ANSWERED)
def test_an_odd_picture_has_the_answer_of_its_pixels(served, kind):
    network, answer = served
    data, pixels = ANSWERED[kind]
    if pixels is None:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    if network.input_shape[-1] == 1 and kind == "CMYK JPEG":
        with pytest.raises(tf.errors.InvalidArgumentError):
            answer(data)
        return
    if network.input_shape[-1] == 1:
        pixels = np.round(pixels @ np.array([0.299, 0.587, 0.114]))[..., None]
        if "JPEG" in kind:  # holds its grey beside the colours, which are cut at black and white
            image = Image.open(io.BytesIO(data))
            image.draft("L", None)
            pixels = np.asarray(image)[..., None]
    # Of the decoders' arithmetic: the chroma of JPEG and the weights of grey are rounded.
    found = signatures.decode(tf.constant(data), network.input_shape[1:]).numpy()
    np.testing.assert_allclose(found, pixels, rtol=0, atol=2 if "JPEG" in kind else 1)
    expected = logits_of(network, found[None])
    np.testing.assert_allclose(answer(data)["logits"], expected, rtol=1e-5, atol=1e-5)
    if network.input_shape[-1] == 3 and "JPEG" not in kind:
        np.testing.assert_array_equal(found, pixels)


WHOLE = {kind: encode(RGB, kind) for kind in ("jpeg", "png")}
REFUSED = {
    "nothing": b"",
    "three bytes of a JPEG": b"\xff\xd8\xff",
    "the beginning of a PNG": WHOLE["png"][:8],
    "the header of a PNG, cut": WHOLE["png"][:23],
    **{f"{kind} without its end": data[:-2] for kind, data in WHOLE.items() if kind == "jpeg"},
    **{f"half a {kind}": data[: len(data) // 2] for kind, data in WHOLE.items()},
    "GIF": saved(COLOUR, "GIF"),
    "animated GIF": saved(
        COLOUR, "GIF", save_all=True, append_images=[Image.fromarray(OTHER)], duration=9
    ),
    **{kind: saved(COLOUR, kind) for kind in ("BMP", "WEBP", "TIFF", "PPM")},
    "PNG of 65,535 x 65,535": png(65_535, 65_535),
    "PNG of the most pixels there are": png(MANY, MANY),
    "PNG of more than there are": png(2**32 - 1, 2**32 - 1),
    "PNG of no pixels": png(0, 0),
    "PNG of 4,096 x 4,097": png(4_096, 4_097, rows=b"\0" * 4_097 * (1 + 3 * 4_096)),
    "PNG of 4,096 x 4,096 without data": png(4_096, 4_096),
    "JPEG of 65,500 x 65,500": jpeg_that_claims(65_500, 65_500),
    "JPEG of no pixels": jpeg_that_claims(0, 0),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_picture_is_refused_alone_and_takes_no_memory(served, kind):
    network, answer = served
    good = encode(random_pixels(1, network.input_shape[-1])[0].squeeze())
    expected = answer(good)["logits"].numpy()
    with peak_memory() as taken:
        with pytest.raises(tf.errors.InvalidArgumentError):
            answer(good, REFUSED[kind], good)
    assert taken["MiB"] < 32  # the smallest of the large ones would be 48
    np.testing.assert_array_equal(answer(good)["logits"], expected)


class peak_memory(dict):
    """Measures the MiB that a block has in use beyond what was in use before it."""

    clear, status = pathlib.Path("/proc/self/clear_refs"), pathlib.Path("/proc/self/status")

    def read(self, name):
        line = next(one for one in self.status.read_text().splitlines() if one.startswith(name))
        return int(line.split()[1]) / 2**10

    def __enter__(self):
        if not self.clear.exists():
            pytest.skip("this system keeps no peak that can be reset")
        self.clear.write_text("5")
        self.before = self.read("VmRSS")
        return self

    def __exit__(self, *_):
        self["MiB"] = self.read("VmHWM") - self.before


def test_the_measure_of_memory_sees_a_picture_of_the_largest_size(served):
    network, answer = served
    if network.input_shape[-1] == 3:  # after it, the process keeps that memory
        with peak_memory() as taken:
            answer(png(4_096, 4_096, rows=b"\0" * 4_096 * (1 + 3 * 4_096)))
        assert taken["MiB"] > 32


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    kind=strategies.sampled_from(sorted(WHOLE)),
    changes=strategies.lists(
        strategies.tuples(strategies.integers(0, 400), strategies.integers(0, 255)), max_size=3
    ),
    length=strategies.integers(0, 1000),
)
@example(kind="png", changes=[], length=8)
def test_whatever_the_bytes_are_there_is_an_answer_or_a_refusal(served, kind, changes, length):
    network, answer = served
    data = bytearray(WHOLE[kind][:length])
    for place, value in changes:
        data[place : place + 1] = bytes([value])
    try:
        logits = answer(bytes(data))["logits"]
    except tf.errors.InvalidArgumentError:
        return
    assert logits.shape == (1, 3) and np.isfinite(logits).all()


@pytest.mark.parametrize("resize", signatures.RESIZES)
def test_the_largest_picture_is_the_one_that_was_asked_for(tmp_path, resize):
    inputs = keras.Input((4, 4, 3))
    network = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    options = saved_model.Options(resize=resize, max_pixels=81, verified=False)
    version = saved_model.export(network, tmp_path / "net", options)
    metadata = json.loads((version / "assets.extra" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["max_pixels"] == 81
    loaded = tf.saved_model.load(version)
    for kind in ("png", "jpeg"):
        fits, larger = (encode(np.zeros((side, 9, 3), np.uint8), kind) for side in (9, 10))
        answer = loaded.signatures[signatures.ENCODED]
        assert answer(image_bytes=tf.constant([fits]))["logits"].shape == (1, 3)
        with pytest.raises(tf.errors.InvalidArgumentError, match="at most max_pixels=81"):
            answer(image_bytes=tf.constant([larger]))
    with pytest.raises(ValueError, match="--max_pixels=80; a network of 4 x 4 .* at least 81"):
        saved_model.export(network, tmp_path / "new", saved_model.Options(max_pixels=80))
    assert not (tmp_path / "new").exists()
