"""What a file answers in its format's own runtime, in a process without Keras and this project."""

import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Answer(NamedTuple):
    """What came back.

    Attributes:
      logits: float32 [N, K].
      operations: each operation of a LiteRT file with the type of what it gives, such as
        "CONV_2D int8"; of ONNX, none.
    """

    logits: np.ndarray
    operations: list[str]


def ask(path: Path, images: np.ndarray) -> Answer:
    """Starts a process with ONNX Runtime or LiteRT alone and returns its answer.

    Args:
      path: an .onnx or .tflite file that takes pixels.
      images: float32 [N, H, W, C] in [0, 255].

    Raises:
      ValueError: the runtime cannot run it.
    """
    code = f"{inspect.getsource(answer)}\nimport sys\nanswer(*sys.argv[1:])"
    with tempfile.TemporaryDirectory() as folder:
        asked, given = Path(folder) / "asked.npy", Path(folder) / "given.npz"
        np.save(asked, np.asarray(images, np.float32))
        ended = subprocess.run(
            [sys.executable, "-c", code, str(path), str(asked), str(given)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True, text=True,
        )  # fmt: skip
        if ended.returncode:
            said = (ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1]
            raise ValueError(f"the {path.suffix} file is not verified: {said}")
        with np.load(given) as stored:
            return Answer(stored["logits"], stored["operations"].tolist())


def answer(path: str, asked: str, given: str) -> None:
    """Writes a file's logits for the images of `asked` into `given`.

    Its source is run in the other process, so it names nothing of this module.
    """
    import importlib

    import numpy as np

    images, operations = np.load(asked), []
    if path.endswith(".onnx"):
        runtime = importlib.import_module("onnxruntime")
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    else:
        runtime = importlib.import_module("ai_edge_litert.interpreter")
        interpreter = runtime.Interpreter(model_path=path)
        types = {one["index"]: one["dtype"] for one in interpreter.get_tensor_details()}
        # Before a delegate takes them; LiteRT tells its operations by no public name.
        for one in interpreter._get_ops_details():
            made = {np.dtype(types[index]).name for index in one["outputs"] if index in types}
            operations.append(" ".join([one["op_name"], *sorted(made)]))
        taken, told = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        logits = []
        for start in range(0, len(images), 64):
            batch = images[start : start + 64]
            interpreter.resize_tensor_input(taken["index"], batch.shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(taken["index"], batch)
            interpreter.invoke()
            logits.append(interpreter.get_tensor(told["index"]))
        logits = np.concatenate(logits)
    np.savez(given, logits=logits, operations=np.array(operations, str))
