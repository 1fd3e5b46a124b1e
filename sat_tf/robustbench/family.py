"""An architecture of RobustBench's, of any depth and width: what its layers and tensors are called.

A layer here is named as in `sat_tf.models`: "conv0", "group0_block0_conv1" and its "_bn", or
"stage0_block0_depthwise".
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]

# A batch norm's or a layer's variables, {ours: theirs}.
KINDS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


class Family(NamedTuple):
    """An architecture of any depth and width.

    Attributes:
      what: its name in words.
      layers: the layers outside the blocks, {ours: theirs}.
      block: what a block is called; {group} and {index} count from 0, {number} the groups from 1.
      parts: the layers of a block, {ours: theirs}.
      told_by: parts of the first block that tell the kind.
      optional: layers outside the blocks that some networks of the kind do not have.
      options: what leaves no trace in a file, so that `--model` may say it, {name: type}.
      activation: of RobustBench's networks of this kind.
      centred: whether strided kernels are; else they are padded after the last row and column.
      shortcut_kernel: side of the kernel of a shortcut.
      raw_shortcut: whether a shortcut starts before the norm of its block; None: where there is no
        last norm, as it is with RobustBench's PreActBlock and PreActBlockV2, unless an option says.
      unused: what tensors hold that no network of this kind uses, {pattern: reason}.
    """

    what: str
    layers: Mapping[str, str]
    block: str
    parts: Mapping[str, str]
    told_by: Collection[str] = ("conv1_bn", "conv1", "conv2")
    optional: Collection[str] = ()
    options: Mapping[str, type] = {}
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
        outside = [name for ours, name in self.layers.items() if ours not in self.optional]
        inside = [f"{first}.{self.parts[part]}" for part in self.told_by]
        return [f"{name}.weight" for name in (*outside, *inside)]

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
        if match := re.fullmatch(r"(?:group|stage)(\d+)_block(\d+)_(.+)", layer):
            group, index, part = match.groups()
            name = f"{self.block_name(int(group), int(index))}.{self.parts[part]}"
            if part == "scale":
                return name  # a parameter of the block itself
        else:
            name = self.layers[layer]
        return f"{name}.{KINDS[kind]}"
