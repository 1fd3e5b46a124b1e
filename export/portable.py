"""Writes a network as ONNX or LiteRT (TensorFlow Lite), for other runtimes.

    python -m export.portable --workdir=runs/digits --output=digits.onnx
    python -m export.portable --network=zoo:cifar10_resnet18w16_swish --output=cifar10.tflite

The file takes float32 pixels [N, H, W, C] in [0, 255] and gives logits. It appears once a fresh
process, with the format's runtime and without Keras and this project, has given the network's
logits for 16 pictures. The converter is Keras's own `Model.export`.
"""

import contextlib
import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
from absl import flags

from export import checks, expectations
from flags import portable as own_flags
from sat_tf import cli, loading
from sat_tf.runs import atomic

# {suffix: (Keras's name of the format, {module that is needed: what pip calls it})}
FORMATS = {
    ".onnx": ("onnx", {"tf2onnx": "tf2onnx", "onnx": "onnx", "onnxruntime": "onnxruntime"}),
    ".tflite": ("litert", {"ai_edge_litert": "ai-edge-litert"}),
}


def export(network: keras.Model, output: Path) -> None:
    """Writes the file, whole or not at all.

    Args:
      network: pixels to logits, of one image size.
      output: a new file; its suffix, one of `FORMATS`, says the format.

    Raises:
      ValueError: another suffix, a package that is missing, a network of another form, something
        that the converter cannot write, or other logits than the network's.
    """
    if output.suffix not in FORMATS:
        raise ValueError(f"{output} has no suffix of a format; use one of: {', '.join(FORMATS)}")
    atomic.refuse_remote(output)
    if output.exists():
        raise ValueError(f"{output} is there already; --output names a new file")
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
        _convert(network, partial, kind)
        _verify(network, partial, Path(folder) / "answers.npz", image_shape)
        partial.replace(output)


def _convert(network, path, kind):
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Keras asks NumPy for a name of old
            network.export(str(path), format=kind, verbose=False)
    except Exception as error:  # whatever a converter meets
        brief = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Keras cannot write {network.name} as {kind} ({type(error).__name__}: {brief})"
        ) from error


def _verify(network, path, answers, image_shape):
    pixels = expectations.probes(*image_shape)
    logits = expectations.logits_of(network, pixels)
    tolerance = expectations.tolerance(network, [logits])
    np.savez(answers, images=pixels.astype(np.float32), logits=logits, tolerance=tolerance)
    code = f"{inspect.getsource(compare)}\nimport sys\ncompare(*sys.argv[1:])"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(path), str(answers)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1]
        raise ValueError(f"the {path.suffix} file is not verified: {said}")


def compare(path: str, answers: str) -> None:
    """Compares a file's logits with the network's, in a process that has the runtime alone.

    Its source is run there, so it names nothing of this module.
    """
    import importlib

    import numpy as np

    with np.load(answers) as stored:
        images, logits, tolerance = stored["images"], stored["logits"], stored["tolerance"]
    if path.endswith(".onnx"):
        runtime = importlib.import_module("onnxruntime")
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: images})
    else:
        runtime = importlib.import_module("ai_edge_litert.interpreter")
        interpreter = runtime.Interpreter(model_path=path)
        taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        interpreter.resize_tensor_input(taken["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(taken["index"], images)
        interpreter.invoke()
        found = interpreter.get_tensor(given["index"])
    difference = float(np.abs(found - logits).max())
    if not difference <= tolerance:  # so written that NaN fails
        raise ValueError(f"its logits are {difference:.3g} off; at most {tolerance:.3g} may be")


def main() -> None:
    """Exports the network that the flags name and prints where it is."""
    given = flags.FLAGS
    if (given.workdir is None) == (given.network is None):
        raise ValueError("give either --workdir=RUN or --network=FILE.keras")
    if given.output is None:
        raise ValueError("--output is missing; give a new file, NAME.onnx or NAME.tflite")
    source = given.network or str(Path(given.workdir) / "network.keras")
    export(loading.load(source), Path(given.output))
    print(f"{given.output} (verified in a fresh process)")


def command() -> None:
    """Runs the program with the flags of the command line."""
    cli.run(main, own_flags)


if __name__ == "__main__":
    command()
