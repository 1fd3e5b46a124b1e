"""The arrays of a PyTorch checkpoint, `.safetensors` or what `torch.save` wrote."""

import inspect
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np

from sat_tf.released.plan import Tensor
from sat_tf.runs import sealed

TOLD = "sat_tf."  # before the names of what a file of ours tells beside its arrays
# Prefixes of names: DataParallel's, and those of a module around the network.
_PREFIXES = ("module.", "model.", "base_model.")


class TorchCheckpoint:
    """The arrays of a PyTorch checkpoint, kernels as Keras has them.

    Kernels [out, in, h, w] become [h, w, in, out] and matrices [out, in] become [in, out]. Prefixes
    that wrappers gave the names, "module.", "model." and "base_model.", are taken off.

    Args:
      path: a `.safetensors` file, or any other for `torch.load(weights_only=True)`, which runs no
        code of the file. Of a dictionary of dictionaries the network's is taken (`unwrapped`).

    Attributes:
      tensors: shape and type of each array, by name.
      told: what `python -m export.pytorch` wrote beside the arrays of a network of ours, of what
        they do not show: `activation`, `image_size`, `patch_size`, as text. Else empty.

    Raises:
      ValueError: it is not there, cannot be read, or needs a package that is not installed.
    """

    def __init__(self, path: str):
        self.prefix = path
        if not pathlib.Path(path).is_file():
            raise ValueError(
                f"there is no file {path}; --checkpoint is a .safetensors or a .pt file of PyTorch"
            )
        self._arrays, self.told = {}, {}
        if path.endswith(".safetensors"):
            arrays, self.told = _safe(path)
        else:
            arrays = _pickled(path)
        for name, array in arrays.items():
            short = _without_prefixes(name)
            if short in self._arrays:
                raise ValueError(f"{path} holds {short} twice, once as {name}; keep one of them")
            self._arrays[short] = array.T if array.ndim == 2 else array
            if array.ndim == 4:
                self._arrays[short] = array.transpose(2, 3, 1, 0)
        self.tensors = {
            name: Tensor(array.shape, array.dtype.name) for name, array in self._arrays.items()
        }

    def read(self, name: str) -> np.ndarray:
        """Returns an array.

        Raises:
          ValueError: it holds what is not a finite number.
        """
        values = self._arrays[name]
        if not np.isfinite(values).all():
            raise ValueError(f"tensor {name} of {self.prefix} holds values that are not finite")
        return values

    def sha256(self) -> dict[str, str]:
        """Returns the hash of the file by its name."""
        path = pathlib.Path(self.prefix)
        return {path.name: sealed.file_digest(path)}


def _without_prefixes(name):
    return re.sub(rf"^(?:{'|'.join(map(re.escape, _PREFIXES))})+", "", name)


def _safe(path):
    try:
        from safetensors import SafetensorError, numpy, safe_open
    except ImportError as error:
        raise ValueError(_missing(path, "safetensors")) from error
    try:
        with safe_open(path, framework="numpy") as file:
            said = file.metadata() or {}
        told = {name.removeprefix(TOLD): one for name, one in said.items() if name.startswith(TOLD)}
        arrays = numpy.load_file(path)
        return {name: _float32(array) for name, array in arrays.items()}, told
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as .safetensors: {error}") from error


def _float32(array):
    """Returns numbers of 16 bits in 32, which have each of them."""
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


def _pickled(path):
    """Reads in a process of its own: TensorFlow and PyTorch may end one that loads both."""
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "arrays.npz")
        code = f"{inspect.getsource(unpickle)}\nimport sys\nunpickle(*sys.argv[1:])"
        ended = subprocess.run(
            [sys.executable, "-c", code, os.path.abspath(path), target],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True, text=True,
        )  # fmt: skip
        if ended.returncode:
            said = (ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1]
            if "No module named 'torch'" in said:
                raise ValueError(_missing(path, "torch"))
            raise ValueError(
                f"{path} cannot be read by torch.load(weights_only=True): {_brief(ended.stderr)}; "
                "where only its weights are wanted, save model.state_dict() anew"
            )
        with np.load(target) as arrays:
            return dict(arrays)


def unpickle(path: str, target: str) -> None:
    """Writes the tensors of a network that `torch.save` wrote, as `.npz`.

    Its source is run in a process that has PyTorch alone, so it names nothing of this module.
    Of a dictionary of dictionaries, what stands under the first of the keys is taken.
    """
    import numpy as np
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True)
    keys = ("state_dict", "model_state_dict", "model", "net", "last")
    while isinstance(found, dict) and not any(isinstance(v, torch.Tensor) for v in found.values()):
        inside = [found[key] for key in keys if isinstance(found.get(key), dict)]
        if not inside:
            raise ValueError(f"no state_dict: it holds {', '.join(map(str, found)) or 'nothing'}")
        found = inside[0]
    if not isinstance(found, dict):
        raise ValueError(f"no state_dict: it holds a {type(found).__name__}")
    halves = (torch.float16, torch.bfloat16)  # each of their numbers is one of float32
    tensors = {name: one for name, one in found.items() if isinstance(one, torch.Tensor)}
    np.savez(
        target, **{n: (t.float() if t.dtype in halves else t).numpy() for n, t in tensors.items()}
    )


def _brief(stderr):
    lines = [
        line for line in stderr.strip().splitlines() if re.match(r"\S+(Error|Exception)\b", line)
    ]
    return (lines or stderr.strip().splitlines())[-1][:300]


def _missing(path: str, package: str) -> str:
    return f"{path} needs the package {package}, which is not installed: pip install {package}"
