"""Files that are written whole or not at all, by one process, and only where there is room."""

import contextlib
import fcntl
import glob
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path in the same directory; afterwards it takes the place of `path`.

    The temporary name keeps the suffix, as Keras and NumPy choose the format by it. If the block
    raises, the temporary file is removed and `path` is as it was. The data reach the disk before
    the name does, so a crash of the machine leaves one version or the other.

    Raises:
      OSError: the disk is full or not writable, and the message names the file that is still the
        old; or it is no file but a directory, or a device such as /dev/null.
    """
    path = pathlib.Path(path)
    refuse_remote(path)
    refuse_special(path)
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


def refuse_special(path: pathlib.Path) -> None:
    """Raises OSError where something is there that is no file: replacing would destroy it."""
    if path.exists() and not path.is_file():
        kind = "directory" if path.is_dir() else "device or pipe"
        raise OSError(f"cannot write {path}: it is a {kind}; give another name")


def refuse_remote(path: str | os.PathLike) -> None:
    """Raises ValueError for an address such as gs://bucket/run, which would be a folder "gs:"."""
    first = pathlib.Path(path).parts[:1]
    if first and re.fullmatch(r"[a-z][a-z0-9+.-]+:", first[0]):
        raise ValueError(
            f"{first[0]}// is no directory: locks, and files that are written whole or not at all, "
            "need a file system; give a directory, of this machine or shared as by NFS, and copy "
            "it afterwards"
        )


def make_directory(path: pathlib.Path, flag: str) -> None:
    """Makes a directory, and those above it, unless it is there.

    Raises:
      OSError: it cannot be made; the message names the flag that gives another.
      ValueError: as `refuse_remote`.
    """
    refuse_remote(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the directory {path}: {error.strerror}; give another {flag}"
        ) from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a whole text file, in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def locked(path: str | os.PathLike, refusal: str) -> Iterator[None]:
    """Holds a lock file, which exists only while it is held.

    Raises:
      ValueError: another process holds it; the message is `refusal`. Or as `refuse_remote`.
      OSError: it cannot be made, so nothing beside it can be written.
    """
    path = pathlib.Path(path)
    refuse_remote(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(refusal) from None
            if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
                continue  # the process that held it has removed it since it was opened
            try:
                yield
            finally:
                path.unlink()
            return


@contextlib.contextmanager
def making(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a hidden directory beside `target`, to make it in and then move it to its name.

    The directory is gone afterwards, whatever happens; what a process that was killed left there is
    cleared first.

    Raises:
      ValueError: another process is making the same; or as `refuse_remote`.
      OSError: nothing can be written there.
    """
    refusal = f"another process is writing {target}; wait until it has ended"
    with locked(target.with_name(f".{target.name}.lock"), refusal):
        hidden = f".{target.name}.partial-"
        for left in target.parent.glob(f"{glob.escape(hidden)}*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=hidden, dir=target.parent) as folder:
            yield pathlib.Path(folder)


def require_space(directory: str | os.PathLike, num_bytes: int, what: str) -> None:
    """Looks whether what is to be written fits on the disk, by estimate.

    Args:
      directory: where it goes; it need not be there yet.
      num_bytes: how large it will be.
      what: its name in the message, in the plural.

    Raises:
      OSError: it does not fit; with the bytes that are missing.
    """
    place = pathlib.Path(directory).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if num_bytes > free:
        raise OSError(
            f"cannot write {directory}: {what} take about {num_bytes:,} bytes and {free:,} are "
            f"free, {num_bytes - free:,} too few; make room, or name another directory"
        )
