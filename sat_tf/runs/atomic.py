"""Files that are written whole or not at all, by one process, and only where there is room."""

import contextlib
import fcntl
import glob
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from sat_tf.runs import lease, places


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path on a disk; afterwards what is there takes the place of `path`.

    The temporary name keeps the suffix, as Keras and NumPy choose the format by it. If the block
    raises, the temporary file is removed and `path` is as it was. On a disk it is in the same
    directory and is renamed, and the data reach the disk before the name does, so a crash of the
    machine leaves one version or the other. In a store it is put as one object.

    Raises:
      OSError: the disk is full or not writable, and the message names the file that is still the
        old; or it is no file but a directory, or a device such as /dev/null; or another process has
        taken over the lock of a store's directory.
    """
    path = places.of(path)
    refuse_special(path)
    _make_parent(path)
    try:
        with _put(path) if places.is_remote(path) else _renamed(path) as temporary:
            yield temporary
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"cannot write {path}: {reason}; what was there before is untouched, so with that "
            "mended the same command goes on"
        ) from error


@contextlib.contextmanager
def _renamed(path):
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _put(place):
    with tempfile.TemporaryDirectory() as folder:
        temporary = pathlib.Path(folder, place.name)
        yield temporary
        lease.require(place)
        places.put(temporary, place)


def refuse_special(path: pathlib.Path) -> None:
    """Raises OSError where something is there that is no file: replacing would destroy it."""
    if path.exists() and not path.is_file():
        kind = "directory" if path.is_dir() else "device or pipe"
        raise OSError(f"cannot write {path}: it is a {kind}; give another name")


def refuse_remote(path: str | os.PathLike) -> None:
    """Raises ValueError for an address such as gs://bucket/run, where a directory is needed."""
    if places.is_remote(path):
        raise ValueError(
            f"{os.fspath(path).partition(':')[0]}:// is no directory, which this needs; give one "
            "of this machine, or shared as by NFS, and copy it afterwards"
        )


def make_directory(path: pathlib.Path, flag: str) -> None:
    """Makes a directory, and those above it, unless it is there.

    A store has none, and needs none.

    Raises:
      OSError: it cannot be made; the message names the flag that gives another.
    """
    if places.is_remote(path):
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the directory {path}: {error.strerror}; give another {flag}"
        ) from error


def _make_parent(path):
    if not places.is_remote(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a whole text file, in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def locked(path: str | os.PathLike, refusal: str, stays: bool = False) -> Iterator[None]:
    """Holds a lock file, by `flock` on a disk and as `lease` in a store.

    Args:
      path: of the file.
      refusal: what to say where another process holds it.
      stays: whether a file on a disk stays when it is no longer held.

    Raises:
      ValueError: another process holds it; the message is `refusal`.
      OSError: it cannot be made, so nothing beside it can be written.
    """
    path = places.of(path)
    _make_parent(path)
    with lease.held(path, refusal) if places.is_remote(path) else _flock(path, refusal, stays):
        yield


@contextlib.contextmanager
def _flock(path, refusal, stays):
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
                if not stays:
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
    refuse_remote(target)
    refusal = f"another process is writing {target}; wait until it has ended"
    with locked(target.with_name(f".{target.name}.lock"), refusal):
        hidden = f".{target.name}.partial-"
        for left in target.parent.glob(f"{glob.escape(hidden)}*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=hidden, dir=target.parent) as folder:
            yield pathlib.Path(folder)


def require_space(directory: str | os.PathLike, num_bytes: int, what: str) -> None:
    """Looks whether what is to be written fits on the disk, by estimate; a store has room.

    Args:
      directory: where it goes; it need not be there yet.
      num_bytes: how large it will be.
      what: its name in the message, in the plural.

    Raises:
      OSError: it does not fit; with the bytes that are missing.
    """
    if places.is_remote(directory):
        return
    place = pathlib.Path(directory).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if num_bytes > free:
        raise OSError(
            f"cannot write {directory}: {what} take about {num_bytes:,} bytes and {free:,} are "
            f"free, {num_bytes - free:,} too few; make room, or name another directory"
        )


def room(directory: pathlib.Path) -> str:
    """Returns what to say of the room in a directory, " (7 bytes are free)"; of a store nothing."""
    if places.is_remote(directory):
        return ""
    return f" ({shutil.disk_usage(directory).free:,} bytes are free)"
