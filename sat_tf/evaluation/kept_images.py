"""The file that keeps the adversarial images of a run while it goes on: one row an image."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from sat_tf import atomic

IMAGE_TYPES = ("float32", "uint8")


@dataclasses.dataclass
class KeptImages:
    """Images in an `.npy` file on the disk, written one by one and read back a few at a time.

    Memory does not depend on how many there are. What `flush` has seen outlives a crash.

    Args:
      path: of the file.
      shape: [N, H, W, C].
      image_type: one of `IMAGE_TYPES`.
    """

    path: pathlib.Path
    shape: tuple[int, ...]
    image_type: str
    _file: BinaryIO | None = dataclasses.field(default=None, init=False)
    _offset: int = dataclasses.field(default=0, init=False)

    def create(self, batches: Iterable[np.ndarray]) -> None:
        """Writes all rows, so that a disk that is too small is noticed before any attack."""
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": self.shape}
        with atomic.replacing(self.path) as temporary, open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for batch in batches:
                file.write(np.ascontiguousarray(batch, self._dtype).tobytes())

    def check(self) -> None:
        """Sees whether the file is there and can hold these images.

        Raises:
          ValueError: it is missing, damaged or of another run; it was left alone.
        """
        try:
            found = self.rows
        except (OSError, ValueError, EOFError) as error:
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
