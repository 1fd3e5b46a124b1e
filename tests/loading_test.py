"""A network answers the same, wherever it is loaded from, and takes pixels in the end."""

import pathlib
import re
import shutil
import signal
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from flags import evaluate as own_flags
from sat_tf import loading, models
from sat_tf.attacks import PGD
from sat_tf.data import selection
from sat_tf.evaluate import Interrupted, Options, evaluate
from sat_tf.evaluation import settings
from sat_tf.loading import served
from tests import linear_network, programs


def network_of(scale=1 / 127.5, offset=-1.0):
    keras.utils.set_random_seed(2)
    inputs = keras.Input(linear_network.SHAPE)
    x = keras.layers.Rescaling(scale, offset)(inputs)
    x = keras.layers.Dense(8, activation="swish")(x)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)), name="small")


def make():
    return network_of()


@pytest.fixture(scope="module")
def images():
    return tf.constant(linear_network.images(6))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The same network in every form; a SavedModel with two versions."""
    directory = tmp_path_factory.mktemp("saved")
    network = network_of()
    network.save(directory / "network.keras")

    def serve(pixels):
        return {"logits": network(pixels, training=False), "classes": tf.zeros([1])}

    def serve_older(pixels):
        return serve(255.0 - pixels)

    module = tf.Module()
    module.variables_held = network.variables
    spec = tf.TensorSpec([None, *linear_network.SHAPE], tf.float32)
    for version, answer in (("9", serve_older), ("10", serve)):
        signatures = {"serving_default": tf.function(answer, input_signature=[spec])}
        tf.saved_model.save(module, str(directory / "served" / version), signatures=signatures)
    return directory


@pytest.mark.parametrize(
    "source", ["", "network.keras", "served", "served/10", "tests.loading_test:make"]
)
def test_every_source_gives_the_same_logits_and_gradients(saved, images, source):
    name = source if ":" in source else str(saved / source)
    network, expected = loading.load(name), network_of()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(images)
        logits, reference = network(images, training=False), expected(images, training=False)
    np.testing.assert_allclose(logits, reference, atol=1e-6)
    gradient = tape.gradient(reference, images)
    assert np.abs(gradient).max() > 0
    np.testing.assert_allclose(tape.gradient(logits, images), gradient, atol=1e-7)
    assert network.output_shape[-1] == 3 and network.input_shape[1:] == linear_network.SHAPE


def test_a_users_function_may_load_a_file_with_our_layers(tmp_path):
    path = tmp_path / "network.keras"
    models.build("resnet8", activation="mish", num_classes=2, image_size=8).save(path)
    (tmp_path / "users_own_network.py").write_text(
        f"import keras\ndef make():\n    return keras.models.load_model({str(path)!r})\n"
    )
    # In a process of its own: here, our layers have long been registered.
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from sat_tf import loading; "
        "print(loading.load('users_own_network:make').output_shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "(None, 2)\n", done.stderr


def test_the_hash_is_that_of_the_weights_and_of_nothing_else(saved):
    hashes = {
        loading.weights_hash(loading.load(str(saved / source))) for source in ("", "network.keras")
    }
    hashes.add(loading.weights_hash(network_of()))
    assert len(hashes) == 1
    changed = network_of()
    changed.trainable_variables[0].assign_add(tf.fill(changed.trainable_variables[0].shape, 1e-6))
    assert loading.weights_hash(changed) not in hashes
    zeros = [keras.Variable(np.zeros(shape, np.float32)) for shape in ((2, 3), (3, 2), (6,), (2,))]
    zeros.append(keras.Variable(np.zeros(6, np.int32), dtype="int32"))
    of_zeros = [
        loading.weights_hash(types.SimpleNamespace(variables=variables))
        for variables in (*([one] for one in zeros), [zeros[3]] * 3)
    ]
    assert len(set(of_zeros)) == len(of_zeros)  # as many bytes in another shape or type
    dense, norm = keras.layers.Dense(3), keras.layers.BatchNormalization()
    normed = keras.Sequential([keras.Input((4,)), dense, norm])
    assert loading.facts(normed)["num_parameters"] == 4 * 3 + 3 + 2 * 3  # without the statistics
    served = loading.load(str(saved / "served"))
    assert loading.facts(served)["num_parameters"] == network_of().count_params()


def test_the_statistics_of_a_saved_model_are_no_parameters(tmp_path):
    module, spec = tf.Module(), tf.TensorSpec([None, *linear_network.SHAPE], tf.float32)
    module.weights = tf.Variable(tf.ones([linear_network.DIMENSION, 3]))
    module.mean = tf.Variable(tf.zeros([linear_network.DIMENSION]), trainable=False)

    @tf.function(input_signature=[spec])
    def serve(pixels):
        return {"logits": (tf.reshape(pixels, [-1, 24]) - module.mean) @ module.weights}

    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": serve})
    served = loading.load(str(tmp_path))
    assert len(served.variables) == 2 and loading.facts(served)["num_parameters"] == 24 * 3


def test_a_saved_model_is_evaluated_like_its_network(saved, images):
    labels = np.argmax(network_of()(images), -1).astype(np.int32)
    attack = PGD(epsilon=20, step_size=5, steps=5)
    served, kept = (
        evaluate(network, (images.numpy(), labels), [attack], Options(batch_size=4)).outcomes[0]
        for network in (loading.load(str(saved / "served")), network_of())
    )
    np.testing.assert_array_equal(served.broken_step, kept.broken_step)
    assert 0 < kept.standing.mean() < 1 or kept.broken_step.max() > 0
    newest = loading.load(str(saved / "served"))
    assert loading.facts(newest)["name"] == newest.name == "served"
    with pytest.raises(ValueError, match="inference mode only"):
        newest(images, training=True)


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-1.0, 1.0), (-2.5, 3.0)])
def test_an_input_range_stands_between_pixels_and_network(images, low, high):
    """A network of another range, adapted, answers pixels as one that takes pixels."""
    # v = low + (high - low) x / 255, so x / 127.5 - 1 = (v - low) * 2 / (high - low) - 1.
    scale = 2 / (high - low)
    other = network_of(scale, -low * scale - 1)
    adapted = loading.adapt(other, (low, high))
    np.testing.assert_allclose(adapted(images), network_of()(images), atol=1e-5)
    assert adapted.output_shape == other.output_shape
    assert loading.weights_hash(adapted) == loading.weights_hash(other)


def test_what_prepares_pixels_itself_is_prepared_no_second_time(saved, tmp_path, monkeypatch):
    """Refused from the command line before anything loads; what is not known is let through."""
    (tmp_path / "run").mkdir()
    shutil.copy(saved / "network.keras", tmp_path / "run")
    (tmp_path / "told").mkdir()
    of_run = shutil.copy(saved / "network.keras", tmp_path / "told")
    (tmp_path / "told" / "metrics.json").write_text("{}")
    named = ("keras.applications:ResNet50", "zoo:digits_resnet8_swish")
    known = (*named, str(tmp_path / "run"), str(of_run))
    for source in known:
        for asked in ("--preprocessing=caffe", "--input_range=0,1"):
            values = programs.parsed(
                own_flags.define, f"--network={source}", asked, "--dataset=digits", "--epsilon=8"
            )
            with monkeypatch.context() as patch, pytest.raises(ValueError) as error:
                patch.setattr(loading, "load", None)
                settings.load_network(settings.complete(values))
            assert f"network {source} takes pixels" in str(error.value)
            assert "leave out --preprocessing and --input_range" in str(error.value)
    for source in ("network.keras", "served", "served/10"):
        loading.refuse_prepared(str(saved / source))
    loading.refuse_prepared("tests.loading_test:make")


def test_every_list_of_sources_is_that_of_load():
    with pytest.raises(ValueError, match="is not there; give ") as error:
        loading.load("nothing/here")
    sources = str(error.value).partition("; give ")[2]
    values = programs.parsed(own_flags.define)
    assert sources in values["network"].help
    document = (pathlib.Path(__file__).parent.parent / "docs/evaluation.md").read_text()
    _, _, listed = document.partition("`--network` takes a run's directory")
    listed, end, _ = " ".join(listed.split()).partition("that returns a Keras model")
    names = re.findall(r"\.keras file|SavedModel|zoo:NAME|keras\.applications:NAME|module:function",
                       sources)  # fmt: skip
    assert len(names) == 5 and end
    for name in names:
        assert name in listed.replace("`", ""), name


@pytest.mark.parametrize("ends", [(1.0, 1.0), (1.0, 0.0), (0.0,), (0.0, 1.0, 2.0)])
def test_an_input_range_has_two_ends_that_rise(ends):
    with pytest.raises(ValueError, match="is not LOW,HIGH, such as 0,1"):
        loading.adapt(network_of(), ends)


def test_preprocessing_is_that_of_keras_applications():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(inputs))  # of training alone
    identity = keras.Model(inputs, x)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype(np.float32)
    scaled = pixels / 255
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = {
        "none": pixels,
        "tf": pixels / 127.5 - 1,
        "torch": (scaled - mean) / deviation,
        "caffe": pixels[..., ::-1] - np.array([103.939, 116.779, 123.68]),
    }
    for name, value in expected.items():
        found = loading.adapt(identity, None, name)(tf.constant(pixels))
        np.testing.assert_allclose(found, value.reshape(2, -1), atol=1e-4)
        with tf.GradientTape() as tape:
            variable = tf.constant(pixels)
            tape.watch(variable)
            total = tf.reduce_sum(loading.adapt(identity, None, name)(variable))
        assert (np.abs(tape.gradient(total, variable)) > 0).all()
    in_training = loading.adapt(identity, (0, 1))(tf.constant(pixels), training=True)
    assert 0.2 < np.mean(in_training == 0) < 0.8


def broken():
    return {}["one"]


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: loading.load("nothing/here"), "'nothing/here' is not there"),
        (lambda: loading.load("nothing.keras"), "nothing.keras is not there"),
        (lambda: loading.load("tests.loading_test:missing"), "cannot be made"),
        (lambda: loading.load("tests.linear_network:images"), "cannot be made|returned"),
        (lambda: loading.load("json:loads"), r"cannot be made \(TypeError: "),
        (lambda: loading.load("sys:exit"), r"cannot be made \(SystemExit: "),
        (lambda: loading.load("tests.loading_test:broken"), r"cannot be made \(KeyError: 'one'"),
        (lambda: loading.adapt(None, (1, 0)), r"LOW,HIGH"),
        (lambda: loading.adapt(None, None, "pytorch"), "none, tf, torch, caffe"),
        (lambda: loading.adapt(None, (0, 1), "tf"), "not both"),
    ],
)
def test_what_is_no_network_is_refused_in_words(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_a_stop_is_taken_for_no_damaged_file(monkeypatch, tmp_path):
    def stopped(*_, **__):
        raise Interrupted("stopped", signal.SIGTERM)

    path = tmp_path / "network.keras"
    path.touch()
    monkeypatch.setattr(loading.sealed, "check_archive", lambda _: None)
    monkeypatch.setattr(keras.saving, "load_model", stopped)
    with pytest.raises(Interrupted, match="^stopped$"):
        loading.load(str(path))


def test_a_damaged_keras_file_is_refused_by_name(tmp_path):
    path = tmp_path / "network.keras"
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="network.keras cannot be loaded"):
        loading.load(str(path))


@pytest.mark.parametrize(
    "file",
    ["saved_model.pb", "fingerprint.pb", "variables/variables.index",
     "variables/variables.data-00000-of-00001"],
)  # fmt: skip
def test_a_damaged_saved_model_of_others_is_refused_in_one_line(saved, tmp_path, capfd, file):
    shutil.copytree(saved / "served/10", tmp_path / "copy")
    damaged = tmp_path / "copy" / file
    damaged.write_bytes(damaged.read_bytes()[:-7])
    with pytest.raises(ValueError, match="copy cannot be loaded as a SavedModel: damaged") as error:
        loading.load(str(tmp_path / "copy"))
    assert len(str(error.value).splitlines()) == 1
    assert "Traceback" not in "".join(capfd.readouterr())


def test_chosen_images_are_those_at_their_positions(tmp_path):
    images, labels = linear_network.images(11), np.arange(11, dtype=np.int32)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
    listed = tmp_path / "ids.txt"
    listed.write_text("7\n0\n10\n")
    chosen = selection.Selected(dataset, selection.positions(str(listed), "digits", "test"))
    found = [np.concatenate(column) for column in zip(*chosen, strict=True)]
    np.testing.assert_array_equal(found[1], [0, 7, 10])
    np.testing.assert_array_equal(found[0], images[[0, 7, 10]])
    with pytest.raises(ValueError, match="image 11 is asked for; the data set has 11"):
        list(selection.Selected(dataset, [11]))
    for content, said in (("", "empty"), ("1\n1", "twice"), ("a.png", "give numbers")):
        listed.write_text(content)
        with pytest.raises(ValueError, match=said):
            selection.positions(str(listed), "digits", "test")


def test_images_of_a_folder_are_chosen_by_name(tmp_path):
    from PIL import Image

    from sat_tf import data

    for part in ("train", "val"):
        for number in range(4):
            for name in ("ant", "bee"):
                path = tmp_path / part / name / f"{name}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                value = 10 * number + (100 if name == "bee" else 0)
                Image.new("RGB", (8, 8), (value, value, value)).save(path)
    listed = tmp_path / "ids.txt"
    listed.write_text("bee/bee2.png\nant/ant3.png\n")
    name = f"folder:{tmp_path}"
    positions = selection.positions(str(listed), name, "test")
    chosen = selection.Selected(data.load(name, "test", batch_size=3), positions)
    found = [np.concatenate(column) for column in zip(*chosen, strict=True)]
    np.testing.assert_array_equal(found[0][:, 0, 0, 0], [30, 120])
    np.testing.assert_array_equal(found[1], [0, 1])
    listed.write_text("bee/bee9.png")
    with pytest.raises(ValueError, match="1 images are not in the folder: bee/bee9.png"):
        selection.positions(str(listed), name, "test")
    with pytest.raises(ValueError, match="8 x 8 pixels, more than --max_pixels=63"):
        selection.positions(str(listed), name, "test", max_pixels=63)


def formed(shapes, outputs):
    inputs = [keras.Input(shape) for shape in shapes]
    features = [keras.layers.GlobalAveragePooling2D()(one) for one in inputs]
    body = features[0] if len(features) == 1 else keras.layers.Add()(features)
    logits = [keras.layers.Dense(number)(body) for number in outputs]
    if len(shapes) == len(outputs) == 1:
        return keras.Model(inputs[0], logits[0])
    return keras.Model(inputs, logits)


@pytest.mark.parametrize(
    "shapes, outputs, said",
    [
        ([(8, 12, 1)], [10], "images of 8 x 12 pixels; data are read as squares"),
        ([(8, 8, 3)], [10], "images of 3 channels and the data have 1"),
        ([(9, 9, 1)], [10], "9 x 9 pixels and --image_size=8 makes others"),
        ([(8, 8, 1)], [10, 2], "gives 2 tensors of shapes .None, 10., .None, 2.; one output"),
        ([(8, 8, 1)] * 2, [10], "takes 2 tensors of shapes .* without lists"),
        ([(8, 8, 1)], [1], "at least 2 classes"),
    ],
)
def test_a_network_of_another_form_is_refused_in_one_line(shapes, outputs, said):
    with pytest.raises(ValueError, match=said) as refusal:
        loading.check_images(formed(shapes, outputs), 8, 1)
    assert "\x1b" not in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("shape", [(8, 8, 1), (None, None, 1), (None, 8, 1)])
def test_a_network_that_takes_the_images_passes(shape):
    loading.check_images(formed([shape], [10]), 8, 1)
    loading.check_images(formed([shape], [10]), None, 1)
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="before it is built"):
        loading.image_form(unbuilt)


@pytest.mark.parametrize(
    "inputs, outputs, said",
    [
        ({"x": [None, 2, 2, 1]}, ["logits", "classes"], None),
        ({"x": [None, 2, 2, 1]}, ["dense_3"], None),
        ({"x": [None, 2, 2, 1]}, ["dense", "classes"], "returns classes, dense; expected one of"),
        ({"x": [None, 4]}, ["logits"], "expected one float32 input"),
        ({"x": [None, 2, 2, 1], "y": [None]}, ["logits"], "expected one float32 input"),
        (None, [], "has no signature serving_default"),
    ],
)
def test_a_saved_model_takes_images_and_one_of_its_outputs_is_logits(
    inputs, outputs, said, tmp_path, monkeypatch
):
    answers = {name: tf.TensorSpec([None, 3 + n]) for n, name in enumerate(outputs)}
    specs = {name: tf.TensorSpec(shape) for name, shape in (inputs or {}).items()}

    def signature(**given):
        return {name: (name, given) for name in outputs}

    signature.structured_input_signature, signature.structured_outputs = ((), specs), answers
    signature.variables = [
        types.SimpleNamespace(name=name, trainable=name == "a") for name in ("b", "a")
    ]
    found = {} if inputs is None else {"serving_default": signature}
    loaded = types.SimpleNamespace(signatures=found)
    monkeypatch.setattr(served, "_load", lambda directory: loaded)
    if said is not None:
        with pytest.raises(ValueError, match=said):
            served.Served(tmp_path)
        return
    network = served.Served(tmp_path)
    assert network("the images") == (outputs[0], {"x": "the images"})
    assert (network.input_shape, network.output_shape) == ((None, 2, 2, 1), (None, 3))
    assert [one.name for one in network.variables] == ["a", "b"]
    assert [one.name for one in network.trainable_variables] == ["a"]
    specs["x"] = tf.TensorSpec([None, 2, 2, 1], tf.uint8)
    with pytest.raises(ValueError, match="expected one float32 input"):
        served.Served(tmp_path)


def test_the_highest_version_that_is_whole_is_loaded(tmp_path):
    assert served.find(tmp_path) is None
    for name in ("2", "10", "9", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    (tmp_path / "11").mkdir()  # which is being copied
    assert served.find(tmp_path) == tmp_path / "10"
    (tmp_path / "saved_model.pb").touch()
    assert served.find(tmp_path) == tmp_path
