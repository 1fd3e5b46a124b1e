"""The networks of RobustBench's architectures, from what the shapes of a file tell."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from sat_tf.models import cifar, resnet
from sat_tf.models.layers import (
    Activate,
    activation_sites,
    convolution,
    norm_act,
    pooled_logits,
    residual_groups,
)
from sat_tf.robustbench import convnext
from sat_tf.robustbench.convnext import ConvNeXt
from sat_tf.robustbench.families import FAMILIES
from sat_tf.robustbench.family import Family, Shapes


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A member of a family.

    Attributes:
      family: one of `families.FAMILIES`.
      num_blocks: of each group.
      stem: filters of the first convolution, and `stem_kernel` the side of its kernel.
      width: filters of the first group; of bottlenecks, a quarter of what a block returns.
      inner: filters inside the first group's bottlenecks; 0 where blocks are basic.
      last_norm: whether norm and activation precede the pooling.
      raw_shortcut: whether a shortcut starts before the norm of its block.
      num_channels, num_classes: of images and logits.
    """

    family: str
    num_blocks: tuple[int, ...]
    stem: int
    stem_kernel: int
    width: int
    inner: int
    last_norm: bool
    raw_shortcut: bool
    num_channels: int
    num_classes: int

    @property
    def name(self) -> str:
        """Returns the usual name, such as "wrn-28-10" or "resnet50"."""
        depth = (3 if self.inner else 2) * sum(self.num_blocks) + 2
        if self.family.endswith("wideresnet"):
            return f"wrn-{depth + 2}-{self.width // 16}"
        kind = "preactresnet" if FAMILIES[self.family].preactivation else "resnet"
        wide = self.inner // self.width if self.inner else 1
        return f"{kind}{depth}" + (f"-{wide}" if wide > 1 else "")

    @property
    def for_imagenet(self) -> bool:
        """Tells whether it begins with a strided convolution and a pooling."""
        return self.family == "torchvision-resnet"

    @property
    def remark(self) -> str:
        """Returns what a file did not tell, for the terminal."""
        return ", shortcuts from raw maps" if self.raw_shortcut else ""

    def logits(self, images: keras.KerasTensor, activate: Activate) -> keras.KerasTensor:
        """Assembles the network behind the normalised images."""
        family = FAMILIES[self.family]
        strides = 2 if self.for_imagenet else 1
        x = convolution(images, self.stem, self.stem_kernel, strides=strides, name="conv0")
        if not family.preactivation:
            x = norm_act(x, activate, name="conv0")
        if self.for_imagenet:
            # After relu a zero is as good as PyTorch's minus infinity: every window holds a pixel.
            x = keras.layers.ZeroPadding2D(1, name="pool0_pad")(x)
            x = keras.layers.MaxPooling2D(3, strides=2, name="pool0")(x)
        x = residual_groups(x, _block(self, family, activate), self.num_blocks, self.width)
        if self.last_norm:
            x = norm_act(x, activate, name="last")
        return pooled_logits(x, self.num_classes)


def architecture(name: str, shapes: Shapes, **options) -> Architecture | ConvNeXt:
    """Reads the architecture off the shapes of a family's tensors.

    Args:
      name: of the family.
      shapes: of the tensors, kernels as Keras has them.
      **options: of `Family.options`: `raw_shortcut`, where a shortcut starts (default: as
        `Family.raw_shortcut` has it), or `patch_size`.

    Raises:
      ValueError: shapes that no network of the family has.
    """
    if name.startswith("convnext"):
        return convnext.architecture(name, FAMILIES[name], shapes, **options)
    return _residual(name, shapes, **options)


def _residual(name: str, shapes: Shapes, raw_shortcut: bool | None = None) -> Architecture:
    family = FAMILIES[name]

    def shape(weight):
        return shapes[family.tensor(f"{weight}/kernel")]

    def filters(part):
        return shape(f"group0_block0_{part}")[-1]

    try:
        bottleneck = family.tensor("group0_block0_conv3/kernel") in shapes
    except KeyError:
        bottleneck = False
    kernel = shape("conv0")
    last_norm = family.preactivation and f"{family.layers['last_bn']}.weight" in shapes
    raw = raw_shortcut if raw_shortcut is not None else family.raw_shortcut
    found = Architecture(
        family=name,
        num_blocks=family.blocks(shapes),
        stem=kernel[-1],
        stem_kernel=kernel[0],
        width=filters("conv3") // 4 if bottleneck else filters("conv1"),
        inner=filters("conv1") if bottleneck else 0,
        last_norm=last_norm,
        raw_shortcut=not last_norm if raw is None else raw,
        num_channels=kernel[-2],
        num_classes=shape("logits")[-1],
    )
    expected = 7 if found.for_imagenet else 3
    if found.stem_kernel != expected:
        raise ValueError(
            f"{family.what} begins with a kernel of {expected} x {expected}, and this one's has "
            f"{' x '.join(map(str, kernel[:2]))}: it is another architecture"
        )
    return found


def build(
    found: Architecture | ConvNeXt,
    *,
    activation: str,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> keras.Model:
    """Builds the network, from float32 pixels [N, H, W, C] in [0, 255] to logits [N, classes].

    Inside, pixels x become `(x / 255 - mean) / std` for each channel. Layers have the names of
    `sat_tf.models`; batch norm has momentum 0.9 (PyTorch's 0.1) and epsilon 1e-5, which a file does
    not tell and which are the defaults of both.

    Args:
      found: what to build.
      activation: a spec for `sat_tf.activations`.
      image_size: side of the images in pixels.
      mean, std: of images in [0, 1], a number for each channel.
    """
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    pixels = keras.Input(
        (image_size, image_size, found.num_channels), dtype="float32", name="pixels"
    )
    images = keras.layers.Rescaling(
        (1 / (255 * std)).tolist(), offset=(-mean / std).tolist(), dtype="float32", name="normalise"
    )(pixels)
    return keras.Model(pixels, found.logits(images, activation_sites(activation)), name=found.name)


def _block(found: Architecture, family: Family, activate):
    """Returns `block(x, filters=..., strides=..., name=...)`."""

    def block(x, *, filters, strides, name):
        shape = {"filters": filters, "strides": strides, "name": name}
        if family.preactivation:
            return cifar.preactivation_block(
                x,
                activate,
                zero_gamma=False,
                shortcut_kernel=family.shortcut_kernel,
                raw_shortcut=found.raw_shortcut,
                centred=family.centred,
                **shape,
            )
        if found.inner:
            inner = filters * found.inner // found.width
            return resnet.bottleneck(x, inner, 1, activate, False, **shape)
        return cifar.basic_block(x, activate, zero_gamma=False, projected=True, **shape)

    return block
