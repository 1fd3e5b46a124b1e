"""The architectures of RobustBench that are known: their names, and what a file of them holds.

A layer here is named as in `sat_tf.models`: "conv0", "group0_block0_conv1" and its "_bn". The
tables say how the PyTorch modules call it; everything else is read off the tensors' shapes.

Source: Croce et al. 2021, arXiv 2010.09670, and the modules of RobustBench and torchvision, of
which names, padding and the place of norms and shortcuts were read; no released file was at hand.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

_PREACTIVATION = {
    "conv1_bn": "bn1",
    "conv1": "conv1",
    "conv2_bn": "bn2",
    "conv2": "conv2",
    "convshortcut": "shortcut.0",
}
_DEEPMIND = {"conv1_bn": "batchnorm_0", "conv2_bn": "batchnorm_1", "convshortcut": "shortcut"}
_POSTACTIVATION = {
    **{f"conv{number}": f"conv{number}" for number in (1, 2, 3)},
    **{f"conv{number}_bn": f"bn{number}" for number in (1, 2, 3)},
    "convshortcut": "shortcut.0",
    "convshortcut_bn": "shortcut.1",
}
_DOWNSAMPLE = {"convshortcut": "downsample.0", "convshortcut_bn": "downsample.1"}


class Family(NamedTuple):
    """An architecture of any depth and width.

    Attributes:
      what: its name in words.
      layers: the layers outside the blocks, {ours: theirs}.
      block: what a block is called; {group} and {index} count from 0, {number} the groups from 1.
      parts: the layers of a block, {ours: theirs}.
      activation: of RobustBench's networks of this kind.
      centred: whether strided kernels are; else they are padded after the last row and column.
      shortcut_kernel: side of the kernel of a shortcut.
      raw_shortcut: whether a shortcut starts before the norm of its block; None: where there is no
        last norm, as it is with RobustBench's PreActBlock and PreActBlockV2.
      unused: what tensors hold that no network of this kind uses, {pattern: reason}.
    """

    what: str
    layers: Mapping[str, str]
    block: str
    parts: Mapping[str, str]
    activation: str = "relu"
    centred: bool = True
    shortcut_kernel: int = 1
    raw_shortcut: bool | None = False
    unused: Mapping[str, str] = {}

    @property
    def preactivation(self) -> bool:
        """Tells whether norm and activation come before their convolution."""
        return "last_bn" in self.layers

    def block_name(self, group: int | str, index: int | str) -> str:
        """Returns what their block of that group and index is called, or a pattern for all."""
        if isinstance(group, int):
            return self.block.format(group=group, number=group + 1, index=index)
        pattern = re.escape(self.block).replace(r"\{", "{").replace(r"\}", "}")
        return pattern.format(group=group, number=group, index=index)

    def required(self) -> list[str]:
        """Returns tensors that every file of this kind has, as far as they tell it from others."""
        first = self.block_name(0, 0)
        outside = [name for ours, name in self.layers.items() if not self._optional(ours)]
        inside = [f"{first}.{self.parts[part]}" for part in ("conv1_bn", "conv1", "conv2")]
        return [f"{name}.weight" for name in (*outside, *inside)]

    def _optional(self, layer):
        return layer == "last_bn" and self.raw_shortcut is None

    def blocks(self, tensors: Collection[str]) -> tuple[int, ...]:
        """Counts the blocks of each group that the names of tensors tell of."""
        pattern = self.block_name(r"(\d+)", r"(\d+)") + r"\."
        found = {
            tuple(map(int, match.groups())) for one in tensors if (match := re.match(pattern, one))
        }
        first = int("{number}" in self.block)
        groups = sorted({group for group, _ in found})
        return tuple(
            sum(group == number for group, _ in found)
            for number in range(first, first + len(groups))
        )

    def tensor(self, weight: str) -> str:
        """Returns the tensor that becomes a weight, such as "group0_block0_conv1/kernel"."""
        layer, _, kind = weight.rpartition("/")
        if match := re.fullmatch(r"group(\d+)_block(\d+)_(.+)", layer):
            group, index, part = match.groups()
            name = f"{self.block_name(int(group), int(index))}.{self.parts[part]}"
        else:
            name = self.layers[layer]
        return f"{name}.{KINDS[kind]}"


# A batch norm's or a layer's variables, {ours: theirs}.
KINDS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}

# A file is of the first whose required tensors it has.
FAMILIES = {
    "wideresnet": Family(
        "WideResNet (Carmon, Rice)",
        {"conv0": "conv1", "last_bn": "bn1", "logits": "fc"},
        "block{number}.layer.{index}",
        _PREACTIVATION | {"convshortcut": "convShortcut"},
        unused={r"sub_block1\..+": "made by the module, not used by it"},
    ),
    "dm-wideresnet": Family(
        "DMWideResNet (Gowal, Rebuffi)",
        {"conv0": "init_conv", "last_bn": "batchnorm", "logits": "logits"},
        "layer.{group}.block.{index}",
        _DEEPMIND | {"conv1": "conv_0", "conv2": "conv_1"},
        activation="swish",
        centred=False,
    ),
    "dm-preactresnet": Family(
        "DMPreActResNet (Rebuffi)",
        {"conv0": "conv_2d", "last_bn": "batchnorm", "logits": "logits"},
        "layer_{group}.{index}",
        _DEEPMIND | {"conv1": "conv_2d_1", "conv2": "conv_2d_2"},
        activation="swish",
        centred=False,
        shortcut_kernel=3,
        raw_shortcut=True,
    ),
    "torchvision-resnet": Family(
        "torchvision's ResNet (ImageNet)",
        {"conv0": "conv1", "conv0_bn": "bn1", "logits": "fc"},
        "layer{number}.{index}",
        _POSTACTIVATION | _DOWNSAMPLE,
    ),
    "resnet": Family(
        "ResNet (CIFAR)",
        {"conv0": "conv1", "conv0_bn": "bn1", "logits": "linear"},
        "layer{number}.{index}",
        _POSTACTIVATION,
    ),
    "preactresnet": Family(
        "PreActResNet (Rice, Wong)",
        {"conv0": "conv1", "last_bn": "bn", "logits": "linear"},
        "layer{number}.{index}",
        _PREACTIVATION,
        raw_shortcut=None,
    ),
}


def recognise(tensors: Collection[str], source: str) -> str:
    """Returns the family whose required tensors are all there.

    Args:
      tensors: names, without the prefixes of wrappers.
      source: the file, for the message.

    Raises:
      ValueError: none; what the nearest one lacks, and what is there in its place.
    """
    lacking = {
        name: [one for one in family.required() if one not in tensors]
        for name, family in FAMILIES.items()
    }
    for name, missing in lacking.items():
        if not missing:
            return name
    nearest = min(lacking, key=lambda name: len(lacking[name]))
    some = ", ".join(sorted(tensors)[:4]) or "nothing"
    known = ", ".join(family.what for family in FAMILIES.values())
    raise ValueError(
        f"{source} holds {len(tensors)} tensors ({some}, …) of another architecture than the known "
        f"ones ({known}); the nearest, {FAMILIES[nearest].what}, would have "
        f"{', '.join(lacking[nearest])} as well"
    )
