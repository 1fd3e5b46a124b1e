"""Where files lie: on a disk of this machine, or in an object store, as gs://bucket/run.

A place is a `pathlib.Path` or, in a store, an `etils.epath.Path`, which has its methods and reaches
the store by `tf.io.gfile`. What the two do not have in common is here; what is written goes through
`atomic` and `sealed`, and nothing else asks which of them it has.
"""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator

PATIENCE = 30.0  # seconds in which a store must answer at first; TensorFlow would try for minutes
# Of those that etils knows, the ones that TensorFlow has or had a file system for.
_STORES = ("gs", "s3")
# A path that pathlib has read the address as has lost a slash.
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):(?:/+|$)(.*)", re.DOTALL)
_reached: set[str] = set()  # buckets that have answered


def of(path: str | os.PathLike) -> pathlib.Path:
    """Returns the place of a path or an address; that of a place is itself.

    Raises:
      ValueError: an address that TensorFlow cannot reach here, or of a bucket that there is not.
      OSError: the store does not answer within `PATIENCE` seconds, or refuses.
    """
    if (address := _split(path)) is None:
        return pathlib.Path(path)
    scheme, rest = address
    # Not above: who asks a server of networks has neither etils nor TensorFlow.
    import tensorflow as tf

    if scheme not in _STORES or scheme not in tf.io.gfile.get_registered_schemes():
        raise ValueError(
            f"{scheme}:// is no store that TensorFlow {tf.__version__} reaches; give a "
            "directory, of this machine or shared as by NFS, or gs://BUCKET/RUN (docs/scaling.md)"
        )
    bucket = rest.partition("/")[0]
    if not bucket or bucket == rest.rstrip("/"):
        raise ValueError(f"{path} names no place inside a bucket; write {scheme}://BUCKET/RUN")
    from etils import epath

    place = f"{scheme}://{rest}"
    if (store := f"{scheme}://{bucket}") not in _reached:
        _reach(store, place)
        _reached.add(store)
    return epath.Path(place)


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path or place is in a store, or would be."""
    return _split(path) is not None


def size(place: pathlib.Path) -> int:
    """Returns the bytes of a file."""
    found = place.stat()
    return found.length if is_remote(place) else found.st_size


def modified(place: pathlib.Path) -> float:
    """Returns when a file was written, by the clock of where it lies."""
    found = place.stat()
    return found.mtime if is_remote(place) else found.st_mtime


def read(path: str | os.PathLike) -> bytes:
    """Reads a whole file.

    Raises:
      OSError: it is not there, or cannot be read.
    """
    place = of(path)
    with _said(place, "read"):
        return place.read_bytes()


@contextlib.contextmanager
def fetched(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a file on this machine's disk: itself, or a copy that goes after the block.

    For what reads files from a disk alone, as Keras and zip archives do.

    Raises:
      OSError: it is in a store and not there, or cannot be read.
    """
    place = of(path)
    if not is_remote(place):
        yield place
        return
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        local = pathlib.Path(folder, place.name)
        with _said(place, "read"):
            tf.io.gfile.copy(str(place), str(local))
        yield local


def write(place: pathlib.Path, content: bytes) -> None:
    """Writes a whole object of a store, as `put`."""
    with _said(place, "write"):
        place.write_bytes(content)


def put(local: pathlib.Path, place: pathlib.Path) -> None:
    """Makes a file of this machine an object of a store: at once, or not at all.

    Raises:
      OSError: it cannot be written; what was there before still is.
    """
    import tensorflow as tf

    with _said(place, "write"):
        tf.io.gfile.copy(str(local), str(place), overwrite=True)


def remove(place: pathlib.Path) -> None:
    """Removes a file, or a directory with all that is in it."""
    with _said(place, "remove"):
        if not place.is_dir():
            place.unlink()
        elif is_remote(place):
            place.rmtree()
        else:
            shutil.rmtree(place)


def is_of_store(error: Exception) -> bool:
    """Returns whether an error of TensorFlow's is about an object of a store."""
    return re.search(rf"\b({'|'.join(_STORES)})://", str(error)) is not None


def _split(path):
    """Returns the scheme of an address and what follows it, None of a path."""
    found = _ADDRESS.fullmatch(os.fspath(path))
    return found and (found[1], found[2])


def _reach(bucket, address):
    """Sees that a store answers, and that there is the bucket.

    TensorFlow looks for a bucket that there is not for ever where it is to make a directory.
    """
    import tensorflow as tf

    answers = []

    def look():
        try:
            if tf.io.gfile.exists(address):
                answers.append(True)
                return
            with contextlib.suppress(tf.errors.PermissionDeniedError):  # to see it is a right apart
                answers.append(tf.io.gfile.exists(bucket))
            answers.append(True)
        except Exception as error:
            answers.append(error)

    # One that is left waiting ends with the process.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not answers:
        raise OSError(f"{bucket} does not answer within {PATIENCE:g} seconds; is there a network?")
    if isinstance(answers[0], Exception):
        raise OSError(f"{bucket} cannot be reached: {_brief(answers[0])}") from answers[0]
    if not answers[0]:
        raise ValueError(f"there is no bucket {bucket}; make it, or name another")


@contextlib.contextmanager
def _said(place, verb):
    """Turns what TensorFlow raises of a store into an OSError that names the object."""
    if not is_remote(place):
        yield
        return
    import tensorflow as tf

    try:
        yield
    except (tf.errors.NotFoundError, FileNotFoundError) as error:
        if verb == "read":
            missing = errno.ENOENT
            raise FileNotFoundError(missing, os.strerror(missing), str(place)) from error
        raise OSError(_brief(error)) from error
    except tf.errors.OpError as error:
        raise OSError(f"cannot {verb} {place}: {_brief(error)}") from error


def _brief(error):
    return " ".join(str(getattr(error, "message", error)).split())[:300]
