"""A server of exported networks, asked by gRPC or REST: a client needs no TensorFlow.

What both protocols say is TensorFlow Serving's: `tensorflow_serving/apis/*.proto` and its document
"RESTful API".
"""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

FIRST_WAIT = 0.25  # seconds before the first retry; each further one waits twice as long


class Failed(ValueError):
    """A server that refuses, or that is not there.

    Args:
      code: of gRPC, whichever the protocol was, such as "INVALID_ARGUMENT".
      message: one line.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Model:
    """Which network of a server is asked: its latest version, a numbered or a labelled one."""

    name: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self):
        if self.version is not None and self.label is not None:
            raise ValueError("give a version or a label of one, not both")


@dataclasses.dataclass(frozen=True)
class Version:
    """A version of a network on its server: its state, and what is wrong with it, if anything."""

    number: int
    state: str
    error: str


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What a signature takes or gives: dtype as NumPy names it, None where a size is free."""

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self):
        return f"{self.dtype} [{', '.join('N' if n is None else str(n) for n in self.shape)}]"


@dataclasses.dataclass(frozen=True)
class Signature:
    """What can be asked of a network."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


class Server(Protocol):
    """A network on a server. Every question may raise `Failed`."""

    def versions(self) -> list[Version]:
        """Returns all versions that the server knows, whatever their state."""

    def signatures(self) -> tuple[int, dict[str, Signature]]:
        """Returns the number of the version that would answer, and what can be asked of it."""

    def predict(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, list]:
        """Asks one batch.

        Args:
          signature: its name.
          inputs: to each input's name a list of bytes, or a NumPy array of float32 or uint8.

        Returns:
          To each output's name a list with an entry (a number, a text or a list) for each image.
        """

    def close(self) -> None:
        """Ends the connection."""


def connect(address: str, model: Model, timeout: float = 10.0, retries: int = 3) -> Server:
    """Returns the server at an address; nothing is asked yet.

    Args:
      address: "host:port" for gRPC, "http://host:port" or "https://host:port" for REST.
      model: which network is asked.
      timeout: seconds that one request may take.
      retries: how often a request is made again while the server is UNAVAILABLE (REST: 503, or no
        connection); no other failure is retried.

    Raises:
      ValueError: an address of another form; for gRPC, a package that is missing.
    """
    if address.startswith(("http://", "https://")):
        from export.remote import over_rest

        return over_rest.Rest(address, model, timeout, retries)
    if not re.fullmatch(r"([^\s/:]+|\[[0-9a-fA-F:.]+\]):\d{1,5}", address):
        raise ValueError(
            f"the server is {address!r}; give HOST:PORT for gRPC, such as localhost:8500, or "
            "http://HOST:PORT for REST, such as http://localhost:8501"
        )
    from export.remote import over_grpc

    return over_grpc.Grpc(address, model, timeout, retries)


def persistently(ask: Callable[[], Any], retries: int) -> Any:
    """Asks, and asks again while the server is unavailable, after waits that double.

    Raises:
      Failed: the server refuses, or is unavailable still.
    """
    for attempt in range(retries):
        try:
            return ask()
        except Failed as failed:
            if failed.code != "UNAVAILABLE":
                raise
        time.sleep(FIRST_WAIT * 2**attempt)
    return ask()


def listed(tensors: Mapping[str, Tensor]) -> str:
    """Writes what a signature takes or gives in one line."""
    return ", ".join(f"{name} {tensor}" for name, tensor in tensors.items()) or "nothing"


def brief(message: str) -> str:
    """Returns a server's own words without the names of the graph's nodes, in one line."""
    refused = re.search(r"assertion failed: (\[.*\])", message)
    if refused:
        return re.sub(r"[\[\]]", "", refused[1])
    lines = re.sub(r"\{\{.*?\}\}", "", message).strip().splitlines()
    return lines[0].strip() if lines else "no reason given"


def versions(status: Mapping[str, Any]) -> list[Version]:
    """Reads a GetModelStatusResponse in JSON."""
    return [
        Version(
            int(one.get("version", 0)),
            one.get("state", "UNKNOWN"),
            brief(reason) if (reason := one.get("status", {}).get("error_message")) else "",
        )
        for one in status.get("model_version_status", [])
    ]


def signatures(definitions: Mapping[str, Any]) -> dict[str, Signature]:
    """Reads a SignatureDefMap in JSON, without the one by which TensorFlow itself initialises."""
    return {
        name: Signature(_tensors(one.get("inputs", {})), _tensors(one.get("outputs", {})))
        for name, one in sorted(definitions["signature_def"].items())
        if not name.startswith("__")
    }


def _tensors(infos):
    names = {"float": "float32", "double": "float64"}
    found = {}
    for name, info in sorted(infos.items()):
        dtype = info.get("dtype", "DT_INVALID").removeprefix("DT_").lower()
        sizes = [int(one.get("size", 0)) for one in info.get("tensor_shape", {}).get("dim", [])]
        shape = tuple(None if size < 0 else size for size in sizes)
        found[name] = Tensor(names.get(dtype, dtype), shape)
    return found
