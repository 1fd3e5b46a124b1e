"""Files that carry their own SHA-256, so that one flipped bit is noticed when they are read.

An archive (`.npz`, `.keras`) carries it as its zip comment, which NumPy and Keras pass over; a JSON
object as its entry "sha256"; a text as a last line "# sha256 ..."; a SavedModel as the file
`assets.extra/SHA256SUMS`, which `sha256sum --check` reads. What has none was written by an earlier
version, or was changed by hand and the digest taken out, and is read as it is.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from sat_tf.runs import atomic, places

SUMS = pathlib.Path("assets.extra") / "SHA256SUMS"
_KEY = "sha256"
_ARCHIVE, _LINE = b"sha256 ", "# sha256 "
_HEX = 64
_OTHER = "its SHA-256 is not the one that it was written with"


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path for a zip archive, which is sealed and takes the place of `path`.

    Raises:
      OSError: as `atomic.replacing`.
    """
    with atomic.replacing(path) as temporary:
        yield temporary
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.comment = _ARCHIVE + b"0" * _HEX
        with open(temporary, "r+b") as file:
            digest = _of_file(file, _HEX)
            file.seek(-_HEX, os.SEEK_END)
            file.write(digest.encode())


def check_archive(path: str | os.PathLike) -> None:
    """Reads the whole file, if it is sealed.

    Raises:
      ValueError: it is no archive, or not what was written.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no archive, or one that is cut off")
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _HEX - len(_ARCHIVE)))
        end = file.read()
        if not end.startswith(_ARCHIVE):
            return
        if _of_file(file, _HEX) != end[-_HEX:].decode("latin1"):
            raise ValueError(_OTHER)


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON object with its digest as a last entry; numbers and keys as JSON has them."""
    return {**content, _KEY: _of_json(json.loads(json.dumps(content)))}


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Writes a signed JSON object, whole or not at all."""
    atomic.write_text(path, json.dumps(signed(content), indent=2) + "\n")


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a JSON object, without its digest.

    Raises:
      OSError: it cannot be read.
      ValueError: it is damaged, or no object; the message names it.
    """
    try:
        content = json.loads(places.read(path).decode())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; a JSON object was expected")
    digest = content.pop(_KEY, None)
    if digest is not None and digest != _of_json(content):
        raise ValueError(
            f"{path} is damaged: {_OTHER}; copy it again, or take its entry {_KEY!r} out if you "
            "have changed it yourself"
        )
    return content


def signed_text(text: str) -> str:
    """Returns a text of whole lines with its digest as one more."""
    return f"{text}{_LINE}{hashlib.sha256(text.encode()).hexdigest()}\n"


def read_text(path: str | os.PathLike) -> str:
    """Reads a text file, without the line of its digest.

    Raises:
      ValueError: it is damaged; the message names it.
    """
    try:
        text = places.read(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    before, line, digest = text.rpartition(_LINE)
    if not line:
        return text
    if digest.strip() != hashlib.sha256(before.encode()).hexdigest():
        raise ValueError(
            f"{path} is damaged: {_OTHER}; copy it again, or take its last line out if you have "
            "changed it yourself"
        )
    return before


def write_sums(directory: pathlib.Path) -> None:
    """Writes the digests of all files of a SavedModel beside what else travels along with it."""
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    lines = [f"{file_digest(file)}  {file.relative_to(directory).as_posix()}\n" for file in files]
    (directory / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(directory: pathlib.Path) -> None:
    """Compares the files of a SavedModel with their digests, if it has them.

    Raises:
      ValueError: a file is missing or another; the message names it.
    """
    if not (directory / SUMS).is_file():
        return
    for line in (directory / SUMS).read_bytes().decode("utf-8", "replace").splitlines():
        digest, _, name = line.partition("  ")
        file = directory / name
        if not file.is_file() or file_digest(file) != digest:
            raise ValueError(
                f"{directory} is damaged: {name} or its line in {SUMS} is not what "
                "was written; copy it again or export it again"
            )


def file_digest(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a whole file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return _of_file(file)


def _of_json(content):
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _of_file(file, without=0):
    """Returns the digest of an open file but for its last bytes."""
    left, digest = file.seek(0, os.SEEK_END) - without, hashlib.sha256()
    file.seek(0)
    while left > 0 and (block := file.read(min(left, 2**20))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()
