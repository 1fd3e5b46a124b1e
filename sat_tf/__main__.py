"""Lists the programs: `python -m sat_tf`."""

import importlib.util
import sys

from sat_tf import quiet

PROGRAMS = {
    "sat_tf.train": "trains a robust network, and tests it",
    "sat_tf.evaluate": "measures clean and adversarial accuracy, and writes a report",
    "sat_tf.convert": "turns a checkpoint of the paper or of RobustBench into a run",
    "sat_tf.zoo": "lists the trained networks that come along, and takes in that of a run",
    "sat_tf.activations": "compares the activation functions, and draws them",
    "export.saved_model": "writes a run as a SavedModel for TensorFlow Serving",
    "export.pytorch": "writes a run for PyTorch, with the JSON that RobustBench asks for",
    "export.onnx": "writes a run as ONNX",
    "export.litert": "writes a run as LiteRT (TensorFlow Lite), in int8 if wanted",
    "export.client": "asks a server what pictures show, or compares it with a run",
    "benchmarks.train_step": "measures what an adversarial training step costs",
    "benchmarks.activations": "measures what each activation costs",
    "benchmarks.evaluate": "measures evaluation against plain loops and other libraries",
    "benchmarks.input": "measures how many cores feed an accelerator with pictures",
    "benchmarks.serving": "measures an exported network by batch size and signature",
    "benchmarks.studies.encoded": "measures what saving adversarial images as files does",
    "benchmarks.studies.one_image": "draws an image that is broken for one network alone",
    "benchmarks.studies.study": "trains and evaluates a plan of networks over several seeds",
}


def starts(installed: bool) -> dict[str, str]:
    """Returns what each program is for, by what starts it.

    Args:
      installed: by pip, with commands, `export` inside this package and no benchmarks; or in its
        checkout.
    """
    if not installed:
        return {f"python -m {name}": purpose for name, purpose in PROGRAMS.items()}
    inside = {
        name.replace("export.", "sat_tf.export."): purpose
        for name, purpose in PROGRAMS.items()
        if not name.startswith("benchmarks.")
    }
    commands = {module: command for command, module in quiet.COMMANDS.items()}
    return {commands.get(name, f"python -m {name}"): what for name, what in inside.items()}


if __name__ == "__main__":
    if {*sys.argv[1:]} - {"--help", "-h"}:
        said = f"unexpected argument {sys.argv[1]!r}; each program is started by its own name"
        print(f"sat_tf: {said}", file=sys.stderr)
        sys.exit(2)
    found = starts(installed=importlib.util.find_spec("sat_tf.export") is not None)
    for start, purpose in found.items():
        print(f"{start:<{max(map(len, found)) + 2}}{purpose}")
    print(f"\nEach has --help. The first is where to begin: {next(iter(found))}")
