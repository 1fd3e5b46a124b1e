"""An exported version behind a server of another process: every signature, form and refusal."""

import base64
import contextlib
import json
import types

import grpc
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from export import client, comparison, remote, saved_model
from sat_tf.data import crops
from tests.served import (
    HEIGHT,
    NAMES,
    WIDTH,
    encode,
    logits_of,
    make_network,
    random_pixels,
)
from tests.serving_process import serving
from tests.telling import telling

SIGNATURES = ("serving_default", "uint8_pixels", "encoded_images")
PREDICT = "/v1/models/pets:predict"


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return make_network()


@pytest.fixture(scope="module")
def version(network, tmp_path_factory):
    directory = tmp_path_factory.mktemp("serving") / "pets"
    return saved_model.export(
        network, directory, saved_model.Options(class_names=NAMES, verified=False)
    )


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory):
    """A run on a data set, and what was exported of it."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    network = telling(keras.Model(pixels, keras.layers.Dense(10)(x)))
    run = tmp_path_factory.mktemp("digits")
    metrics = {"dataset": "digits", "image_size": 8, "eval_resize": "whole"}
    write_run(run, network, metrics)
    return run, saved_model.export(
        network, run / "digits", saved_model.Options(verified=False)
    ).parent


def write_run(directory, network, metrics):
    network.save(directory / "network.keras")
    (directory / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


@pytest.fixture(scope="module")
def served(version, of_digits):
    with serving(version.parent, of_digits[1]) as server:
        yield server


@pytest.fixture(scope="module")
def stub(served):
    with grpc.insecure_channel(served.grpc) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def inputs_of(signature, pixels):
    """Returns the name and the values of a signature's input."""
    if signature == "encoded_images":
        return "image_bytes", np.array([encode(one) for one in pixels], object)
    return "pixels", np.float32(pixels) if signature == "serving_default" else pixels


def as_json(values):
    if values.dtype == object:
        return [{"b64": base64.b64encode(one).decode()} for one in values]
    return values.tolist()


def check(answers, network, pixels):
    logits = logits_of(network, pixels)
    np.testing.assert_allclose(answers["logits"], logits, atol=1e-4 * np.abs(logits).max())
    np.testing.assert_allclose(answers["probabilities"], tf.nn.softmax(logits), atol=1e-4)
    assert list(answers["classes"]) == logits.argmax(axis=1).tolist()
    assert list(answers["labels"]) == [NAMES[one] for one in logits.argmax(axis=1)]


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("signature", SIGNATURES)
def test_every_signature_answers_by_grpc_as_the_network(stub, network, signature, size):
    pixels = random_pixels(size)
    name, values = inputs_of(signature, pixels)
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "pets", signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    answer = stub.Predict(request, timeout=60)
    found = {key: tf.make_ndarray(value) for key, value in answer.outputs.items()}
    found["labels"] = [one.decode() for one in found["labels"]]
    check(found, network, pixels)


@pytest.mark.parametrize("form", ["rows", "named rows", "columns", "named columns"])
@pytest.mark.parametrize("signature", SIGNATURES)
def test_every_signature_answers_by_rest_in_every_form(served, network, signature, form):
    pixels = random_pixels(3)
    name, values = inputs_of(signature, pixels)
    values = as_json(values)
    body = {
        "rows": {"instances": values},
        "named rows": {"instances": [{name: one} for one in values]},
        "columns": {"inputs": values},
        "named columns": {"inputs": {name: values}},
    }[form]
    status, answer = served.post(PREDICT, {"signature_name": signature, **body})
    assert status == 200
    if "instances" in body:
        rows = answer["predictions"]
        answer["outputs"] = {key: [row[key] for row in rows] for key in rows[0]}
    check(answer["outputs"], network, pixels)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "Missing "),
        ({"instances": []}, "to be an list/array"),
        ({"instances": [[1.0]]}, "shape"),
        ({"instances": [{"image_bytes": 1}]}, "must only have keys: pixels"),
        ({"inputs": {"image_bytes": [1]}}, "Missing named input: pixels"),
        ({"signature_name": "nope"}, 'Serving signature name: \\"nope\\" not found in signature'),
        ({"signature_name": "encoded_images", "instances": ["text"]}, "not a JPEG and not a PNG"),
        ({"signature_name": "encoded_images", "instances": [{"b64": "?"}]},
         "Unable to base64 decode"),
        ({"signature_name": "encoded_images", "instances": [1]}, "is not of expected type: string"),
    ],
)  # fmt: skip
def test_a_wrong_request_by_rest_is_refused_in_words_and_the_server_goes_on(served, body, words):
    status, answer = served.post(PREDICT, body)
    assert status == 400 and list(answer) == ["error"] and words in answer["error"]
    assert served.post(PREDICT, {"instances": random_pixels(1).tolist()})[0] == 200


def test_every_warm_up_request_is_answered(version, stub, network):
    file = version / "assets.extra" / "tf_serving_warmup_requests"
    answered = {}
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record).predict_log
        answer = stub.Predict(log.request, timeout=60)
        (values,) = (tf.make_ndarray(one) for one in log.request.inputs.values())
        logits = tf.make_ndarray(answer.outputs["logits"])
        assert len(logits) == len(values) and answer.model_spec.version.value == 1
        if log.request.model_spec.signature_name != "encoded_images":
            expected = logits_of(network, values)
            np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
        answered.setdefault(log.request.model_spec.signature_name, []).append(len(values))
    assert set(answered) == set(SIGNATURES) and len(set(map(tuple, answered.values()))) == 1


@pytest.fixture(scope="module")
def run(network, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    write_run(directory, network, {"class_names": NAMES, "eval_resize": "whole"})
    return directory


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """PNGs of the network's size, and a larger JPEG."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, pixels in enumerate(random_pixels(4)):
        (folder / f"{index}.png").write_bytes(encode(pixels))
    larger = np.kron(random_pixels(1)[0], np.ones((3, 2, 1), np.uint8))
    assert larger.shape == (3 * HEIGHT, 2 * WIDTH, 3)
    (folder / "larger.jpg").write_bytes(encode(larger, "jpeg"))
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture
def connect(served):
    with contextlib.ExitStack() as stack:

        def connected(protocol, model="pets"):
            server = remote.connect(served.addresses[protocol], remote.Model(model), timeout=60)
            return stack.enter_context(contextlib.closing(server))

        yield connected


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_server_is_compared_with_its_run_on_pictures(connect, run, files, protocol):
    found = comparison.compare(connect(protocol), run, files, batch_size=2)
    assert (found.version, found.signature, found.images) == (1, "encoded_images", "5 pictures")
    assert found.difference <= found.tolerance < 1e-3


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_server_is_compared_with_its_run_on_the_test_set(connect, of_digits, protocol):
    server = connect(protocol, "digits")
    found = comparison.compare(server, of_digits[0], batch_size=8, num_images=20)
    assert (found.signature, found.images) == ("serving_default", "20 images of digits test")
    assert found.difference <= found.tolerance < 1e-3


def test_pictures_are_resized_as_the_run_was_evaluated(tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    network = telling(keras.Model(pixels, keras.layers.Dense(4)(x)))
    write_run(tmp_path, network, {"eval_resize": "center_crop"})
    file = tmp_path / "picture.png"
    file.write_bytes(encode(np.random.default_rng(3).integers(0, 256, (70, 50, 3), np.uint8)))

    def answered(server, signature, paths, batch_size):
        for path in paths:
            cropped = crops.evaluation_image(tf.io.read_file(path), 8, "center_crop", 3)
            yield path, {"logits": network(cropped[None]).numpy()[0]}

    monkeypatch.setattr(comparison.pictures, "classify", answered)
    server = types.SimpleNamespace(signatures=lambda: (1, {}))
    found = comparison.compare(server, tmp_path, [str(file)])
    assert found.difference <= found.tolerance
    found = comparison.compare(server, tmp_path, [str(file)], resize="fit")
    assert found.difference > 10 * found.tolerance


@pytest.mark.parametrize("pictures", [True, False])
def test_a_difference_is_as_large_as_it_was_made(connect, network, of_digits, run, files, tmp_path,
                                                 pictures):  # fmt: skip
    source = run if pictures else of_digits[0]
    other = keras.saving.load_model(source / "network.keras", compile=False)
    bias = other.layers[-1].bias
    bias.assign(bias + np.eye(bias.shape[0])[1] * 0.25)
    write_run(tmp_path, other, json.loads((source / "metrics.json").read_text()))
    server = connect("grpc", "pets" if pictures else "digits")
    found = comparison.compare(server, tmp_path, files if pictures else (), num_images=9)
    assert found.difference == pytest.approx(0.25, rel=1e-3) and found.tolerance < 1e-2


@pytest.mark.parametrize("difference", [0.5, float("nan")])
def test_a_server_that_is_off_is_one_line_and_status_1(monkeypatch, capsys, difference):
    found = comparison.Comparison(7, "serving_default", "9 images of digits test", difference, 0.25)
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: found)
    names = ("batch_size", "num_images", "resize", "data_dir")
    given = types.SimpleNamespace(
        **dict.fromkeys(names), compare="runs/digits", model="digits", server="localhost:8500"
    )
    assert client.compare(None, [], given) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.endswith(
        "digits version 7 at localhost:8500 does not answer as runs/digits does: the largest "
        f"difference of a logit on 9 images of digits test is {difference:.3g}, at most 0.25 may "
        "be (serving_default)\n"
    )
    found = comparison.Comparison(7, "serving_default", "9 images of digits test", 0.25, 0.25)
    assert client.compare(None, [], given) == 0
    assert capsys.readouterr().out.startswith("digits version 7 at localhost:8500 answers as")


def test_what_cannot_be_compared_is_refused(connect, run, of_digits, files, tmp_path):
    server = connect("rest")
    with pytest.raises(ValueError, match="does not say its data set; name pictures"):
        comparison.compare(server, run)
    with pytest.raises(ValueError, match="network.keras is not there"):
        comparison.compare(server, tmp_path, files)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(encode(random_pixels(1)[0], "jpeg")[:300])
    with pytest.raises(ValueError, match=f"{broken}: .*Invalid JPEG data"):
        comparison.compare(server, run, [*files, str(broken)])
    with pytest.raises(ValueError, match=r"logits \(1, 3\), .* with \(1, 10\)"):
        comparison.compare(server, of_digits[0], files)


def test_the_program_compares(served, of_digits, forked):
    address, run = served.grpc, of_digits[0]
    arguments = (f"--server={address}", f"--compare={run}", "--num_images=10")
    status, out, err = forked.run("export.client", *arguments)
    assert (status, err) == (0, "")
    assert out.startswith(
        f"digits version 1 at {address} answers as {run} does: the largest difference of a logit "
        "on 10 images of digits test is "
    )


def test_the_test_set_is_read_as_the_run_was_evaluated(tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 1))
    network = keras.Model(pixels, keras.layers.Dense(4)(keras.layers.Flatten()(pixels)))
    metrics = {"dataset": "pets", "image_size": 8, "eval_resize": "center_crop"}
    write_run(tmp_path, network, metrics)
    asked, images = [], np.random.default_rng(0).uniform(0, 255, (9, 8, 8, 1)).astype(np.float32)

    def load(*given, **options):
        asked.append((*given, options))
        return tf.data.Dataset.from_tensor_slices((images, np.zeros(9))).batch(4)

    monkeypatch.setattr(comparison.data, "load", load)
    sent = []
    server = types.SimpleNamespace(
        signatures=lambda: (5, {}),
        predict=lambda name, inputs: (
            sent.append((name, inputs["pixels"])) or {"logits": network(inputs["pixels"]).numpy()}
        ),
    )
    found = comparison.compare(server, tmp_path, batch_size=4, num_images=6, data_dir="there")
    options = {"batch_size": 4, "image_size": 8, "eval_resize": "center_crop", "data_dir": "there"}
    assert asked == [("pets", "test", options)]
    assert [name for name, _ in sent] == ["serving_default"] * 2
    np.testing.assert_array_equal(np.concatenate([one for _, one in sent]), images[:6])
    assert (found.version, found.images) == (5, "6 images of pets test")
    assert found.difference <= found.tolerance
