"""TensorFlow Serving's REST interface, for `tests.serving_server`.

Paths, forms of requests and answers, errors and their HTTP status are those of its document
"RESTful API" and of its sources (`http_rest_api_util.cc`, `json_tensor.cc`, `http_server.cc`).
"""

import base64
import http.server
import json
import re
import threading
import urllib.parse

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)

from tests.serving_models import Refused

HTTP = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "NOT_FOUND": 404,
        "RESOURCE_EXHAUSTED": 429, "UNIMPLEMENTED": 501, "UNAVAILABLE": 503,
        "DEADLINE_EXCEEDED": 504}  # fmt: skip
PATH = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(?:(:predict)|/(metadata))?"
)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    models = None  # set by `start`

    def do_GET(self):
        if self.path == "/asked":
            return self._send(200, self.models.asked)
        self._answer("GET", b"")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/faults":
            self.models.faults[:] = json.loads(body)
            self.models.asked.clear()
            return self._send(200, None)
        self._answer("POST", body)

    def _answer(self, verb, body):
        try:
            self._send(200, self._ask(verb, body))
        except Refused as refused:
            # It writes the escapes of C into the JSON string.
            octets = str(refused).encode("utf-8").decode("latin-1")
            self._send(HTTP.get(refused.code, 500), {"error": _escaped(octets)})

    def _ask(self, verb, body):
        found = PATH.fullmatch(self.path)
        if found is None or (verb == "POST") != (found[4] is not None):
            raise Refused("INVALID_ARGUMENT", f"Malformed request: {verb} {self.path}")
        name, number, label, predicts, describes = found.groups()
        request = (
            predict_pb2.PredictRequest() if predicts
            else get_model_metadata_pb2.GetModelMetadataRequest() if describes
            else get_model_status_pb2.GetModelStatusRequest()
        )  # fmt: skip
        request.model_spec.name = urllib.parse.unquote(name)
        if number is not None:
            request.model_spec.version.value = int(number)
        if label is not None:
            request.model_spec.version_label = urllib.parse.unquote(label)
        if predicts:
            return self._predict(request, body)
        options = {
            "preserving_proto_field_name": True,
            "always_print_fields_with_no_presence": True,
        }
        if not describes:
            return json_format.MessageToDict(self.models.status(request), **options)
        answer = self.models.metadata(request)
        definitions = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(definitions)
        return {
            "model_spec": json_format.MessageToDict(answer.model_spec, **options),
            "metadata": {"signature_def": json_format.MessageToDict(definitions, **options)},
        }

    def _predict(self, request, body):
        try:
            asked = json.loads(body)
        except ValueError as error:
            raise Refused("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error
        name = asked.get("signature_name", "serving_default")
        _, version = self.models.find(request.model_spec)
        if name not in version.signatures:
            message = f'Serving signature name: "{name}" not found in signature def'
            raise Refused("INVALID_ARGUMENT", message)
        request.model_spec.signature_name = name
        expected = version.signatures[name].inputs
        for key, values in _columns(asked, expected).items():
            request.inputs[key].CopyFrom(_read(values, expected[key].dtype))
        outputs = {
            key: _plain(tf.make_ndarray(value))
            for key, value in self.models.predict(request).outputs.items()
        }  # several, and none named "..._bytes": then the form would be another one
        if "inputs" in asked:
            return {"outputs": outputs}
        rows = zip(*outputs.values(), strict=True)
        return {"predictions": [dict(zip(outputs, row, strict=True)) for row in rows]}

    def _send(self, status, answer):
        text = json.dumps(answer, ensure_ascii=False).encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass


def _columns(asked, expected):
    """Returns the values of each input, from rows ("instances") or columns ("inputs")."""
    if ("instances" in asked) == ("inputs" in asked):
        raise Refused("INVALID_ARGUMENT", "Missing 'inputs' or 'instances' key")
    (only,) = expected
    if "inputs" in asked:
        values = asked["inputs"]
        named = isinstance(values, dict) and set(values) != {"b64"}
        if named and only not in values:
            raise Refused("INVALID_ARGUMENT", f"Missing named input: {only} in 'inputs' object.")
        return {only: values[only] if named else values}
    rows = asked["instances"]
    if not isinstance(rows, list) or not rows:
        raise Refused("INVALID_ARGUMENT", "Excepting 'instances' to be an list/array")
    named = [isinstance(row, dict) and set(row) != {"b64"} for row in rows]
    for index, row in enumerate(rows):
        if named[index] and set(row) != {only}:
            raise Refused(
                "INVALID_ARGUMENT",
                f"Failed to process element: {index} of 'instances' list. JSON object: "
                f"{json.dumps(row)} must only have keys: {only}",
            )
    return {
        only: [row[only] if is_named else row for row, is_named in zip(rows, named, strict=True)]
    }


def _read(values, number):
    """Turns JSON into a TensorProto; bytes are objects {"b64": text}."""
    dtype = tf.dtypes.as_dtype(number)

    def read(value):
        if isinstance(value, list):
            return [read(one) for one in value]
        if isinstance(value, dict) and dtype == tf.string:
            try:
                return base64.b64decode(value["b64"], validate=True)
            except ValueError as error:
                raise Refused("INVALID_ARGUMENT", "Unable to base64 decode") from error
        if isinstance(value, str) == (dtype == tf.string) and not isinstance(value, dict):
            return value
        raise Refused(
            "INVALID_ARGUMENT",
            f"JSON Value: {json.dumps(value)} Type: {type(value).__name__} is not of expected "
            f"type: {dtype.name}",
        )

    try:
        return tf.make_tensor_proto(read(values), dtype)
    except (TypeError, ValueError) as error:
        raise Refused(
            "INVALID_ARGUMENT", f"Encountered list at unexpected size: {error}"
        ) from error


def _plain(array):
    """Turns an output into what JSON can say."""
    if array.dtype == object:
        array = np.array([one.decode("utf-8") for one in array.ravel()]).reshape(array.shape)
    return array.tolist()


def _escaped(latin):
    escapes = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "'": "\\'", "\\": "\\\\"}
    return "".join(
        escapes.get(one) or (one if " " <= one <= "~" else f"\\{ord(one):03o}") for one in latin
    )


def start(models):
    """Serves from now on; returns the port."""
    Handler.models = models
    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]
