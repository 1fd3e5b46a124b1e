"""EfficientNet B0-B7 and L1 as the paper trains them: SAME padding, batch norm 0.9 / 1e-5.

Source: Xie et al. 2020, arXiv 2006.14536, and its released evaluation code; Tan and Le 2019, arXiv
1905.11946. Unlike Keras's own EfficientNets these normalise with epsilon 1e-5, not 1e-3, take the
paper's pixel range, and pad with SAME whatever the parity of a map.

Layer names say what a convolution does, after the scope of the released checkpoints: "stem_conv",
"blocks_0_expand", "blocks_0_depthwise", "blocks_0_se_reduce", "blocks_0_se_expand",
"blocks_0_project", "head_conv", "logits"; norms and activations append "_bn" and "_act".
"""

import math
from functools import partial
from typing import NamedTuple

import keras

from sat_tf.models.layers import Activate, batch_norm, norm_act


class Stage(NamedTuple):
    """Blocks in a row with one kernel size and width; the first one has the stride."""

    repeats: int
    kernel_size: int
    strides: int
    expansion: int
    filters: int


B0_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def scaled_filters(filters: int, width: float) -> int:
    """Returns the multiple of 8 nearest to `filters * width`, or the next if 10 % would be lost."""
    exact = filters * width
    rounded = max(8, 8 * math.floor(exact / 8 + 0.5))
    return rounded + 8 if rounded < 0.9 * exact else rounded


def scaled_stages(width: float, depth: float) -> tuple[Stage, ...]:
    """Returns B0's stages, `width` times as wide and `depth` times as deep (rounded up)."""
    return tuple(
        stage._replace(
            repeats=math.ceil(depth * stage.repeats), filters=scaled_filters(stage.filters, width)
        )
        for stage in B0_STAGES
    )


def _fan_out() -> keras.initializers.Initializer:
    """N(0, 2 / (k k filters)), untruncated; a depthwise kernel counts as one filter."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def _convolution(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int = 1,
    *,
    name: str,
    strides: int = 1,
    use_bias: bool = False,
) -> keras.KerasTensor:
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=use_bias,
        kernel_initializer=_fan_out(),
        name=name,
    )(x)


def _squeeze_and_excite(
    x: keras.KerasTensor, activate: Activate, reduced_filters: int, *, name: str
) -> keras.KerasTensor:
    """Scales each channel by a gate between 0 and 1 that sees the means of all channels."""
    filters = x.shape[-1]
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(x)
    gate = _convolution(gate, reduced_filters, use_bias=True, name=f"{name}_reduce")
    gate = activate(gate, f"{name}_act")
    gate = _convolution(gate, filters, use_bias=True, name=f"{name}_expand")
    gate = keras.layers.Activation("sigmoid", name=f"{name}_gate")(gate)
    return keras.layers.Multiply(name=f"{name}_scale")([x, gate])


def _block(
    x: keras.KerasTensor, activate: Activate, stage: Stage, drop_rate: float, *, name: str
) -> keras.KerasTensor:
    """Expand, depthwise, squeeze and excite, project, + input where shape is kept.

    Args:
      drop_rate: probability that training leaves the branch out, image by image; kept branches are
        divided by 1 - drop_rate (Huang et al. 2016, arXiv 1603.09382).
    """
    block_input, channels = x, x.shape[-1]
    if stage.expansion != 1:
        x = _convolution(x, channels * stage.expansion, name=f"{name}_expand")
        x = norm_act(x, activate, name=f"{name}_expand")
    x = keras.layers.DepthwiseConv2D(
        stage.kernel_size,
        strides=stage.strides,
        padding="same",
        use_bias=False,
        depthwise_initializer=_fan_out(),
        name=f"{name}_depthwise",
    )(x)
    x = norm_act(x, activate, name=f"{name}_depthwise")
    x = _squeeze_and_excite(x, activate, max(1, channels // 4), name=f"{name}_se")
    x = _convolution(x, stage.filters, name=f"{name}_project")
    x = batch_norm(x, name=f"{name}_project_bn")
    if stage.strides != 1 or channels != stage.filters:
        return x
    if drop_rate > 0:
        per_image = (None, 1, 1, 1)
        x = keras.layers.Dropout(drop_rate, noise_shape=per_image, name=f"{name}_drop")(x)
    return keras.layers.Add(name=f"{name}_add")([block_input, x])


def _efficientnet(
    width: float,
    depth: float,
    paper_dropout: float,
    images: keras.KerasTensor,
    activate: Activate,
    num_classes: int,
    *,
    dropout: float | None = None,
    survival_probability: float = 0.8,
) -> keras.KerasTensor:
    """Stem, blocks, head, logits.

    Args:
      dropout: rate before the last layer; None is the paper's for this network.
      survival_probability: of a branch after the last block; it falls linearly from 1 at block 0.

    Raises:
      ValueError: a probability outside its range.
    """
    if not 0 < survival_probability <= 1:
        raise ValueError(
            f"survival_probability is {survival_probability}; give a number above 0, at most 1 "
            "(1 leaves no branch out)."
        )
    x = _convolution(images, scaled_filters(32, width), 3, strides=2, name="stem_conv")
    x = norm_act(x, activate, name="stem_conv")
    blocks = [
        stage if index == 0 else stage._replace(strides=1)
        for stage in scaled_stages(width, depth)
        for index in range(stage.repeats)
    ]
    for index, block in enumerate(blocks):
        drop_rate = (1 - survival_probability) * index / len(blocks)
        x = _block(x, activate, block, drop_rate, name=f"blocks_{index}")
    x = _convolution(x, scaled_filters(1280, width), name="head_conv")
    x = norm_act(x, activate, name="head_conv")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(paper_dropout if dropout is None else dropout, name="dropout")(x)
    limit = 1 / math.sqrt(num_classes)
    return keras.layers.Dense(
        num_classes,
        kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
        dtype="float32",
        name="logits",
    )(x)


# Width, depth, dropout. L1 is spelt efficientnet-bL1 in the released code.
NETWORKS = {
    "efficientnet-b0": partial(_efficientnet, 1.0, 1.0, 0.2),  # 224 pixels in the paper
    "efficientnet-b1": partial(_efficientnet, 1.0, 1.1, 0.2),  # 240
    "efficientnet-b2": partial(_efficientnet, 1.1, 1.2, 0.3),  # 260
    "efficientnet-b3": partial(_efficientnet, 1.2, 1.4, 0.3),  # 300
    "efficientnet-b4": partial(_efficientnet, 1.4, 1.8, 0.4),  # 380
    "efficientnet-b5": partial(_efficientnet, 1.6, 2.2, 0.4),  # 456
    "efficientnet-b6": partial(_efficientnet, 1.8, 2.6, 0.5),  # 528
    "efficientnet-b7": partial(_efficientnet, 2.0, 3.1, 0.5),  # 600
    "efficientnet-l1": partial(_efficientnet, 3.9, 3.7, 0.5),  # 600
}
