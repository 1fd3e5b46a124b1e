"""ConvNeXt: residual networks as a transformer would have them; any image size.

Source: Liu et al. 2022, arXiv 2201.03545; "_convstem": Singh, Croce and Hein 2023, arXiv
2303.01870 (two convolutions, three in the base and the large network). Both papers activate by
gelu; here the activation is handed in. Stochastic depth is Liu et al.'s; the released code of Singh
et al. has 0.

Layer names: "stem_conv", "stage0_block0_depthwise" with "_norm", "_expand", "_act", "_project",
"_scale", "_drop" and "_add", "stage1_down", "head_norm", "logits".
"""

from collections.abc import Callable
from functools import partial

import keras

from sat_tf.models.branches import added, drop_rates
from sat_tf.models.layer_norm import convolution, convolutional_stem, dense, layer_norm, normal
from sat_tf.models.layers import Activate

Stem = Callable[[keras.KerasTensor, Activate, int, int], keras.KerasTensor]


def patches(
    images: keras.KerasTensor, activate: Activate, width: int, patch_size: int
) -> keras.KerasTensor:
    """Cuts images into patches that do not overlap: one convolution, then a norm."""
    del activate  # nothing bends here
    x = convolution(images, width, patch_size, strides=patch_size, name="stem_conv")
    return layer_norm(x, name="stem_norm")


def _convolutions(
    shares: tuple[float, ...],
    images: keras.KerasTensor,
    activate: Activate,
    width: int,
    patch_size: int,
) -> keras.KerasTensor:
    """Convolves in steps, each of whose widths is a share of the first stage's."""
    filters = [round(share * width) for share in shares]
    return convolutional_stem(images, activate, filters, patch_size)


def _block(
    x: keras.KerasTensor, activate: Activate, drop_rate: float, layer_scale: float, *, name: str
) -> keras.KerasTensor:
    """7x7 depthwise, norm, four times as wide, act, as wide as before, scale, + input."""
    block_input, width = x, x.shape[-1]
    x = keras.layers.DepthwiseConv2D(
        7, padding="same", depthwise_initializer=normal(), name=f"{name}_depthwise"
    )(x)
    x = layer_norm(x, name=f"{name}_norm")
    x = activate(dense(x, 4 * width, name=f"{name}_expand"), f"{name}_act")
    x = dense(x, width, name=f"{name}_project")
    return added(block_input, x, drop_rate=drop_rate, layer_scale=layer_scale, name=name)


def body(
    stem: Stem,
    stages: tuple[int, ...],
    images: keras.KerasTensor,
    activate: Activate,
    num_classes: int,
    *,
    width: int,
    depth: int = 3,
    patch_size: int = 4,
    stochastic_depth: float,
    layer_scale: float = 1e-6,
) -> keras.KerasTensor:
    """Stem, four stages of twice the width and half the map each, pool, norm, logits.

    Args:
      stem: makes the first maps of (images, activate, width, patch_size).
      stages: how many times `depth` blocks each stage has; (1, 1, 3, 1) in the tiny network.
      width: channels of the first stage.
      depth: blocks of the first stage.
      patch_size: pixels along a side of what the stem makes one position of; 4 in the papers, 1 or
        2 for images of 32 pixels.
      stochastic_depth: probability that training leaves the last block out; linearly less before.
      layer_scale: what the scales of branches start with; 0 has none.

    Raises:
      ValueError: a rate out of range, or images that are too small for five reductions.
    """
    if min(width, depth, patch_size) < 1:
        raise ValueError(
            f"width, depth and patch_size are {width}, {depth} and {patch_size}; give 1 or more."
        )
    if (side := min(images.shape[1:3])) < 8 * patch_size:
        fitting = max((size for size in (1, 2, 4) if 8 * size <= side), default=None)
        mend = "give an image_size of 8 or more and patch_size=1"
        if fitting:
            mend = f"give an eighth of the side or less: --model=convnext_tiny:patch_size={fitting}"
        raise ValueError(
            f"Images of {images.shape[1]} x {images.shape[2]} pixels are too small for "
            f"patch_size={patch_size}, whose four stages need {8 * patch_size}; {mend}."
        )
    depths = [depth * times for times in stages]
    rates = iter(drop_rates(stochastic_depth, sum(depths)))
    x = stem(images, activate, width, patch_size)
    for stage, num_blocks in enumerate(depths):
        if stage:
            x = layer_norm(x, name=f"stage{stage}_down_norm")
            x = convolution(x, width * 2**stage, 2, strides=2, name=f"stage{stage}_down")
        for index in range(num_blocks):
            x = _block(x, activate, next(rates), layer_scale, name=f"stage{stage}_block{index}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return dense(layer_norm(x, name="head_norm"), num_classes, dtype="float32", name="logits")


# How many times as deep as the first a stage is, then width and rate of the papers, and the widths
# of a convolutional stem over the first stage's.
SIZES = {
    "tiny": ((1, 1, 3, 1), {"width": 96, "stochastic_depth": 0.1}, (1 / 2, 1)),
    "small": ((1, 1, 9, 1), {"width": 96, "stochastic_depth": 0.4}, (1 / 2, 1)),
    "base": ((1, 1, 9, 1), {"width": 128, "stochastic_depth": 0.5}, (1 / 2, 3 / 4, 1)),
    "large": ((1, 1, 9, 1), {"width": 192, "stochastic_depth": 0.5}, (1 / 2, 3 / 4, 1)),
}
NETWORKS = {
    f"convnext_{size}{ending}": partial(body, stem, stages, **options)
    for size, (stages, options, shares) in SIZES.items()
    for ending, stem in (("", patches), ("_convstem", partial(_convolutions, shares)))
}
