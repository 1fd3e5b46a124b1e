"""Writes a network into one file for another runtime, which has to give its logits."""

import contextlib
import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from export import checks, expectations, int8, runtimes
from sat_tf.runs import atomic

# {suffix: (Keras's name of the format, {module that is needed: what pip calls it})}
FORMATS = {
    ".onnx": ("onnx", {"tf2onnx": "tf2onnx", "onnx": "onnx", "onnxruntime": "onnxruntime"}),
    ".tflite": ("litert", {"ai_edge_litert": "ai-edge-litert"}),
}


def export(
    network: keras.Model, output: Path, trial: int8.Trial | None = None
) -> dict[str, Any] | None:
    """Writes the file, whole or not at all; the converter is Keras's own `Model.export`.

    Args:
      network: pixels to logits, of one image size.
      output: a new file; its suffix, one of `FORMATS`, says the format.
      trial: makes a LiteRT file of integers, and measures it; the figures go into `output` with the
        suffix `.json`. None: float32.

    Returns:
      The figures, see `int8.measure`; None of a float32 file.

    Raises:
      ValueError: another suffix, a package that is missing, a network of another form, something
        that the converter cannot write, or other logits than the network's.
    """
    check_output(output, trial is not None)
    kind, packages = FORMATS[output.suffix]
    missing = [package for name, package in packages.items() if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(
            f"{output} needs packages that are missing: pip install {' '.join(missing)}"
        )
    image_shape, _ = checks.check_network(network)
    checks.check_answers(network, image_shape)
    size = sum(weight.value.numpy().nbytes for weight in network.weights)
    atomic.require_space(output.parent, size, "the network's weights")
    with atomic.making(output) as folder:
        partial = folder / f"network{output.suffix}"
        _convert(network, partial, kind, int8.options(trial.calibration) if trial else {})
        figures = int8.measure(network, partial, trial) if trial else _verify(network, partial)
        if trial:
            atomic.write_text(output.with_suffix(".json"), json.dumps(figures, indent=1) + "\n")
        partial.replace(output)
    return figures


def check_output(output: Path, quantised: bool = False) -> None:
    """Refuses a place where no file can be written.

    Args:
      output: of `export`.
      quantised: whether figures are written beside it.

    Raises:
      ValueError: a suffix of no format, an address, or something that is there.
    """
    if output.suffix not in FORMATS:
        raise ValueError(f"{output} has no suffix of a format; use one of: {', '.join(FORMATS)}")
    atomic.refuse_remote(output)
    if quantised and output.suffix != ".tflite":
        raise ValueError(f"int8 is written as LiteRT alone, not {output}; --output=NAME.tflite")
    for path in (output, output.with_suffix(".json")) if quantised else (output,):
        if path.exists():
            raise ValueError(f"{path} is there already; --output names a new file")


def output_of(given: str | None, suffix: str, quantised: bool = False) -> Path:
    """Returns what --output of a program of one format names, once it can be written.

    Args:
      given: of the command line.
      suffix: the program's own, of `FORMATS`.
      quantised: as of `check_output`.

    Raises:
      ValueError: nothing, another suffix, or as `check_output`.
    """
    if given is None:
        raise ValueError(f"--output is missing; give a new file, NAME{suffix}")
    if Path(given).suffix != suffix:
        raise ValueError(
            f"--output={given} has not the suffix of what this program writes; give NAME{suffix}"
        )
    check_output(Path(given), quantised)
    return Path(given)


def _convert(network, path, kind, options):
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Keras asks NumPy for a name of old
            network.export(str(path), format=kind, verbose=False, **options)
    except Exception as error:  # whatever a converter meets
        brief = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Keras cannot write {network.name} as {kind} ({type(error).__name__}: {brief})"
        ) from error


def _verify(network, path):
    pixels = expectations.probes(*network.input_shape[1:]).astype(np.float32)
    logits = expectations.logits_of(network, pixels)
    tolerance = expectations.tolerance(network, [logits])
    difference = float(np.abs(runtimes.ask(path, pixels).logits - logits).max())
    if not difference <= tolerance:  # so written that NaN fails
        raise ValueError(
            f"the {path.suffix} file is not verified: its logits are {difference:.3g} off; at most "
            f"{tolerance:.3g} may be"
        )
