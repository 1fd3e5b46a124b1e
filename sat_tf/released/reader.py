"""The arrays of a TensorFlow checkpoint, and nothing else of it."""

import hashlib
import pathlib

import numpy as np
import tensorflow as tf

from sat_tf.released.plan import Tensor


class Checkpoint:
    """The arrays of a TensorFlow checkpoint.

    Args:
      prefix: its path without `.index` and `.data-00000-of-00001`.

    Attributes:
      tensors: shape and type of each array, by name.

    Raises:
      ValueError: it is not there or its index is damaged.
    """

    def __init__(self, prefix: str):
        self.prefix = prefix
        if not pathlib.Path(f"{prefix}.index").is_file():
            raise ValueError(
                f"there is no {prefix}.index; --checkpoint is the path of a checkpoint without "
                ".index and .data-00000-of-00001"
            )
        try:
            self._reader = tf.train.load_checkpoint(prefix)
        except (tf.errors.OpError, RuntimeError, LookupError) as error:
            raise ValueError(f"{prefix}.index is damaged: {error}") from error
        types = self._reader.get_variable_to_dtype_map()
        self.tensors = {
            name: Tensor(tuple(shape), types[name].name)
            for name, shape in sorted(self._reader.get_variable_to_shape_map().items())
        }

    def read(self, name: str) -> np.ndarray:
        """Returns an array.

        Raises:
          ValueError: its data is missing or damaged, or holds what is not a finite number.
        """
        try:
            values = self._reader.get_tensor(name)
        except (tf.errors.OpError, RuntimeError, LookupError) as error:
            raise ValueError(
                f"tensor {name} of {self.prefix} cannot be read ({error}); fetch the file again"
            ) from error
        if not np.isfinite(values).all():
            raise ValueError(f"tensor {name} of {self.prefix} holds values that are not finite")
        return values

    def sha256(self) -> dict[str, str]:
        """Returns the hash of each of its files by the file's name."""
        path = pathlib.Path(self.prefix)
        data = [one for one in path.parent.iterdir() if one.name.startswith(f"{path.name}.data-")]
        files = sorted([path.with_name(f"{path.name}.index"), *data])
        return {one.name: _sha256(one) for one in files}


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
