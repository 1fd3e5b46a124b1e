"""A server asked by REST, with the standard library."""

import base64
import http.client
import json
import re
import ssl
import urllib.parse
from collections.abc import Mapping
from typing import Any

from export import remote

# As TensorFlow Serving's `ToHTTPStatusCode` maps them.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "RESOURCE_EXHAUSTED",  # of a proxy before the server
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"'": b"'", b'"': b'"', b"\\": b"\\"}


class Rest:
    """A network on a server that speaks REST; see `remote.Server`.

    Args:
      address: "http://host:port" or "https://host:port", with a path where a proxy wants one.
      model, timeout, retries: as in `remote.connect`.

    Raises:
      ValueError: an address without a host, or with a port that is no number.
    """

    def __init__(self, address: str, model: remote.Model, timeout: float, retries: int):
        parts = urllib.parse.urlsplit(address)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or parts.query or parts.fragment:
            raise ValueError(f"the server is {address!r}; expected http://HOST:PORT")
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        self._connection = kinds[parts.scheme](host, port, timeout=timeout)
        self.close = self._connection.close
        self._address, self._timeout, self._retries = address.rstrip("/"), timeout, retries
        self._path = f"{parts.path.rstrip('/')}/v1/models/{_quoted(model.name)}"
        if model.version is not None:
            self._path += f"/versions/{model.version}"
        if model.label is not None:
            self._path += f"/labels/{_quoted(model.label)}"

    def versions(self) -> list[remote.Version]:
        """See `remote.Server`."""
        return remote.versions(self._ask("GET", ""))

    def signatures(self) -> tuple[int, dict[str, remote.Signature]]:
        """See `remote.Server`."""
        answer = self._ask("GET", "/metadata")
        definitions = self._part(answer, "metadata", "signature_def")
        version = self._part(answer, "model_spec").get("version", 0)
        return int(version), remote.signatures(definitions)

    def predict(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, list]:
        """See `remote.Server`."""
        columns = {name: _as_json(values) for name, values in inputs.items()}
        body = {"signature_name": signature, "inputs": columns}
        return self._part(self._ask("POST", ":predict", body), "outputs")

    def _part(self, answer, *keys):
        """Returns an object inside an answer; a single output, say, comes without its name."""
        for key in keys:
            answer = answer.get(key)
            if not isinstance(answer, dict):
                self._fail("UNKNOWN", f"the answer has no object {key!r}")
        return answer

    def _ask(self, verb, what, body=None):
        text = None if body is None else json.dumps(body)
        return remote.persistently(lambda: self._once(verb, what, text), self._retries)

    def _once(self, verb, what, body):
        try:
            headers = {"Content-Type": "application/json"} if body else {}
            self._connection.request(verb, self._path + what, body, headers)
            response = self._connection.getresponse()
            status, text = response.status, response.read()
        except TimeoutError:
            self._fail(
                "DEADLINE_EXCEEDED", f"no answer within {self._timeout:g} seconds (--timeout)"
            )
        except http.client.RemoteDisconnected:
            self._fail("UNAVAILABLE", "the server closed the connection without an answer")
        except (http.client.HTTPException, ConnectionResetError) as error:
            self._fail("UNIMPLEMENTED", f"this port does not speak HTTP ({_kind(error)})", True)
        except ssl.SSLError as error:
            self._fail("UNKNOWN", f"no TLS connection: {error.reason or error}")
        except OSError as error:
            self._fail("UNAVAILABLE", f"no connection: {error.strerror or error}")
        try:
            answer = json.loads(text)
            if not isinstance(answer, dict):
                raise ValueError
        except ValueError:
            code = "UNKNOWN" if status == 200 else _CODES.get(status, "UNKNOWN")
            self._fail(code, f"HTTP status {status} with an answer that is no JSON object")
        if status != 200:
            said = remote.brief(_unescaped(str(answer.get("error", ""))))
            self._fail(_CODES.get(status, "UNKNOWN"), said)
        return answer

    def _fail(self, code, said, grpc=False):
        self._connection.close()  # what it would say next is not known
        hint = "; for gRPC give HOST:PORT without http://" if grpc else ""
        raise remote.Failed(code, f"{self._address}: {said}{hint} ({code})") from None


def _as_json(values):
    if isinstance(values, list):
        return [{"b64": base64.b64encode(one).decode()} for one in values]
    return values.tolist()


def _quoted(name):
    return urllib.parse.quote(name, safe="")


def _kind(error):
    return type(error).__name__


def _unescaped(text):
    """Takes back the escapes of C that TensorFlow Serving writes into the JSON of an error."""

    def unescaped(found):
        code = found[1]
        return bytes([int(code, 8)]) if len(code) == 3 else _ESCAPES.get(code, found[0])

    octets = re.sub(rb"\\([0-3][0-7]{2}|.)", unescaped, text.encode("utf-8"))
    return octets.decode("utf-8", "replace")
