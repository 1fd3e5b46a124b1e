"""Picture files for a server that decodes them itself."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from export import remote

_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def read(path: str) -> bytes:
    """Reads a JPEG or PNG file; whether it is whole is for the server to see.

    Raises:
      ValueError: not there, not a file, or neither a JPEG nor a PNG.
    """
    if pathlib.Path(path).is_dir():
        raise ValueError("is a directory; give its files, such as DIRECTORY/*.jpg")
    try:
        with open(path, "rb") as file:
            begun = file.read(8)
            if not begun.startswith(_BEGINNINGS):
                raise ValueError("is neither a JPEG nor a PNG")
            return begun + file.read()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error


def ask(
    server: remote.Server, signature: str, name: str, encoded: list[bytes]
) -> list[dict[str, Any] | remote.Failed]:
    """Asks about pictures; one that is refused takes no other's answer with it.

    TensorFlow Serving refuses a batch for one picture in it, and does not say for which. So a batch
    that is refused is asked again in halves, down to the pictures alone: for one among N about
    2 log2(N) requests more. A batch above the server's largest size is answered by this as well.

    Args:
      server: the network's.
      signature: of the network, one that takes encoded pictures.
      name: of its input.
      encoded: pictures, as their files hold them.

    Returns:
      For each picture its row of every output, or why it was refused.

    Raises:
      remote.Failed: for any other reason than a refused picture.
    """
    try:
        answers = server.predict(signature, {name: encoded})
    except remote.Failed as failed:
        if failed.code != "INVALID_ARGUMENT":
            raise
        if len(encoded) == 1:
            return [failed]
        half = len(encoded) // 2
        return ask(server, signature, name, encoded[:half]) + ask(
            server, signature, name, encoded[half:]
        )
    if any(len(rows) != len(encoded) for rows in answers.values()):
        raise remote.Failed("UNKNOWN", f"{len(encoded)} pictures got another number of answers")
    return [{key: rows[index] for key, rows in answers.items()} for index in range(len(encoded))]


def classify(
    server: remote.Server, signature: str, paths: Sequence[str], batch_size: int
) -> Iterator[tuple[str, dict[str, Any] | ValueError]]:
    """Asks about files in batches; yields each with its answer, or with why it has none.

    Raises:
      ValueError: the network has no such signature.
      remote.Failed: the server fails at more than a picture; what was yielded stands.
    """
    name = input_name(server.signatures()[1], signature)
    for start in range(0, len(paths), batch_size):
        batch = [(path, _read_or_why(path)) for path in paths[start : start + batch_size]]
        encoded = [one for _, one in batch if isinstance(one, bytes)]
        answers = iter(ask(server, signature, name, encoded) if encoded else [])
        for path, one in batch:
            yield path, next(answers) if isinstance(one, bytes) else one


def input_name(found: Mapping[str, remote.Signature], signature: str) -> str:
    """Returns the input of a signature that takes encoded pictures and gives probabilities.

    Raises:
      ValueError: there is no such signature, or it takes or gives something else.
    """
    if signature not in found:
        raise ValueError(
            f"the network has no signature {signature!r}; it has {', '.join(found) or 'none'}"
        )
    asked = found[signature]
    if [one.dtype for one in asked.inputs.values()] != ["string"]:
        raise ValueError(
            f"signature {signature!r} takes {remote.listed(asked.inputs)}; one input of strings, "
            "encoded pictures, was expected"
        )
    if "probabilities" not in asked.outputs:
        raise ValueError(
            f"signature {signature!r} gives {remote.listed(asked.outputs)}; probabilities were "
            "expected, as export.saved_model makes them"
        )
    return next(iter(asked.inputs))


def _read_or_why(path):
    try:
        return read(path)
    except ValueError as error:
        return error
