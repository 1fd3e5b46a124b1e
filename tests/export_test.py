"""A served network is the network: the same answers, without Keras and without this project."""

import io
import json
import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from export import expectations, extras, saved_model, signatures, verify
from sat_tf import activations, loading
from sat_tf.data import crops
from sat_tf.runs import workdir
from tests.telling import telling

HEIGHT, WIDTH = 12, 10
NAMES = ["cat", "dog", "großer Hund"]
ACTIVATIONS = ("swish", "smoothrelu", "relu:backward=parametric_softplus")


def make_network(channels=3, num_classes=3, dtype="float32"):
    inputs = keras.Input((HEIGHT, WIDTH, channels))
    x = keras.layers.Rescaling(1 / 64, offset=-2, dtype=dtype)(inputs)
    for spec in ACTIVATIONS:
        x = keras.layers.Conv2D(6, 3, padding="same", dtype=dtype)(x)
        x = keras.layers.BatchNormalization(dtype=dtype)(x)
        x = activations.make(spec)(x)
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    network = keras.Model(inputs, keras.layers.Dense(num_classes, dtype="float32")(x))
    rng = np.random.default_rng(1)
    for weight in network.weights:  # moving statistics that a mistaken training mode would show
        if weight.name == "moving_variance":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        if weight.name == "moving_mean":
            weight.assign(rng.uniform(-0.5, 0.5, weight.shape))
    head = network.layers[-1]  # so that no class wins everywhere
    head.kernel.assign(rng.normal(0, 0.2, head.kernel.shape))
    head.bias.assign(-logits_of(network, random_pixels(8, channels)).mean(axis=0))
    return telling(network)


def random_pixels(num_images, channels=3):
    rng = np.random.default_rng(2)
    return rng.integers(0, 256, (num_images, HEIGHT, WIDTH, channels), np.uint8)


def logits_of(network, pixels):
    return network(tf.constant(pixels, tf.float32), training=False).numpy()


def encode(pixels, kind="png"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return make_network()


@pytest.fixture(scope="module")
def version(network, tmp_path_factory):
    """A version that the fresh process has verified."""
    training = {"epsilon": 4.0, "norm": "linf"}
    directory = tmp_path_factory.mktemp("serving") / "tiny"
    return saved_model.export(network, directory, class_names=NAMES, training=training)


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
    version = saved_model.export(network, tmp_path, verified=False)
    answer = tf.saved_model.load(version)
    rgb = random_pixels(2)
    answers = answer.signatures[signatures.ENCODED](
        image_bytes=tf.constant([encode(picture) for picture in rgb])
    )
    # The luma of ITU-R BT.601, rounded.
    grey = np.round(rgb @ np.array([0.299, 0.587, 0.114]))[..., None]
    np.testing.assert_allclose(answers["logits"], logits_of(network, grey), rtol=0, atol=0.1)


def test_a_network_of_other_channels_has_no_signature_for_pictures(tmp_path):
    version = saved_model.export(make_network(channels=2), tmp_path, verified=False)
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


def test_pictures_become_what_the_evaluation_of_imagenet_makes_of_them(tmp_path):
    inputs = keras.Input((8, 8, 3))
    network = keras.Model(inputs, keras.layers.Flatten()(inputs))
    version = saved_model.export(network, tmp_path, resize="center_crop")
    answer = tf.saved_model.load(version)
    picture = np.random.default_rng(3).integers(0, 256, (70, 50, 3), np.uint8)
    encoded = tf.constant([encode(picture, "jpeg")])
    expected = crops.evaluation_image(encoded[0], 8, "center_crop", 3)
    served = answer.signatures[signatures.ENCODED](image_bytes=encoded)["logits"][0]
    np.testing.assert_array_equal(served, tf.reshape(expected, [-1]))
    metadata = (version / "assets.extra" / "metadata.json").read_text(encoding="utf-8")
    assert json.loads(metadata)["resize"] == "center_crop"


def test_an_unknown_resize_and_one_that_makes_squares_are_refused(network, tmp_path):
    with pytest.raises(ValueError, match="'stretch' is not one of: fit, center_crop"):
        saved_model.export(network, tmp_path, resize="stretch")
    with pytest.raises(ValueError, match="makes squares"):
        saved_model.export(network, tmp_path, resize="center_crop")


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
    assert metadata["class_names"] == NAMES
    assert metadata["weights_sha256"] == loading.weights_hash(network)
    assert metadata["training"] == {"epsilon": 4.0, "norm": "linf"}
    assert metadata["image"] == {"height": 12, "width": 10, "channels": 3, "layout": "NHWC"}
    assert (metadata["pixels"]["minimum"], metadata["pixels"]["maximum"]) == (0, 255)


def test_a_network_of_mixed_precision_is_float32_outside(tmp_path):
    network = make_network(dtype="mixed_bfloat16")
    version = saved_model.export(network, tmp_path)
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
    assert saved_model.export(network, tmp_path, verified=False).name == "10"
    assert saved_model.export(network, tmp_path, verified=False).name == "11"
    assert saved_model.export(network, tmp_path, version=3, verified=False).name == "3"
    before = (tmp_path / "3" / "assets.extra" / "metadata.json").stat()
    with pytest.raises(ValueError, match="exists and is never overwritten"):
        saved_model.export(network, tmp_path, version=3, verified=False)
    assert (tmp_path / "3" / "assets.extra" / "metadata.json").stat() == before
    with pytest.raises(ValueError, match="version is 0"):
        saved_model.export(network, tmp_path, version=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "11", "3", "9", "notes"]


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
    ("function", "wrong", "words"),
    [
        ("nn.softmax", tf.sigmoid, "probabilities of serving_default are .* off"),
        ("nn.softmax", lambda z: z + np.nan, "probabilities of serving_default are nan off"),
        ("argmax", tf.argmin, "classes of serving_default are not where"),
    ],
)
def test_verification_looks_at_every_answer(network, tmp_path, monkeypatch, function, wrong, words):
    monkeypatch.setattr(tf.nn if "." in function else tf, function.split(".")[-1], wrong)
    version = saved_model.export(network, tmp_path, verified=False)
    monkeypatch.undo()
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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: keras.Sequential(
                [keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()]
            ),
            "fixed",
        ),
        (lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]), "H, W, C"),
        (lambda: keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3)]), "logits"),
        (
            # As a SavedModel answers that `--network` names.
            lambda: types.SimpleNamespace(input_shape=(None, 4, 4, 3), output_shape=(None, 2)),
            "a Keras model was expected, not a SimpleNamespace: what was exported",
        ),
        (lambda: ending(1), r"\(None, 1\); a logit for each of at least 2 classes"),
    ],
)
def test_a_network_of_another_form_is_refused(tmp_path, make, words):
    with pytest.raises(ValueError, match=words):
        saved_model.export(make(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def ending(units, end=None, activation=None):
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Dense(units, activation=activation, dtype="float32", name="head")(x)
    return keras.Model(inputs, x if end is None else end(x))


class Ending(keras.layers.Layer):
    """A function of TensorFlow that Keras's graph does not show."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def by_hand(x):
    powers = tf.exp(x - tf.reduce_max(x, axis=-1, keepdims=True))
    return powers / tf.reduce_sum(powers, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ending(3, activation="softmax"), "ends in a softmax"),
        (lambda: ending(3, keras.layers.Softmax()), "ends in a softmax"),
        (lambda: ending(3, keras.ops.softmax), "ends in a softmax"),
        (lambda: ending(3, Ending(tf.nn.softmax)), "ends in a softmax"),
        (
            lambda: keras.Sequential([keras.Input((4, 4, 3)), ending(3, activation="softmax")]),
            "ends in a softmax",
        ),
        (lambda: ending(3, activation="sigmoid"), "ends in a sigmoid"),
        (
            lambda: ending(6, lambda x: keras.layers.Reshape((6,))(keras.ops.sigmoid(x))),
            "ends in a sigmoid",
        ),
        (lambda: ending(3, Ending(by_hand)), "as probabilities do"),
        (lambda: ending(3, Ending(tf.function(tf.nn.softmax))), "as probabilities do"),
        (lambda: ending(3, Ending(lambda x: 1 / (1 + tf.exp(-x)))), "as probabilities do"),
        (lambda: ending(3, Ending(tf.math.log)), "answers to .* of 16 pictures are not finite"),
    ],
)
def test_answers_that_are_no_logits_are_refused(tmp_path, make, words):
    with pytest.raises(ValueError, match=words):
        saved_model.export(make(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("end", [None, keras.ops.log_softmax, lambda x: 0 * x, lambda x: 0.01 * x])
def test_logits_of_every_size_are_taken(end):
    network = ending(3, end)
    saved_model.check_answers(network, (4, 4, 3))  # log-probabilities are logits, too


def test_a_wrong_number_of_names_is_refused(network, tmp_path):
    with pytest.raises(ValueError, match="2 class names came for a network of 3 classes"):
        saved_model.export(network, tmp_path, class_names=["a", "b"])


def given(**values):
    names = ("workdir", "network", "directory", "version", "labels", "resize")
    return types.SimpleNamespace(**{**dict.fromkeys(names), "verify": False, **values})


def test_the_program_exports_a_run_with_its_names(network, tmp_path):
    run, serving = tmp_path / "run", tmp_path / "serving"
    run.mkdir()
    network.save(run / "network.keras")
    metrics = {"class_names": NAMES, "dataset": "pets", "eval_resize": "whole"}
    (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    labels = tmp_path / "other.txt"
    labels.write_text("x\ny\nz\n", encoding="utf-8")
    first = saved_model.from_flags(given(workdir=str(run), directory=str(serving)))
    network_file = str(run / "network.keras")
    second = saved_model.from_flags(
        given(network=network_file, directory=str(serving), labels=str(labels), version=7)
    )
    found = [
        (version / "assets.extra/labels.txt").read_text("utf-8") for version in (first, second)
    ]
    assert found == ["cat\ndog\ngroßer Hund\n", "x\ny\nz\n"]
    assert (first, second) == (serving / "1", serving / "7")


def test_labels_in_another_order_than_the_runs_are_refused(network, tmp_path):
    network.save(tmp_path / "network.keras")
    (tmp_path / "metrics.json").write_text(json.dumps({"class_names": NAMES}), encoding="utf-8")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(NAMES[::-1]), encoding="utf-8")
    with pytest.raises(ValueError, match="in another order; .*: cat, dog, großer Hund"):
        saved_model.from_flags(
            given(workdir=str(tmp_path), labels=str(labels), directory=str(tmp_path / "s"))
        )
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("of_run", "of_flag", "expected"),
    [
        (None, None, "fit"),
        ("whole", None, "fit"),  # which is what evaluation calls it
        ("shorter_side", None, "shorter_side"),
        ("shorter_side", "fit", "fit"),
        (None, "shorter_side", "shorter_side"),
    ],
)
def test_a_run_is_served_as_it_was_evaluated(tmp_path, monkeypatch, of_run, of_flag, expected):
    made = []
    monkeypatch.setattr(
        signatures, "Servable", lambda *args: made.append(args) or types.SimpleNamespace(answers={})
    )
    monkeypatch.setattr(tf.saved_model, "save", lambda servable, path, *_: os.mkdir(path))
    network = ending(3)
    network.save(tmp_path / "network.keras")
    metrics = {"class_names": NAMES, "epsilon": 4.0}
    if of_run is not None:
        metrics["eval_resize"] = of_run
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    values = {"workdir": str(tmp_path), "directory": str(tmp_path / "s"), "resize": of_flag}
    version = saved_model.from_flags(given(**values))
    found = json.loads((version / "assets.extra" / "metadata.json").read_text(encoding="utf-8"))
    assert (found["resize"], found["training"]) == (expected, metrics)
    ((_, image_shape, names, resize),) = made
    assert (image_shape, names, resize) == ((4, 4, 3), NAMES, expected)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "--workdir=RUN or --network"),
        ({"workdir": "a", "network": "b"}, "--workdir=RUN or --network"),
        ({"workdir": "a"}, "--directory is missing"),
        ({"workdir": "{tmp}", "directory": "{tmp}/s"}, "network.keras is not there"),
        ({"network": "{tmp}/bad.keras", "directory": "{tmp}/s"}, "bad.keras"),
        ({"network": "resnet", "directory": "{tmp}/s"}, "'resnet' is not there"),
    ],
)
def test_what_the_flags_do_not_name_is_refused(tmp_path, values, words):
    (tmp_path / "bad.keras").write_bytes(b"PK no zip")
    values = {key: value.format(tmp=tmp_path) for key, value in values.items()}
    with pytest.raises(ValueError, match=words):
        saved_model.from_flags(given(**values))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("text", "words"), [("{", "is damaged"), ("[]", "a JSON object")])
def test_damaged_metrics_are_refused(tmp_path, text, words):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        workdir.read_metrics(tmp_path)


@pytest.mark.parametrize("text", ["", "a\n\nb\n"])
def test_labels_with_an_empty_line_are_refused(tmp_path, text):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(ValueError, match="one class name a line"):
        extras.read_labels(tmp_path / "labels.txt")


def test_the_program_ends_with_status_2_and_one_line(tmp_path):
    command = [sys.executable, "-m", "export.saved_model", f"--workdir={tmp_path}"]
    root = os.path.dirname(os.path.dirname(saved_model.__file__))
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith(
        "--directory is missing; give serving/NAME, the parent of the versions"
    )
    assert "Traceback" not in result.stderr


def test_the_check_says_in_one_line_what_is_no_version(tmp_path, monkeypatch, capsys):
    for arguments, status, said in (
        ([str(tmp_path)], 2, f"verify.py: {tmp_path} is no exported version, as it has no"),
        ([], 2, "usage: python export/verify.py NAME/VERSION"),
    ):
        monkeypatch.setattr(sys, "argv", ["export/verify.py", *arguments])
        assert verify.main() == status
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and err.startswith(said)
    monkeypatch.setattr(sys, "argv", ["export/verify.py", "--help"])
    assert verify.main() == 0
    assert capsys.readouterr().out.startswith("usage: ")
