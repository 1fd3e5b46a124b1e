"""Writes a network as ONNX or LiteRT (TensorFlow Lite), for other runtimes.

    python -m export.portable --workdir=runs/digits --output=digits.onnx
    python -m export.portable --network=zoo:cifar10_resnet18w16_swish --output=cifar10.tflite
    python -m export.portable --workdir=runs/digits --output=digits.tflite --int8

The file takes float32 pixels [N, H, W, C] in [0, 255] and gives logits. It appears once a fresh
process, with the format's runtime and without Keras and this project, has given the network's
logits for 16 pictures. The converter is Keras's own `Model.export`. With `--int8` a LiteRT file
computes in integers, and what that costs in accuracy, clean and attacked, stands beside it in JSON.
"""

import contextlib
import importlib.util
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import flags

from export import checks, expectations, int8, runtimes
from flags import portable as own_flags
from sat_tf import cli, loading, zoo
from sat_tf.runs import atomic, workdir

# {suffix: (Keras's name of the format, {module that is needed: what pip calls it})}
FORMATS = {
    ".onnx": ("onnx", {"tf2onnx": "tf2onnx", "onnx": "onnx", "onnxruntime": "onnxruntime"}),
    ".tflite": ("litert", {"ai_edge_litert": "ai-edge-litert"}),
}
# Flags of --int8, and what else a run may say of them.
_OF_INT8 = ("dataset", "data_dir", "epsilon", "num_images", "calibration_images", "seed")
_OF_RUN = ("dataset", "data_dir", "epsilon", "norm", "eval_resize")


def export(
    network: keras.Model, output: Path, trial: int8.Trial | None = None
) -> dict[str, Any] | None:
    """Writes the file, whole or not at all.

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
    _check_output(output, trial is not None)
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
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{output.stem}.partial-", dir=output.parent
    ) as folder:
        partial = Path(folder) / f"network{output.suffix}"
        _convert(network, partial, kind, int8.options(trial.calibration) if trial else {})
        figures = int8.measure(network, partial, trial) if trial else _verify(network, partial)
        if trial:
            atomic.write_text(output.with_suffix(".json"), json.dumps(figures, indent=1) + "\n")
        partial.replace(output)
    return figures


def _check_output(output, quantised):
    if output.suffix not in FORMATS:
        raise ValueError(f"{output} has no suffix of a format; use one of: {', '.join(FORMATS)}")
    atomic.refuse_remote(output)
    if quantised and output.suffix != ".tflite":
        raise ValueError(f"int8 is written as LiteRT alone, not {output}; --output=NAME.tflite")
    for path in (output, output.with_suffix(".json")) if quantised else (output,):
        if path.exists():
            raise ValueError(f"{path} is there already; --output names a new file")


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


def main() -> None:
    """Exports the network that the flags name and prints where it is."""
    given = flags.FLAGS
    if (given.workdir is None) == (given.network is None):
        raise ValueError("give either --workdir=RUN or --network=FILE.keras")
    if given.output is None:
        raise ValueError("--output is missing; give a new file, NAME.onnx or NAME.tflite")
    source = given.network or str(Path(given.workdir) / "network.keras")
    network = loading.load(source)
    trial = _trial(given, source, network) if given.int8 else _refuse_without_int8(given)
    figures = export(network, Path(given.output), trial)
    print(f"{given.output} (verified in a fresh process)")
    if trial:
        print(f"{int8.told(figures)}\n{Path(given.output).with_suffix('.json')}")


def _trial(given, source, network):
    _check_output(Path(given.output), True)  # before the data are read
    run = workdir.read_metrics(Path(given.workdir)) if given.workdir else zoo.metrics(source)
    known = {name: run[name] for name in _OF_RUN if run.get(name) is not None}
    chosen = {name: getattr(given, name) for name in _OF_INT8}
    chosen = known | {name: value for name, value in chosen.items() if value is not None}
    for name, example in (("dataset", "digits"), ("epsilon", "8")):
        if name not in chosen:
            raise ValueError(
                f"--{name} is not given and no run says it: such as --{name}={example}"
            )
    return int8.Trial.read(network, loading.class_names(source), int8.Plan(**chosen))


def _refuse_without_int8(given):
    for name in _OF_INT8:
        if getattr(given, name) is not None:
            raise ValueError(f"--{name} is of a measured quantisation; give --int8 as well")


def command() -> None:
    """Runs the program with the flags of the command line."""
    cli.run(main, own_flags)


if __name__ == "__main__":
    command()
