"""Writes a network as LiteRT (TensorFlow Lite), for phones and small machines.

    python -m export.litert --workdir=runs/digits --output=digits.tflite
    python -m export.litert --workdir=runs/digits --output=digits.tflite --int8

The file takes float32 pixels [N, H, W, C] in [0, 255] and gives logits. It appears once a fresh
process, with LiteRT and without Keras and this project, has given the network's logits for 16
pictures. The converter is Keras's own `Model.export`. With `--int8` the file computes in integers,
and what that costs in accuracy, clean and attacked, stands beside it in JSON.
"""

from absl import flags

from export import formats, int8
from flags import litert as own_flags
from sat_tf import cli, loading

# Flags of --int8, and what else a run may say of them.
_OF_INT8 = ("dataset", "data_dir", "epsilon", "num_images", "calibration_images", "seed")
_OF_RUN = ("dataset", "data_dir", "epsilon", "norm", "eval_resize")


def main() -> None:
    """Exports the network that the flags name and prints where it is."""
    given = flags.FLAGS
    source, run = loading.chosen(given.workdir, given.network)
    output = formats.output_of(given.output, ".tflite", given.int8)  # before the data are read
    plan = _plan(given, run)
    network = loading.load(source)
    trial = plan and int8.Trial.read(network, loading.class_names(source), plan)
    figures = formats.export(network, output, trial)
    print(f"{output} (verified in a fresh process)")
    if trial:
        print(f"{int8.told(figures)}\n{output.with_suffix('.json')}")


def _plan(given, run):
    """Returns how --int8 is measured; None without it."""
    chosen = {name: getattr(given, name) for name in _OF_INT8}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if not given.int8:
        for name in chosen:
            raise ValueError(f"--{name} is of a measured quantisation; give --int8 as well")
        return None
    chosen = {name: run[name] for name in _OF_RUN if run.get(name) is not None} | chosen
    for name, example in (("dataset", "digits"), ("epsilon", "8")):
        if name not in chosen:
            raise ValueError(
                f"--{name} is not given and no run says it: such as --{name}={example}"
            )
    return int8.Plan(**chosen)


def command() -> None:
    """Runs the program with the flags of the command line."""
    cli.run(main, own_flags, tidies=True)


if __name__ == "__main__":
    command()
