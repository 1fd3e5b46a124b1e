"""Writes a network as ONNX, for ONNX Runtime and whatever else reads it.

    python -m export.onnx --workdir=runs/digits --output=digits.onnx
    python -m export.onnx --network=zoo:cifar10_resnet18w16_swish --output=cifar10.onnx

The file takes float32 pixels [N, H, W, C] in [0, 255] and gives logits. It appears once a fresh
process, with ONNX Runtime and without Keras and this project, has given the network's logits for 16
pictures. The converter is Keras's own `Model.export`.
"""

from absl import flags

from export import formats
from flags import onnx as own_flags
from sat_tf import cli, loading


def main() -> None:
    """Exports the network that the flags name and prints where it is."""
    given = flags.FLAGS
    source, _ = loading.chosen(given.workdir, given.network)
    output = formats.output_of(given.output, ".onnx")
    formats.export(loading.load(source), output)
    print(f"{output} (verified in a fresh process)")


def command() -> None:
    """Runs the program with the flags of the command line."""
    cli.run(main, own_flags, tidies=True)


if __name__ == "__main__":
    command()
