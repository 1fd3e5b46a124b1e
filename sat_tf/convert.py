"""Turns a checkpoint of the paper or of RobustBench into a network of ours.

    python -m sat_tf.convert --checkpoint=Res50-silu --output=runs/released_resnet50
    python -m sat_tf.convert --checkpoint=Res50-silu --list
    python -m sat_tf.convert --checkpoint=efficientnet-b0 --noema --output=runs/b0
    python -m sat_tf.convert --from=robustbench --checkpoint=Carmon2019.pt --normalization=none \
        --output=runs/carmon

The output directory holds what the directory of a run holds: `network.keras`, pixels to logits, and
`metrics.json`; it appears whole or not at all. Only arrays are read, never code.
"""

import pathlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import keras
from absl import flags

from flags import convert as own_flags
from sat_tf import cli, models, specs
from sat_tf.released.choice import Choice, choose
from sat_tf.released.names import some
from sat_tf.released.plan import Plan, Tensor, plan
from sat_tf.released.reader import Checkpoint
from sat_tf.robustbench import conversion
from sat_tf.runs import atomic, sealed, workdir

CHANNEL_ORDERS = ("bgr", "rgb")
NUM_CLASSES = 1000


def build(choice: Choice) -> keras.Model:
    """Builds the network that the checkpoint is to fill."""
    return models.build(
        choice.model,
        activation=choice.activation,
        num_classes=NUM_CLASSES,
        image_size=choice.image_size,
    )


def match(network: keras.Model, tensors: Mapping[str, Tensor], ema: bool | None) -> Plan:
    """Gives every weight of a network its tensor."""
    shapes = {weight.path: tuple(weight.shape) for weight in network.weights}
    return plan(network.name, shapes, tensors, ema)


def fill(network: keras.Model, checkpoint: Checkpoint, matched: Plan, channel_order: str) -> None:
    """Assigns every weight its tensor.

    Args:
      channel_order: "bgr" reverses the input axis of the first convolution, so that the network
        takes RGB; "rgb" leaves it.

    Raises:
      ValueError: as `Plan.check` and `Checkpoint.read`, or an unknown order.
    """
    specs.one_of("channel_order", channel_order, CHANNEL_ORDERS)
    matched.check()
    first = network.weights[0].path
    for weight in network.weights:
        values = checkpoint.read(matched.used[weight.path])
        if weight.path == first and channel_order == "bgr":
            values = values[:, :, ::-1]
        weight.assign(values.reshape(weight.shape))


def metadata(
    network: keras.Model,
    checkpoint: Checkpoint,
    matched: Plan,
    facts: Mapping[str, Any],
    converted: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the `metrics.json` of a converted network.

    Args:
      facts: of the network.
      converted: how the checkpoint was read, beside what is told of each.
    """
    return {
        "schema": 1,
        "unit": "pixels (0-255)",
        **facts,
        "num_parameters": models.num_parameters(network),
        **workdir.provenance(),
        "converted": {
            "checkpoint": pathlib.Path(checkpoint.prefix).name,
            "sha256": checkpoint.sha256(),
            **converted,
            "tensors_used": len(matched.used),
            "tensors_ignored": dict(matched.ignored),
        },
    }


def write(directory: pathlib.Path, network: keras.Model, metrics: Mapping[str, Any]) -> None:
    """Writes `network.keras` and `metrics.json` in a new directory, whole or not at all.

    Raises:
      ValueError: the directory is there and not empty.
    """
    refuse_existing(directory)
    with atomic.making(directory) as partial:
        files = partial / "files"
        with sealed.replacing(files / "network.keras") as temporary:
            network.save(temporary)
        workdir.write_metrics(files, metrics)
        files.replace(directory)


def refuse_existing(directory: pathlib.Path) -> None:
    """Raises ValueError where there is something already, or never can be a directory."""
    atomic.refuse_remote(directory)
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ValueError(f"{directory} is there already; --output names a new directory")


def main() -> None:
    """Converts the checkpoint that the flags name, or lists it."""
    given = flags.FLAGS
    _check_given(given)
    checkpoint, network, matched, facts, account = SOURCES[getattr(given, "from")](given)
    if given.list:
        print(matched.table())
        matched.check()
        print(_summary(matched))
        return
    directory = pathlib.Path(given.output)
    size = sum(weight.value.numpy().nbytes for weight in network.weights)
    atomic.require_space(directory, size, "the network's weights")
    converted = facts.pop("converted", {})
    fill(network, checkpoint, matched, converted.get("channel_order", "rgb"))
    write(directory, network, metadata(network, checkpoint, matched, facts, converted))
    print(_summary(matched))
    print(account)
    print(f"{directory}: measure it with python -m sat_tf.evaluate --workdir={directory}")


def _of_the_paper(given):
    if given.normalization:
        raise ValueError("--normalization is of --from=robustbench; leave it out")
    checkpoint = Checkpoint(given.checkpoint)
    choice = choose(given)
    network = build(choice)
    facts = {
        "model": choice.model,
        "activation": choice.activation,
        "dataset": "imagenet2012",
        "num_classes": NUM_CLASSES,
        "class_order": "sorted WordNet ids, n01440764 first",
        "image_size": choice.image_size,
        "eval_resize": choice.eval_resize,
        "norm": "linf",
        "epsilon": 4.0,
        "converted": {"channel_order": choice.channel_order, "ema": bool(choice.ema)},
    }
    matched = match(network, checkpoint.tensors, choice.ema)
    return checkpoint, network, matched, facts, _account(choice)


# {--from: a function from the flags to checkpoint, network, plan, facts and account}
SOURCES = {"paper": _of_the_paper, "robustbench": conversion.convert}


def _check_given(given):
    if given.checkpoint is None:
        raise ValueError(
            "--checkpoint is missing; give the path of a TensorFlow 1 checkpoint, or of a PyTorch "
            "file with --from=robustbench"
        )
    if given.list:
        return
    if given.output is None:
        raise ValueError("--output is missing; give a new directory, or --list to write nothing")
    refuse_existing(pathlib.Path(given.output))


def _summary(matched):
    by_reason = defaultdict(list)
    for name, reason in matched.ignored.items():
        by_reason[reason].append(name)
    lines = [f"ignored, {reason}: {some(names)}" for reason, names in by_reason.items()]
    head = f"{len(matched.used)} tensors used once each, {len(matched.ignored)} ignored"
    return "\n".join([head, *lines])


def _account(choice):
    order = choice.channel_order.upper()
    taken = {
        "BGR": "BGR, reversed for RGB images; not verified on a released file: where the accuracy "
        "is some points low, compare --channel_order=rgb",
        "RGB": "RGB, as it is",
    }[order]
    return (
        f"{choice.model}, {choice.activation}, {choice.image_size} pixels, "
        f"{'averaged weights, ' if choice.ema else ''}first convolution {taken}"
    )


def command() -> None:
    """Runs the program with the flags of the command line."""
    cli.run(main, own_flags, tidies=True)


if __name__ == "__main__":
    command()
