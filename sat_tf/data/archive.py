"""Arrays of an npz file, read where they lie."""

import math
import struct
import zipfile
from collections.abc import Sequence

import numpy as np
from absl import logging

# A local file header of ZIP (APPNOTE 4.3.7): so many bytes, the last four of them the lengths of
# the name and of the extra field that follow.
_HEADER = 30


def arrays(path: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Maps arrays of an npz file into memory: what is asked of them is read, and nothing else.

    What `np.savez_compressed` wrote cannot be mapped; it is read as a whole, and a line says so.
    No checksum is looked at.

    Args:
      path: of the file.
      names: of the arrays; those that are not in the file are left out.

    Raises:
      ValueError: no npz file, a truncated one, or one of Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
        found = {name: members[name] for name in names if name in members}
        if not found:
            raise ValueError(f"it has the arrays {', '.join(sorted(members)) or 'none'}")
        return {name: _array(path, name, member) for name, member in found.items()}
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} cannot be read as an npz file of {', '.join(names)} ({reason}); write one "
            "with numpy.savez"
        ) from error


def _array(path: str, name: str, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type != zipfile.ZIP_STORED:
        size = member.file_size / 2**20
        logging.warning(
            "%s: %s is compressed, so its %.0f MB are held in memory; numpy.savez writes a file "
            "that is read in place", path, name, size
        )  # fmt: skip
        with np.load(path, allow_pickle=False) as archive:
            return archive[name]
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        lengths = struct.unpack("<HH", file.read(_HEADER)[-4:])
        file.seek(member.header_offset + _HEADER + sum(lengths))
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"{name} has the format {version} of npy")
        shape, by_columns, dtype = read(file)
        start = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, "F" if by_columns else "C")
