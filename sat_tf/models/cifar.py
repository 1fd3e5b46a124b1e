"""Residual networks for small images (CIFAR, 32 x 32; the embedded digits, 8 x 8).

A body maps normalised images to logits: `body(images, activate, num_classes, *, options)`. All
convolutions are without bias; strides sit on the first 3x3 of a block. Unless `zero_gamma=True`,
every batch norm starts with scale 1, as in the papers of these networks.
"""

from collections.abc import Callable
from functools import partial

import keras

from sat_tf.models.layers import (
    Activate,
    PaddedIdentity,
    batch_norm,
    convolution,
    norm_act,
    pooled_logits,
    projection,
    residual_groups,
)


def basic_block(
    x: keras.KerasTensor,
    activate: Activate,
    filters: int,
    strides: int,
    *,
    name: str,
    zero_gamma: bool,
    projected: bool,
) -> keras.KerasTensor:
    """conv, norm, act, conv, norm, + shortcut, act; the shortcut is a projection or padded."""
    shortcut = x
    if strides != 1 or x.shape[-1] != filters:
        if projected:
            shortcut = projection(x, filters, strides, name=name)
        else:
            shortcut = PaddedIdentity(filters, strides, name=f"{name}_shortcut")(x)
    x = convolution(x, filters, 3, strides=strides, name=f"{name}_conv1")
    x = norm_act(x, activate, name=f"{name}_conv1")
    x = convolution(x, filters, 3, name=f"{name}_conv2")
    x = batch_norm(x, name=f"{name}_conv2_bn", zero_gamma=zero_gamma)
    return activate(keras.layers.Add(name=f"{name}_add")([shortcut, x]), f"{name}_act")


def preactivation_block(
    x: keras.KerasTensor,
    activate: Activate,
    filters: int,
    strides: int,
    *,
    name: str,
    zero_gamma: bool,
    shortcut_kernel: int = 1,
    raw_shortcut: bool = False,
    centred: bool = True,
) -> keras.KerasTensor:
    """norm, act, conv, norm, act, conv, + shortcut; a projection starts from the activated maps.

    Others differ (`sat_tf.robustbench`): their projection is larger, starts from the maps as they
    come (`raw_shortcut`), or their strided kernels are not centred (see `convolution`).
    """
    raw = shortcut = x
    x = norm_act(x, activate, name=f"{name}_conv1")
    strided = {"strides": strides, "centred": centred}
    if strides != 1 or x.shape[-1] != filters:
        source, scope = raw if raw_shortcut else x, f"{name}_convshortcut"
        shortcut = convolution(source, filters, shortcut_kernel, name=scope, **strided)
    x = convolution(x, filters, 3, name=f"{name}_conv1", **strided)
    x = batch_norm(x, name=f"{name}_conv2_bn", zero_gamma=zero_gamma)
    x = activate(x, f"{name}_conv2_act")
    x = convolution(x, filters, 3, name=f"{name}_conv2")
    return keras.layers.Add(name=f"{name}_add")([shortcut, x])


def _resnet(
    num_blocks: tuple[int, ...],
    projected: bool,
    images: keras.KerasTensor,
    activate: Activate,
    num_classes: int,
    *,
    width: int = 64,
    zero_gamma: bool = False,
) -> keras.KerasTensor:
    """Post-activation ResNet: 3x3 stem, no max-pool, groups of basic blocks."""
    x = convolution(images, width, 3, name="conv0")
    x = norm_act(x, activate, name="conv0")
    block = partial(basic_block, activate=activate, zero_gamma=zero_gamma, projected=projected)
    return pooled_logits(residual_groups(x, block, num_blocks, width), num_classes)


def _thin_resnet(
    depth: int,
    images: keras.KerasTensor,
    activate: Activate,
    num_classes: int,
    *,
    width: int = 16,
    zero_gamma: bool = False,
) -> keras.KerasTensor:
    """The CIFAR ResNet of depth 6n + 2: three groups of n blocks, padded identity shortcuts.

    Source: He et al. 2015, arXiv 1512.03385, section 4.2.
    """
    num_blocks = ((depth - 2) // 6,) * 3
    return _resnet(
        num_blocks, False, images, activate, num_classes, width=width, zero_gamma=zero_gamma
    )


def _preactivation_resnet(
    num_blocks: tuple[int, ...],
    stem: int,
    width: int,
    images: keras.KerasTensor,
    activate: Activate,
    num_classes: int,
    *,
    zero_gamma: bool = False,
) -> keras.KerasTensor:
    """Pre-activation ResNet; a last norm and activation precede the pooling.

    `zero_gamma` acts on the second norm of a block, the last one before the addition.

    Source: He et al. 2016, arXiv 1603.05027. A widely copied PreAct ResNet-18 leaves the last norm
    and activation out (11,171,146 parameters for 10 classes); here, as there, they are in
    (11,172,170).
    """
    x = convolution(images, stem, 3, name="conv0")
    block = partial(preactivation_block, activate=activate, zero_gamma=zero_gamma)
    x = residual_groups(x, block, num_blocks, width)
    return pooled_logits(norm_act(x, activate, name="last"), num_classes)


def wide_resnet(depth: int, width: int) -> Callable[..., keras.KerasTensor]:
    """Returns the body of WRN-`depth`-`width`: three groups of `width` x (16, 32, 64) channels.

    Raises:
      ValueError: the depth is not 6n + 4, or the width is 0.

    Source: Zagoruyko and Komodakis 2016, arXiv 1605.07146, table 1, without dropout.
    """
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise ValueError(
            f"A wide ResNet wrn-<depth>-<width> needs a depth of 6n + 4 (10, 16, 22, 28, 34, ...) "
            f"and a width of at least 1, not depth {depth} and width {width}."
        )
    return partial(_preactivation_resnet, ((depth - 4) // 6,) * 3, 16, 16 * width)


NETWORKS = {
    **{f"resnet{depth}": partial(_thin_resnet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet18": partial(_resnet, (2, 2, 2, 2), True),
    "resnet34": partial(_resnet, (3, 4, 6, 3), True),
    "preactresnet18": partial(_preactivation_resnet, (2, 2, 2, 2), 64, 64),
    **{
        f"wrn-{depth}-{width}": wide_resnet(depth, width)
        for depth, width in ((16, 4), (28, 4), (28, 10), (34, 10), (34, 20), (70, 16))
    },
}
