"""Writes a network for PyTorch: its state_dict, a module to load it into, and RobustBench's JSON.

    python -m export.pytorch --workdir=runs/cifar10 --directory=submission
    python -m export.pytorch --network=zoo:cifar10_resnet18w16_swish --directory=submission \
        --report=report_autoattack.json

The directory holds `network.safetensors`, `network.py` (PyTorch alone) and `model_info.json`; it
appears whole or not at all, once a fresh process with PyTorch has given the network's logits.
"""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import flags

from export import checks, expectations, torch_convnext, torch_module
from flags import pytorch as own_flags
from sat_tf import cli, loading
from sat_tf.evaluation.report.model_info import model_info
from sat_tf.runs import atomic, sealed


def export(
    network: keras.Model, directory: Path, info: Mapping[str, Any], verified: bool = True
) -> None:
    """Writes the directory, whole or not at all.

    Args:
      network: a residual network or a ConvNeXt; see `torch_module` and `torch_convnext`.
      directory: a new one.
      info: content of `model_info.json`.
      verified: whether PyTorch must give the same logits before the directory counts.

    Raises:
      ValueError: something is there, a network that cannot be written, a package that is missing,
        or other logits than the network's.
    """
    atomic.refuse_remote(directory)
    if directory.exists():
        raise ValueError(f"{directory} is there already; --directory names a new one")
    _require_packages(verified)
    image_shape, _ = checks.check_network(network)
    writer = torch_convnext if torch_convnext.is_convnext(network) else torch_module
    module, arrays = writer.source(network), writer.state_dict(network)
    atomic.require_space(directory, sum(one.nbytes for one in arrays.values()), "the weights")
    told = torch_convnext.told(network) if writer is torch_convnext else {}
    with atomic.making(directory) as partial:
        files = partial / "files"
        files.mkdir()
        _save(arrays, files / "network.safetensors", told)
        (files / "network.py").write_text(module, encoding="utf-8")
        (files / "model_info.json").write_text(json.dumps(info, indent=2) + "\n", "utf-8")
        if verified:
            _verify(network, files, partial / "answers.npz", image_shape)
        files.replace(directory)


def _require_packages(verified):
    needed = ["safetensors", "torch"] if verified else ["safetensors"]
    missing = [name for name in needed if not importlib.util.find_spec(name)]
    if missing:
        unverified = "; --noverify needs no torch" if "torch" in missing else ""
        raise ValueError(
            "the files for PyTorch need packages that are missing: pip install "
            f"{' '.join(missing)}{unverified}"
        )


def _save(arrays, path, told):
    from safetensors.numpy import save

    path.write_bytes(save(arrays, told))  # its own save_file writes what only the owner may read


def _verify(network, files, answers, image_shape):
    pixels = expectations.probes(*image_shape)
    logits = expectations.logits_of(network, pixels)
    tolerance = expectations.tolerance(network, [logits])
    np.savez(answers, images=np.moveaxis(pixels, -1, 1), logits=logits, tolerance=tolerance)
    code = f"{inspect.getsource(compare)}\nimport sys\ncompare(*sys.argv[1:])"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(files), str(answers)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1]
        raise ValueError(f"the module for PyTorch is not verified: {said}")


def compare(files: str, answers: str) -> None:
    """Compares the module's logits with the network's, in a process that has PyTorch alone.

    Its source is run there, so it names nothing of this module.
    """
    import runpy

    import numpy as np
    import torch
    from safetensors.torch import load_file

    module = runpy.run_path(f"{files}/network.py")["Network"]()
    module.load_state_dict(load_file(f"{files}/network.safetensors"))
    module.eval()
    with np.load(answers) as stored, torch.no_grad():
        found = module(torch.tensor(stored["images"]).float() / 255).numpy()
        difference = float(np.abs(found - stored["logits"]).max())
        if not difference <= stored["tolerance"]:  # so written that NaN fails
            raise ValueError(
                f"its logits are {difference:.3g} off; at most {stored['tolerance']:.3g} may be"
            )


def main() -> None:
    """Exports the network that the flags name and prints where it is."""
    given = flags.FLAGS
    source, run = loading.chosen(given.workdir, given.network)
    if given.directory is None:
        raise ValueError("--directory is missing; give a new one")
    network = loading.load(source)
    report = None if given.report is None else _read_report(given.report, network)
    directory = Path(given.directory)
    export(network, directory, model_info(report, run), given.verify)
    how = "verified by PyTorch in a fresh process" if given.verify else "not verified"
    print(f"{directory}: network.safetensors, network.py, model_info.json ({how})")


def _read_report(path, network):
    found = sealed.read_json(Path(path))
    if "attacks" not in found:
        raise ValueError(
            f"{path} has no attacks in one ball, whose figures model_info.json holds; give a "
            "report of one norm, of several norms one such as report.linf.json"
        )
    if found.get("network", {}).get("weights_sha256") != loading.weights_hash(network):
        raise ValueError(
            f"{path} is no report of this network (its weights_sha256 is another); give one that "
            "python -m sat_tf.evaluate wrote of it"
        )
    return found


def command() -> None:
    """Runs the program with the flags of the command line."""
    cli.run(main, own_flags, tidies=True)


if __name__ == "__main__":
    command()
