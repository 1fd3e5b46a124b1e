"""Files that are either the old version or the new one, never a part."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path in the same directory; afterwards it takes the place of `path`.

    The temporary name keeps the suffix, as Keras and NumPy choose the format by it. If the block
    raises, the temporary file is removed and `path` is as it was. The data reach the disk before
    the name does, so a crash of the machine leaves one version or the other.

    Raises:
      OSError: the disk is full or not writable; the message names the file that is still the old.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"cannot write {path}: {reason}; what was there before is untouched, so with that "
            "mended the same command goes on"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a whole text file, in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
