"""RobustBench's ConvNeXts, from what the shapes of a file tell."""

import dataclasses
from functools import partial

import keras

from sat_tf.models import convnext
from sat_tf.models.layer_norm import convolutional_stem
from sat_tf.models.layers import Activate
from sat_tf.robustbench.family import Family, Shapes


@dataclasses.dataclass(frozen=True)
class ConvNeXt:
    """A ConvNeXt of any depth and width; stochastic depth is 0, as a file does not tell it.

    Attributes:
      family: one of `families.FAMILIES`.
      num_blocks: of each of the four stages.
      width: channels of the first stage.
      stem: filters of a convolutional stem; none where images are cut into patches.
      patch_size: pixels along a side of what the stem makes one position of.
      layer_scale: whether branches are scaled.
      num_channels, num_classes: of images and logits.
    """

    family: str
    num_blocks: tuple[int, ...]
    width: int
    stem: tuple[int, ...]
    patch_size: int
    layer_scale: bool
    num_channels: int
    num_classes: int

    @property
    def name(self) -> str:
        """Returns the name of `sat_tf.models`, or "convnext-1-1-3-1-8" of 8 channels."""
        ending = "_convstem" if self.stem else ""
        for size, (stages, options, shares) in convnext.SIZES.items():
            width = options["width"]
            stem = tuple(round(share * width) for share in shares) if self.stem else ()
            named = (tuple(3 * times for times in stages), width, stem, 4)
            if named == (self.num_blocks, self.width, self.stem, self.patch_size):
                return f"convnext_{size}{ending}"
        return "-".join(["convnext", *map(str, (*self.num_blocks, self.width))]) + ending

    @property
    def for_imagenet(self) -> bool:
        """Tells whether it reduces images as the papers' networks do."""
        return self.patch_size == 4

    @property
    def remark(self) -> str:
        """Returns what a file did not tell, for the terminal."""
        return f", a stem of {self.patch_size} pixels to a position" if self.stem else ""

    def logits(self, images: keras.KerasTensor, activate: Activate) -> keras.KerasTensor:
        """Assembles the network behind the normalised images."""
        return convnext.body(
            partial(_convolutions, self.stem) if self.stem else convnext.patches,
            self.num_blocks,
            images,
            activate,
            self.num_classes,
            width=self.width,
            depth=1,
            patch_size=self.patch_size,
            stochastic_depth=0.0,
            layer_scale=1e-6 if self.layer_scale else 0.0,
        )


def _convolutions(filters, images, activate, width, patch_size):
    del width  # the last of the filters
    return convolutional_stem(images, activate, filters, patch_size)


def architecture(name: str, family: Family, shapes: Shapes, patch_size: int = 4) -> ConvNeXt:
    """Reads the architecture off the shapes of a family's tensors.

    Args:
      name: of the family, which `family` is.
      shapes: of the tensors, kernels as Keras has them.
      patch_size: of a convolutional stem, whose strides leave no trace: 4 in RobustBench's.

    Raises:
      ValueError: shapes that no ConvNeXt has.
    """
    stem = [one for one in family.layers if one.startswith("stem") and not one.endswith("norm")]
    tensors = [family.tensor(f"{one}/kernel") for one in stem]
    kernels = [shapes[one] for one in tensors if one in shapes]
    num_blocks = family.blocks(shapes)
    if len(num_blocks) != 4 or 0 in num_blocks or {len(one) for one in kernels} != {4}:
        raise ValueError(
            f"{family.what} has four stages of a block or more behind convolutions, and this one's "
            f"blocks are {', '.join(map(str, num_blocks))}, the kernels of its stem "
            f"{', '.join(str(list(one)) for one in kernels)}: it is another architecture"
        )
    patches = name == "convnext"
    return ConvNeXt(
        family=name,
        num_blocks=num_blocks,
        width=kernels[-1][-1],
        stem=() if patches else tuple(one[-1] for one in kernels),
        patch_size=kernels[0][0] if patches else patch_size,
        layer_scale=family.tensor("stage0_block0_scale/gamma") in shapes,
        num_channels=kernels[0][-2],
        num_classes=shapes[family.tensor("logits/kernel")][-1],
    )
