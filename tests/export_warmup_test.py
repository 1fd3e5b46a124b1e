"""The warm-up is what a server reads: requests that the version answers, of every form."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies
from PIL import Image
from tensorflow_serving.apis import prediction_log_pb2

from export import saved_model, signatures, warmup
from tests.served import HEIGHT, NAMES, WIDTH, make_network


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    keras.utils.set_random_seed(0)
    directory = tmp_path_factory.mktemp("serving") / "tiny"
    return saved_model.export(
        make_network(), directory, saved_model.Options(class_names=NAMES, verified=False)
    )


def requests_of(version):
    """Reads the file as the server does: with the messages' own classes."""
    file = version / "assets.extra" / "tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        assert log.SerializeToString(deterministic=True) == record  # nothing unknown, nothing lost
        yield log.predict_log.request


def test_every_signature_and_batch_size_is_asked_once_and_answers(version):
    loaded, asked = tf.saved_model.load(version), []
    for request in requests_of(version):
        assert request.model_spec.name == "tiny" and not request.model_spec.HasField("version")
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        ((_, values),) = inputs.items()
        answers = loaded.signatures[request.model_spec.signature_name](
            **{name: tf.constant(value) for name, value in inputs.items()}
        )
        assert answers["logits"].shape == (len(values), len(NAMES))
        assert np.isfinite(answers["logits"]).all()
        asked.append((request.model_spec.signature_name, len(values)))
    names = (signatures.FLOAT, signatures.UINT8, signatures.ENCODED)
    assert sorted(asked) == sorted((name, size) for name in names for size in (1, 8, 64))


def test_pictures_are_jpegs_larger_than_the_network(version):
    pictures = [
        one
        for request in requests_of(version)
        if request.model_spec.signature_name == signatures.ENCODED
        for one in tf.make_ndarray(request.inputs["image_bytes"])
    ]
    assert len(pictures) == 1 + 8 + 64
    for one in set(pictures):
        image = Image.open(io.BytesIO(one))
        assert image.format == "JPEG" and image.width > WIDTH and image.height > HEIGHT


def test_pixels_take_no_room_and_a_network_of_other_channels_has_no_pictures(tmp_path):
    warmup.write(tmp_path, "wide", (224, 224, 2), (1, 64))
    assert (tmp_path / warmup.REQUESTS).stat().st_size < 1000  # 64 float images: 25 MB
    names = {signature for signature, _ in warmup.requests((224, 224, 2), (1, 64))}
    assert names == {signatures.FLOAT, signatures.UINT8}


@settings(deadline=None)
@given(strategies.dictionaries(strategies.text(), strategies.binary(max_size=20_000), max_size=3))
def test_what_is_written_by_hand_is_the_wire_format(inputs):
    tensors = {key: tf.make_tensor_proto([value]) for key, value in inputs.items()}
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = "größer", "any"
    for key, tensor in tensors.items():
        request.inputs[key].CopyFrom(tensor)
    found = warmup.prediction_log("größer", "any", tensors)
    assert prediction_log_pb2.PredictionLog.FromString(found) == log
