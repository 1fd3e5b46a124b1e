"""The file that keeps the adversarial images of a run while it goes on: one row an image."""

import dataclasses
import os
import pathlib
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from sat_tf.runs import atomic

IMAGE_TYPES = ("float32", "uint8")


def check_type(image_type: str) -> None:
    """Raises a ValueError, with the list, for what is none of `IMAGE_TYPES`."""
    if image_type not in IMAGE_TYPES:
        raise ValueError(f"--image_type is {image_type!r}; use one of: {', '.join(IMAGE_TYPES)}")


@dataclasses.dataclass
class KeptImages:
    """Images in an `.npy` file on the disk, written one by one and read back a few at a time.

    Memory does not depend on how large they are: only four bytes an image are held, its checksum.
    What `flush` has seen outlives a crash.

    Args:
      path: of the file, which is written in place: a store has none such.
      shape: [N, H, W, C].
      image_type: one of `IMAGE_TYPES`.

    Attributes:
      checksums: uint32 [N], CRC-32 of each row as it was written last.
    """

    path: pathlib.Path
    shape: tuple[int, ...]
    image_type: str
    checksums: np.ndarray = dataclasses.field(init=False)
    _file: BinaryIO | None = dataclasses.field(default=None, init=False)
    _offset: int = dataclasses.field(default=0, init=False)

    def __post_init__(self):
        atomic.refuse_remote(self.path)

    def create(self, batches: Iterable[np.ndarray]) -> None:
        """Writes all rows, so that a disk that is too small is noticed before any attack."""
        self.checksums, start = np.zeros(self.shape[0], np.uint32), 0
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": self.shape}
        with atomic.replacing(self.path) as temporary, open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for batch in batches:
                rows = np.ascontiguousarray(batch, self._dtype)
                file.write(rows.tobytes())
                self.checksums[start : start + len(rows)] = [_checksum(row) for row in rows]
                start += len(rows)

    def check(self, checksums: np.ndarray | None, settled: np.ndarray) -> None:
        """Sees whether the file is there and holds these images.

        Args:
          checksums: uint32 [N], as they were saved; None to take the rows as they are.
          settled: bool [N], which rows nothing was written to since then.

        Raises:
          ValueError: it is missing, damaged or of another run; it was left alone.
        """
        try:
            found = self.rows
        except Exception as error:  # damage of its header may be anything to a parser
            reason = "is not there" if not self.path.exists() else f"is damaged ({error})"
            raise ValueError(
                f"{self.path} {reason}, and it belongs to verdicts that are; bring it back, or "
                "give --overwrite to evaluate from the beginning"
            ) from error
        if found.shape != self.shape or found.dtype != self._dtype:
            raise ValueError(
                f"{self.path} holds {found.dtype} {list(found.shape)}, and this evaluation needs "
                f"{self._dtype} {list(self.shape)}; it was left alone: give another --json, or "
                "--overwrite to replace it"
            )
        if checksums is None:
            self.checksums = np.array([_checksum(row) for row in found], np.uint32)
            return
        self.checksums = checksums
        for index in np.flatnonzero(settled):
            self.require_intact(index, found[index])

    def require_intact(self, index: int, row: np.ndarray) -> None:
        """Raises ValueError where an image is not what was written."""
        if _checksum(row) != self.checksums[index]:
            raise ValueError(
                f"{self.path} is damaged: image {index} is not as it was written; bring it back, "
                "or give --overwrite to evaluate from the beginning"
            )

    def put(self, index: int, image: np.ndarray) -> None:
        """Replaces one image."""
        data = np.ascontiguousarray(image, self._dtype).tobytes()
        try:
            if self._file is None:
                # Unbuffered: what is written belongs to the system, which outlives the process.
                self._file, self._offset = open(self.path, "r+b", buffering=0), self.rows.offset
            self._file.seek(self._offset + index * len(data))
            written = self._file.write(data)
        except OSError as error:
            raise OSError(f"cannot write {self.path}: {error.strerror or error}") from error
        if written != len(data):
            raise OSError(f"cannot write {self.path}: {written} of {len(data)} bytes fitted")
        self.checksums[index] = zlib.crc32(data)

    def flush(self) -> None:
        """Returns once everything is on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; another `put` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def rows(self) -> np.memmap:
        """Returns all images, mapped and read-only: only what is looked at is read."""
        return np.lib.format.open_memmap(self.path, mode="r")

    @property
    def _dtype(self):
        return np.dtype(self.image_type).newbyteorder("<")


def _checksum(row):
    return zlib.crc32(np.ascontiguousarray(row).tobytes())
