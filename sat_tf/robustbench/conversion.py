"""What a file of RobustBench's is taken for: by the flags and by what it holds."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from sat_tf import activations, specs
from sat_tf.released.plan import Plan
from sat_tf.robustbench.convnext import ConvNeXt
from sat_tf.robustbench.families import FAMILIES, recognise
from sat_tf.robustbench.family import Family
from sat_tf.robustbench.files import TorchCheckpoint
from sat_tf.robustbench.networks import Architecture, architecture, build

# Mean and standard deviation of images in [0, 1], for each channel, as RobustBench's modules have
# them; "half" is 2 x - 1.
NORMALIZATIONS = {
    "none": ((0.0,) * 3, (1.0,) * 3),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# What the same two are called in files.
_STATISTICS = (
    ("mean", "std"),
    ("mu", "sigma"),
    ("normalize.mean", "normalize.std"),
    ("normalizer.new_mean", "normalizer.new_std"),
)
_IGNORED = {
    r".+\.num_batches_tracked": "counter of the training",
    r"attacker\..+": "the copy that an attacker has of the network",
}
# Data set of RobustBench by the number of classes, and epsilon of its linf models in pixels.
_DATASETS = {10: ("cifar10", 8.0), 100: ("cifar100", 8.0), 1000: ("imagenet2012", 4.0)}
_CLASS_ORDER = {10: "TFDS's", 100: "TFDS's", 1000: "sorted WordNet ids, n01440764 first"}


class Conversion(NamedTuple):
    """A file, the network that it fills, and how.

    Attributes:
      checkpoint: the file.
      network: with weights of its own as yet.
      plan: which tensor becomes which weight.
      facts: what `metrics.json` says of it.
      account: one line for whoever reads the terminal.
    """

    checkpoint: TorchCheckpoint
    network: keras.Model
    plan: Plan
    facts: dict[str, Any]
    account: str


def convert(given: Any) -> Conversion:
    """Reads a file, recognises its architecture, and builds the network that it fits.

    Args:
      given: the parsed flags of `flags.convert`.

    Raises:
      ValueError: a file that cannot be read or is of no known architecture; a flag that contradicts
        it or does not apply; a normalisation that neither says.
    """
    _refuse_others(given)
    checkpoint = TorchCheckpoint(given.checkpoint)
    name, options = _model(given.model)
    found_name = recognise(checkpoint.tensors, given.checkpoint)
    if name not in (None, found_name):
        raise ValueError(
            f"--model={name} contradicts {given.checkpoint}, which holds {found_name}; leave "
            "--model out"
        )
    family = FAMILIES[found_name]
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    told = checkpoint.told
    if "patch_size" in family.options and "patch_size" in told:
        options = {"patch_size": int(told["patch_size"]), **options}
    found = architecture(found_name, shapes, **options)
    activation = _activation(given.activation or told.get("activation"), found, family)
    statistics, mean, std = _statistics(given, checkpoint, found.num_channels)
    image_size = given.image_size or int(told.get("image_size", 0)) or _image_size(found, given)
    network = build(found, activation=activation, image_size=image_size, mean=mean, std=std)
    return Conversion(
        checkpoint,
        network,
        _plan(network, family, checkpoint.tensors, statistics),
        _facts(found, activation, image_size, mean, std),
        f"{family.what}: {found.name}, {activation}, {image_size} pixels, mean {_list(mean)}, "
        f"deviation {_list(std)}{found.remark}",
    )


def _image_size(found, given):
    """Returns the side of RobustBench's images for a network of that kind and classes.

    Raises:
      ValueError: a network for ImageNet's images with the classes of a set of smaller ones.
    """
    if not found.for_imagenet:
        return 32
    if (dataset := _DATASETS.get(found.num_classes, ("imagenet2012",))[0]) == "imagenet2012":
        return 224
    raise ValueError(
        f"{given.checkpoint} holds {found.name}, a network for images of 224 pixels, with the "
        f"{found.num_classes} classes of {dataset}, whose images have 32, and does not tell its "
        "size; give --image_size, and of a convolutional stem --model=convnext-convstem:patch_size="
        "… if it is not 4"
    )


def _refuse_others(given):
    for name in ("channel_order", "ema"):
        if getattr(given, name) is not None:
            raise ValueError(f"--{name} is of the paper's checkpoints; leave it out")


def _model(spec: str | None) -> tuple[str | None, Mapping[str, Any]]:
    if spec is None:
        return None, {}
    name, options = specs.parse(spec)
    specs.one_of("--model", name, FAMILIES)
    for option, value in options.items():
        if type(value) is not FAMILIES[name].options.get(option):
            known = [
                f"{one}:{own}={kind.__name__}"
                for one, family in FAMILIES.items()
                for own, kind in family.options.items()
            ]
            raise ValueError(
                f"--model={spec} has an option that {name} has not; known are {', '.join(known)}"
            )
    return name, options


def _activation(asked: str | None, found: Architecture | ConvNeXt, family: Family) -> str:
    activation = family.activation if asked is None else asked
    if found.family == "torchvision-resnet" and activations.parse(activation)[0] != "relu":
        raise ValueError(
            f"--activation={asked} does not apply to {family.what}: its pooling is padded, which "
            "is known for relu alone"
        )
    return activation


def _statistics(given, checkpoint, num_channels):
    """Returns the names of the file's own mean and deviation, if it has them, and the two."""
    asked = ",".join(given.normalization or [])
    own = [pair for pair in _STATISTICS if set(pair) <= checkpoint.tensors.keys()]
    if own and asked:
        raise ValueError(
            f"--normalization={asked} came for {given.checkpoint}, which holds {own[0][0]} and "
            f"{own[0][1]} of its own; leave it out"
        )
    if own:
        mean, std = (checkpoint.read(name).reshape(-1).tolist() for name in own[0])
    elif asked in NORMALIZATIONS:
        mean, std = NORMALIZATIONS[asked]
    else:
        numbers = _numbers(asked, given.checkpoint)
        mean, std = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    if asked in ("none", "half"):
        mean, std = mean[:num_channels], std[:num_channels]
    fits = len(mean) == len(std) == num_channels and np.isfinite([*mean, *std]).all()
    if not fits or min(std) <= 0:
        raise ValueError(
            f"mean {_list(mean)} and deviation {_list(std)} came for images of {num_channels} "
            "channels; a finite number for each was expected, and deviations above 0"
        )
    return own[0] if own else (), tuple(mean), tuple(std)


def _numbers(asked, path):
    try:
        numbers = [float(text) for text in asked.split(",") if asked]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) % 2:
        came = f"--normalization={asked} is not known" if asked else f"{path} does not hold it"
        raise ValueError(
            f"the normalisation of images in [0, 1] is missing: {came}; give --normalization="
            f"{'|'.join(NORMALIZATIONS)}, or MEAN,MEAN,MEAN,STD,STD,STD (docs/robustbench.md says "
            "which network takes which)"
        )
    return numbers


def _plan(network, family, tensors, statistics):
    shapes = {weight.path: _shape_in_file(weight) for weight in network.weights}
    used = {path: family.tensor(path) for path in shapes}
    ignored = dict.fromkeys(statistics, "normalisation, in the network as constants")
    for pattern, reason in (_IGNORED | dict(family.unused)).items():
        ignored |= {name: reason for name in tensors if re.fullmatch(pattern, name)}
    return Plan(network.name, shapes, dict(tensors), used, ignored)


def _shape_in_file(weight):
    """Returns the shape of a weight's tensor, of the same numbers in the same order."""
    shape = tuple(weight.shape)
    if weight.path.endswith("_depthwise/kernel"):  # [h, w, C, 1] here
        return *shape[:2], 1, shape[2]
    return shape


def _facts(found, activation, image_size, mean, std):
    facts = {
        "model": found.name,
        "activation": activation,
        "num_classes": found.num_classes,
        "image_size": image_size,
        "normalization": {"mean": mean, "std": std},
    }
    if found.num_classes in _DATASETS:
        dataset, epsilon = _DATASETS[found.num_classes]
        facts |= {"dataset": dataset, "norm": "linf", "epsilon": epsilon}
        facts["class_order"] = _CLASS_ORDER[found.num_classes]
    if found.for_imagenet and facts.get("dataset", "imagenet2012") == "imagenet2012":
        facts["eval_resize"] = "shorter_side"
    return facts


def _list(numbers):
    return " ".join(f"{number:g}" for number in numbers)
