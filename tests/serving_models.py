"""Exported versions as TensorFlow Serving holds them, for `tests.serving_server`.

A version is loaded as there: by TensorFlow's SavedModel loader into a session, from which the
outputs of a signature are fetched. What is said of what goes wrong are the words of its sources.
"""

import pathlib
import sys
import threading
import time

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

_CODES = {number: code for code, number in vars(tf.errors).items() if isinstance(number, int)}


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Version:
    """A version in a session of its own."""

    def __init__(self, directory):
        with tf.Graph().as_default() as graph:
            self._session = tf.compat.v1.Session(graph=graph)
            loaded = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(directory))
        self.signatures = loaded.signature_def

    def predict(self, name, inputs):
        """Returns an array for each output."""
        signature = self.signatures[name]
        if set(inputs) != set(signature.inputs):
            sent, expected = (",".join(sorted(names)) for names in (inputs, signature.inputs))
            raise Refused(
                "INVALID_ARGUMENT",
                f"input size does not match signature: {{{sent}}}!={{{expected}}}",
            )
        feed = {}
        for key, value in inputs.items():
            info = signature.inputs[key]
            dtype = tf.dtypes.as_dtype(info.dtype)
            if tf.dtypes.as_dtype(value.dtype) != dtype:
                got = tf.dtypes.as_dtype(value.dtype).name
                message = f"Expects arg[0] to be {dtype.name} but {got} is provided"
                raise Refused("INVALID_ARGUMENT", message)
            feed[info.name] = value
        outputs = {key: info.name for key, info in signature.outputs.items()}
        try:
            return self._session.run(outputs, feed)
        except tf.errors.OpError as error:
            # The session's Python adds to what the session said, which is all that a server has.
            raise Refused(_CODES[error.error_code], error.__context__.message) from error
        except ValueError as error:  # a shape, which TensorFlow Serving sees as it runs
            raise Refused("INVALID_ARGUMENT", str(error)) from error


class Models:
    """What both protocols ask."""

    def __init__(self, directories, absent):
        self._versions, self._labels = {}, {}
        for directory in map(pathlib.Path, directories):
            text = (directory / "models.config").read_text()
            found = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
            (config,) = found.model_config_list.config
            if config.model_version_policy.WhichOneof("policy_choice") != "all":
                raise ValueError(f"{directory} does not have all versions served")
            present = (one for one in directory.iterdir() if one.name.isdigit())
            self._versions[config.name] = {int(one.name): Version(one) for one in present}
            self._labels[config.name] = dict(config.version_labels)
        self._absent = absent
        self.faults, self.asked = [], []
        self._lock = threading.Lock()

    def note(self, line):
        """Notes a request, and goes wrong where that was asked for."""
        if present := [name for name in self._absent if sys.modules.get(name)]:
            raise RuntimeError(f"{present} must not be imported here")
        with self._lock:
            self.asked.append(line)
            fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, str):
            raise Refused(fault, f"as asked for: {fault}")
        time.sleep(fault or 0)

    def find(self, spec):
        """Returns the number of the version that a ModelSpec names, and the version."""
        versions = self._versions.get(spec.name, {})
        if spec.version_label:
            labels = self._labels.get(spec.name, {})
            if spec.version_label not in labels:
                message = f"Unrecognized servable version label: {spec.version_label}"
                raise Refused("INVALID_ARGUMENT", message)
            number, what = labels[spec.version_label], "Specific"
        elif spec.HasField("version"):
            number, what = spec.version.value, "Specific"
        else:
            number, what = max(versions, default=0), "Latest"
        if number not in versions:
            number = f", {number}" if what == "Specific" else ""
            message = f"Servable not found for request: {what}({spec.name}{number})"
            raise Refused("NOT_FOUND", message)
        return number, versions[number]

    def predict(self, request):
        number, version = self.find(request.model_spec)
        name = request.model_spec.signature_name or "serving_default"
        if name not in version.signatures:
            message = f'Serving signature key "{name}" not found.'
            raise Refused("FAILED_PRECONDITION", message)
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        first = next(iter(inputs.values()), ())
        self.note(f"predict {name} {number} {len(first)}")
        answer = predict_pb2.PredictResponse()
        answer.model_spec.name, answer.model_spec.signature_name = request.model_spec.name, name
        answer.model_spec.version.value = number
        for key, value in version.predict(name, inputs).items():
            answer.outputs[key].CopyFrom(_proto(value))
        return answer

    def metadata(self, request):
        self.note("metadata")
        number, version = self.find(request.model_spec)
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.model_spec.name = request.model_spec.name
        answer.model_spec.version.value = number
        definitions = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in version.signatures.items():
            definitions.signature_def[name].CopyFrom(signature)
        answer.metadata["signature_def"].Pack(definitions)
        return answer

    def status(self, request):
        self.note("status")
        spec = request.model_spec
        versions = self._versions.get(spec.name, {})
        numbers = [spec.version.value] if spec.HasField("version") else sorted(versions)[::-1]
        if not numbers:
            raise Refused("NOT_FOUND", f"Could not find any versions of model {spec.name}")
        answer = get_model_status_pb2.GetModelStatusResponse()
        for number in numbers:
            if number not in versions:
                message = f"Could not find version {number} of model {spec.name}"
                raise Refused("NOT_FOUND", message)
            answer.model_version_status.add(version=number, state="AVAILABLE")
        return answer


def _proto(value):
    """Writes the values into a field of their own, as TensorFlow Serving does."""
    packed = tf.make_tensor_proto(value)
    if packed.tensor_content:
        field = {tf.float32: "float_val", tf.int64: "int64_val"}[tf.dtypes.as_dtype(packed.dtype)]
        packed.ClearField("tensor_content")
        getattr(packed, field).extend(np.asarray(value).ravel().tolist())
    return packed
