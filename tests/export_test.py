"""A served version answers as the network, and is verified before anyone sees it."""

import io
import json
import os
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from export import expectations, saved_model, signatures, verify
from sat_tf import loading
from sat_tf.data import crops
from tests.served import HEIGHT, NAMES, WIDTH, encode, logits_of, make_network, random_pixels


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return make_network()


@pytest.fixture(scope="module")
def version(network, tmp_path_factory):
    """A version that the fresh process has verified."""
    training = {"epsilon": 4.0, "norm": "linf"}
    directory = tmp_path_factory.mktemp("serving") / "tiny"
    return saved_model.export(
        network, directory, saved_model.Options(class_names=NAMES, training=training)
    )


@pytest.fixture(scope="module")
def loaded(version):
    return tf.saved_model.load(version)


@pytest.mark.parametrize("num_images", [1, 3, 8])
def test_float_and_uint8_answers_equal_the_network_at_any_batch_size(network, loaded, num_images):
    pixels = random_pixels(num_images)
    expected = logits_of(network, pixels)
    floats = tf.constant(pixels, tf.float32)
    for answers in (
        loaded.signatures[signatures.FLOAT](pixels=floats),
        loaded.signatures[signatures.UINT8](pixels=tf.constant(pixels)),
    ):
        np.testing.assert_allclose(answers["logits"], expected, rtol=1e-5, atol=1e-5)
        scores = np.exp(expected.astype(np.float64))
        scores /= scores.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(answers["probabilities"], scores, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(answers["classes"], expected.argmax(axis=1))
    np.testing.assert_allclose(loaded.serve(floats), expected, rtol=1e-5, atol=1e-5)


def test_float_pixels_are_not_rounded(network, loaded):
    pixels = random_pixels(2) + np.float32(0.4)
    answers = loaded.signatures[signatures.FLOAT](pixels=tf.constant(pixels))
    np.testing.assert_allclose(answers["logits"], logits_of(network, pixels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_encoded_answers_equal_those_of_the_decoded_pixels(network, loaded, kind):
    encoded = [encode(pixels, kind) for pixels in random_pixels(3)]
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in encoded])
    answers = loaded.signatures[signatures.ENCODED](image_bytes=tf.constant(encoded))
    np.testing.assert_allclose(answers["logits"], logits_of(network, decoded), rtol=1e-5, atol=1e-5)


def test_grey_and_transparent_pictures_become_rgb(network, loaded):
    rgb, alpha = random_pixels(1)[0], random_pixels(1, 1)[0]
    answer = loaded.signatures[signatures.ENCODED]
    transparent = encode(np.concatenate([rgb, alpha], axis=-1))
    answers = answer(image_bytes=tf.constant([transparent, encode(alpha[..., 0])]))
    expected = logits_of(network, np.stack([rgb, alpha.repeat(3, axis=-1)]))
    np.testing.assert_allclose(answers["logits"], expected, rtol=1e-5, atol=1e-5)


def test_a_network_of_grey_images_answers_colour_pictures(tmp_path):
    network = make_network(channels=1)
    version = saved_model.export(network, tmp_path, saved_model.Options(verified=False))
    answer = tf.saved_model.load(version)
    rgb = random_pixels(2)
    answers = answer.signatures[signatures.ENCODED](
        image_bytes=tf.constant([encode(picture) for picture in rgb])
    )
    # The luma of ITU-R BT.601, rounded.
    grey = np.round(rgb @ np.array([0.299, 0.587, 0.114]))[..., None]
    np.testing.assert_allclose(answers["logits"], logits_of(network, grey), rtol=0, atol=0.1)


def test_a_network_of_other_channels_has_no_signature_for_pictures(tmp_path):
    version = saved_model.export(
        make_network(channels=2), tmp_path, saved_model.Options(verified=False)
    )
    found = set(tf.saved_model.load(version).signatures)
    assert found == {signatures.FLOAT, signatures.UINT8}


@pytest.mark.parametrize("size", [(36, 30), (12, 31), (50, 10), (7, 5), (64, 64), (1, 1)])
def test_other_sizes_are_cropped_in_the_centre_and_resized_as_pillow_does(size):
    rows, columns = size
    picture = np.random.default_rng(3).integers(0, 256, (rows, columns, 3), np.uint8)
    result = signatures.decode(tf.constant(encode(picture)), (HEIGHT, WIDTH, 3)).numpy()
    high, wide = min(rows, columns * HEIGHT // WIDTH), min(columns, rows * WIDTH // HEIGHT)
    high, wide = max(high, 1), max(wide, 1)
    top, left = (rows - high) // 2, (columns - wide) // 2
    crop = picture[top : top + high, left : left + wide].astype(np.float32)
    expected = np.stack(
        [
            Image.fromarray(crop[..., channel]).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
            for channel in range(3)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-2)


def test_pictures_become_what_the_evaluation_of_imagenet_makes_of_them(tmp_path, monkeypatch):
    inputs = keras.Input((8, 8, 3))
    network = keras.Model(inputs, keras.layers.Flatten()(inputs))
    version = saved_model.export(
        network, tmp_path, saved_model.Options(resize="center_crop", verified=False)
    )
    monkeypatch.setattr(verify, "ABSENT", ())  # a process of its own has verified `version`
    verify.check(version)
    answer = tf.saved_model.load(version)
    picture = np.random.default_rng(3).integers(0, 256, (70, 50, 3), np.uint8)
    encoded = tf.constant([encode(picture, "jpeg")])
    expected = crops.evaluation_image(encoded[0], 8, "center_crop", 3)
    served = answer.signatures[signatures.ENCODED](image_bytes=encoded)["logits"][0]
    np.testing.assert_array_equal(served, tf.reshape(expected, [-1]))
    metadata = (version / "assets.extra" / "metadata.json").read_text(encoding="utf-8")
    assert json.loads(metadata)["resize"] == "center_crop"


def test_an_unknown_resize_and_one_that_makes_squares_are_refused(network, tmp_path):
    with pytest.raises(ValueError, match="resize is 'stretch'; use one of: fit, center_crop"):
        saved_model.export(network, tmp_path, saved_model.Options(resize="stretch"))
    with pytest.raises(ValueError, match="makes squares"):
        saved_model.export(network, tmp_path, saved_model.Options(resize="center_crop"))


def test_a_damaged_picture_is_refused_and_the_next_one_is_answered(loaded):
    answer, good = loaded.signatures[signatures.ENCODED], encode(random_pixels(1)[0])
    for damaged in (b"", b"no picture", good[: len(good) // 2]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            answer(image_bytes=tf.constant([good, damaged]))
    assert answer(image_bytes=tf.constant([good]))["logits"].shape == (1, 3)


def test_gradients_through_the_saved_network_equal_the_networks(network, loaded):
    pixels = tf.constant(random_pixels(3), tf.float32)

    def gradient(logits_of_pixels):
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits([0, 1, 2], logits_of_pixels())
        return tape.gradient(loss, pixels).numpy()

    expected = gradient(lambda: network(pixels, training=False))
    assert np.abs(expected).max() > 0
    served = gradient(lambda: loaded.serve(pixels))
    signature = gradient(lambda: loaded.signatures[signatures.FLOAT](pixels=pixels)["logits"])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(signature, expected, rtol=0, atol=1e-5 * scale)


def test_labels_and_metadata_travel_along(network, loaded, version):
    answers = loaded.signatures[signatures.FLOAT](pixels=tf.constant(random_pixels(8), tf.float32))
    labels = [label.decode() for label in answers["labels"].numpy()]
    assert labels == [NAMES[index] for index in answers["classes"].numpy()]
    assert len(set(labels)) > 1
    extra = version / "assets.extra"
    assert (extra / "labels.txt").read_text(encoding="utf-8").splitlines() == NAMES
    metadata = json.loads((extra / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["class_names"] == NAMES and metadata["num_classes"] == 3
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    assert {name: metadata["versions"][name] for name in versions} == versions
    assert metadata["weights_sha256"] == loading.weights_hash(network)
    assert metadata["training"] == {"epsilon": 4.0, "norm": "linf"}
    assert metadata["image"] == {"height": 12, "width": 10, "channels": 3, "layout": "NHWC"}
    assert (metadata["pixels"]["minimum"], metadata["pixels"]["maximum"]) == (0, 255)


def test_a_network_of_mixed_precision_is_float32_outside(tmp_path, monkeypatch):
    network = make_network(dtype="mixed_bfloat16")
    version = saved_model.export(network, tmp_path, saved_model.Options(verified=False))
    monkeypatch.setattr(verify, "ABSENT", ())
    verify.check(version)
    pixels = random_pixels(2)
    answers = tf.saved_model.load(version).signatures[signatures.FLOAT](
        pixels=tf.constant(pixels, tf.float32)
    )
    assert answers["logits"].dtype == tf.float32
    np.testing.assert_allclose(answers["logits"], logits_of(network, pixels), rtol=0, atol=0.1)


def test_versions_count_up_and_none_is_overwritten(network, tmp_path, monkeypatch):
    monkeypatch.setattr(tf.saved_model, "save", lambda servable, path, *_: os.mkdir(path))
    (tmp_path / "9").mkdir()
    (tmp_path / "notes").mkdir()
    assert saved_model.export(network, tmp_path, saved_model.Options(verified=False)).name == "10"
    assert saved_model.export(network, tmp_path, saved_model.Options(verified=False)).name == "11"
    assert (
        saved_model.export(network, tmp_path, saved_model.Options(version=3, verified=False)).name
        == "3"
    )
    before = (tmp_path / "3" / "assets.extra" / "metadata.json").stat()
    with pytest.raises(ValueError, match="exists and is never overwritten"):
        saved_model.export(network, tmp_path, saved_model.Options(version=3, verified=False))
    assert (tmp_path / "3" / "assets.extra" / "metadata.json").stat() == before
    with pytest.raises(ValueError, match="version is 0"):
        saved_model.export(network, tmp_path, saved_model.Options(version=0))
    assert sorted(tmp_path.glob("[0-9]*")) == [tmp_path / name for name in ("10", "11", "3", "9")]
    beside = {"batching_parameters.txt", "compose.yaml", "models.config", "monitoring.config"}
    found = {path.name for path in tmp_path.iterdir() if not path.name.isdecimal()}
    assert found == {"notes", *beside}


def test_older_versions_go_but_never_one_that_a_server_is_asked_for(network, tmp_path, monkeypatch):
    def save(servable, path, *_):
        os.mkdir(path)
        open(os.path.join(path, "saved_model.pb"), "w").close()

    monkeypatch.setattr(tf.saved_model, "save", save)

    def versions_after(label):
        options = saved_model.Options(label=label, keep_versions=2, verified=False)
        saved_model.export(network, tmp_path, options)
        return sorted(int(path.name) for path in tmp_path.glob("[0-9]*"))

    assert [versions_after("stable") for _ in range(3)] == [[1], [1, 2], [2, 3]]
    # The stable version, the canary that was one until now, and the new one.
    assert [versions_after("canary") for _ in range(3)] == [[3, 4], [3, 4, 5], [3, 5, 6]]
    # The server calls version 3 stable until it has read that version 7 is.
    assert versions_after("stable") == [3, 6, 7]
    assert versions_after("stable") == [7, 8]


def test_the_fresh_process_finds_packages_where_this_one_does(tmp_path, monkeypatch):
    (tmp_path / "lies_here.py").touch()
    program = tmp_path / "program" / "verify.py"  # whose own folder has no such module
    program.parent.mkdir()
    program.write_text("import lies_here")
    monkeypatch.setattr(verify, "__file__", str(program))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    verify.verify(tmp_path)


def test_of_two_exports_at_once_the_second_refuses(network, tmp_path, monkeypatch):
    monkeypatch.setattr(tf.saved_model, "save", lambda servable, path, *_: os.mkdir(path))

    def other_export(partial):
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "saved_model.pb").touch()

    monkeypatch.setattr(verify, "verify", other_export)
    with pytest.raises(ValueError, match="exists and is never overwritten"):
        saved_model.export(network, tmp_path)
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["saved_model.pb"]


def test_no_version_is_visible_before_it_is_whole(network, tmp_path, monkeypatch):
    visible = []

    def interrupt(partial):
        assert (partial / "saved_model.pb").exists()
        visible.extend(path.name for path in tmp_path.iterdir() if path.name[0] != ".")
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "verify", interrupt)
    with pytest.raises(KeyboardInterrupt):
        saved_model.export(network, tmp_path)
    assert not visible
    assert not list(tmp_path.iterdir())


class Drifting(keras.layers.Layer):
    """Adds the number of its calls, which a saved graph cannot know."""

    num_calls = 0

    def call(self, inputs):
        Drifting.num_calls += 1
        return inputs + float(Drifting.num_calls)


def test_a_version_that_answers_otherwise_is_refused(tmp_path):
    inputs = keras.Input((4, 4, 1))
    network = keras.Model(inputs, Drifting()(keras.layers.Dense(2)(keras.layers.Flatten()(inputs))))
    with pytest.raises(ValueError, match=r"verification .* failed: .* off; at most"):
        saved_model.export(network, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "wrong", "words"),
    [
        ("logits", lambda x: x + 2, "logits of serving_default for 1 images are 2 off"),
        ("probabilities", lambda p: p[:, ::-1], "probabilities of serving_default are .* off"),
        ("probabilities", lambda p: p + np.nan, "probabilities of serving_default are nan off"),
        ("classes", lambda c: (c + 1) % 3, "classes of serving_default are not where"),
    ],
)
def test_verification_looks_at_every_answer(version, loaded, monkeypatch, key, wrong, words):
    def spoilt(signature):
        answers = loaded.signatures[signature]
        return lambda **asked: (found := answers(**asked)) | {key: wrong(found[key])}

    names = {name: spoilt(name) for name in loaded.signatures}
    served = types.SimpleNamespace(serve=loaded.serve, signatures=names)
    monkeypatch.setattr(tf.saved_model, "load", lambda path: served)
    with pytest.raises(ValueError, match=words):
        verify.check(version)


@pytest.mark.parametrize(("dtype", "relative"), [("float32", 1e-4), ("mixed_bfloat16", 5e-2)])
def test_only_a_network_of_16_bits_may_be_further_off(dtype, relative, tmp_path):
    network = make_network(dtype=dtype)
    (tmp_path / "assets.extra").mkdir()
    expectations.write(tmp_path, network, (HEIGHT, WIDTH, 3))
    with np.load(tmp_path / verify.EXPECTATIONS) as stored:
        kinds = ("logits", "png_logits", "jpeg_logits")
        largest = max(1.0, *(np.abs(stored[kind]).max() for kind in kinds))
        np.testing.assert_allclose(stored["tolerance"], relative * largest)
        np.testing.assert_array_equal(stored["logits"], logits_of(network, stored["pixels"]))


@pytest.mark.parametrize("name", ["keras", "sat_tf"])
def test_verification_refuses_a_process_with_keras_or_the_project(version, name):
    assert name in sys.modules
    with pytest.raises(ValueError, match=f"stand alone, but .*{name}"):
        verify.check(version)
