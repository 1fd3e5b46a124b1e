"""A server asked by gRPC, with the messages of the package tensorflow-serving-api."""

import contextlib
import http.client
import importlib.util
import os
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from export import remote
from export.remote import tensors

_PROBE_SECONDS = 2.0


class Grpc:
    """A network on a server that speaks gRPC; see `remote.Server`.

    Args:
      address: "host:port".
      model, timeout, retries: as in `remote.connect`.

    Raises:
      ValueError: a package is missing.
    """

    def __init__(self, address: str, model: remote.Model, timeout: float, retries: int):
        self._address, self._model = address, model
        self._timeout, self._retries = timeout, retries
        self._grpc, self._apis = _packages()
        options = {
            "grpc.max_receive_message_length": -1,  # by default 4 MiB
            # Or a retry would be answered from what the last one met.
            "grpc.initial_reconnect_backoff_ms": 100,
            "grpc.min_reconnect_backoff_ms": 100,
            "grpc.max_reconnect_backoff_ms": 1000,
        }
        channel = self._grpc.insecure_channel(address, options=list(options.items()))
        self._prediction = self._apis.prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._models = self._apis.model_service_pb2_grpc.ModelServiceStub(channel)
        self.close = channel.close

    def versions(self) -> list[remote.Version]:
        """See `remote.Server`."""
        request = self._apis.get_model_status_pb2.GetModelStatusRequest()
        self._name(request.model_spec)
        answer = self._ask(self._models.GetModelStatus, request)
        return remote.versions(self._as_json(answer))

    def signatures(self) -> tuple[int, dict[str, remote.Signature]]:
        """See `remote.Server`."""
        messages = self._apis.get_model_metadata_pb2
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._name(request.model_spec)
        answer = self._ask(self._prediction.GetModelMetadata, request)
        definitions = messages.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(definitions)
        found = remote.signatures(self._as_json(definitions))
        return answer.model_spec.version.value, found

    def predict(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, list]:
        """See `remote.Server`."""
        request = self._apis.predict_pb2.PredictRequest()
        self._name(request.model_spec)
        request.model_spec.signature_name = signature
        for name, values in inputs.items():
            tensors.fill(request.inputs[name], values)
        answer = self._ask(self._prediction.Predict, request)
        return {name: tensors.read(proto) for name, proto in answer.outputs.items()}

    def _name(self, spec):
        spec.name = self._model.name
        if self._model.version is not None:
            spec.version.value = self._model.version
        if self._model.label is not None:
            spec.version_label = self._model.label

    def _as_json(self, message):
        convert = self._apis.json_format.MessageToDict
        return convert(message, preserving_proto_field_name=True)

    def _ask(self, method, request):
        return remote.persistently(lambda: self._once(method, request), self._retries)

    def _once(self, method, request):
        try:
            return method(request, timeout=self._timeout)
        except self._grpc.RpcError as error:
            code, said = error.code().name, remote.brief(error.details() or "")
        if code == "DEADLINE_EXCEEDED":
            said = f"no answer within {self._timeout:g} seconds (--timeout)"
        elif code == "UNAVAILABLE" and _speaks_http(self._address):
            code = "UNIMPLEMENTED"
            said = f"this port speaks HTTP, not gRPC; give http://{self._address} for REST"
        raise remote.Failed(code, f"{self._address}: {said} ({code})")


def _speaks_http(address):
    """Tells whether a port answers HTTP/1, as the REST port does; gRPC's own does not."""
    connection = http.client.HTTPConnection(address, timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", "/v1/models")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _packages():
    """Imports grpc and the messages; returns both."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # failures are exceptions as well
    try:
        with _without_tensorflow():
            import grpc
            from google.protobuf import json_format
            from tensorflow_serving.apis import (
                get_model_metadata_pb2,
                get_model_status_pb2,
                model_service_pb2_grpc,
                predict_pb2,
                prediction_service_pb2_grpc,
            )
    except ImportError as error:
        raise ValueError(
            f"gRPC needs tensorflow-serving-api ({error}): in a checkout of sat_tf "
            "pip install -r requirements-serving.txt, or '.[serving]' to install both"
            ", or sat_tf[serving]; or give the REST port, which needs no package: "
            "--server=http://localhost:8501"
        ) from error
    return grpc, types.SimpleNamespace(
        json_format=json_format,
        get_model_metadata_pb2=get_model_metadata_pb2,
        get_model_status_pb2=get_model_status_pb2,
        model_service_pb2_grpc=model_service_pb2_grpc,
        predict_pb2=predict_pb2,
        prediction_service_pb2_grpc=prediction_service_pb2_grpc,
    )


@contextlib.contextmanager
def _without_tensorflow() -> Iterator[None]:
    """Has modules below `tensorflow` imported without it.

    The messages import others that stand there, which need nothing of TensorFlow: they take a tenth
    of a second, and it takes four. Where it is imported already, or later, nothing changes.
    """
    found = "tensorflow" not in sys.modules and importlib.util.find_spec("tensorflow")
    if found:
        package = types.ModuleType("tensorflow")
        package.__path__ = found.submodule_search_locations
        sys.modules["tensorflow"] = package
    try:
        yield
    finally:
        if found:
            del sys.modules["tensorflow"]
