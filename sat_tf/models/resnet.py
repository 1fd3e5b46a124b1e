"""ResNet and ResNeXt for ImageNet, as the paper trains them; any image size.

Source: Xie et al. 2020, arXiv 2006.14536, and its released evaluation code, whose scopes the layer
names mirror: "group0_block0_conv1" and its "_bn", "group0_block0_convshortcut", and "logits" for
the linear layer. He et al. 2015, arXiv 1512.03385; Xie et al. 2017, arXiv 1611.05431 (ResNeXt).
"""

from functools import partial

import keras

from sat_tf.models.layers import (
    Activate,
    batch_norm,
    convolution,
    norm_act,
    pooled_logits,
    projection,
    residual_groups,
)


def bottleneck(
    x: keras.KerasTensor,
    inner_filters: int,
    groups: int,
    activate: Activate,
    zero_gamma: bool,
    *,
    filters: int,
    strides: int,
    name: str,
) -> keras.KerasTensor:
    """1x1, 3x3 with the stride (v1.5), 1x1 to 4 x `filters`, + shortcut, and only then act."""
    shortcut = x
    if x.shape[-1] != 4 * filters:
        shortcut = projection(x, 4 * filters, strides, name=name)
    x = convolution(x, inner_filters, 1, name=f"{name}_conv1")
    x = norm_act(x, activate, name=f"{name}_conv1")
    x = convolution(x, inner_filters, 3, strides=strides, groups=groups, name=f"{name}_conv2")
    x = norm_act(x, activate, name=f"{name}_conv2")
    x = convolution(x, 4 * filters, 1, name=f"{name}_conv3")
    x = batch_norm(x, name=f"{name}_conv3_bn", zero_gamma=zero_gamma)
    return activate(keras.layers.Add(name=f"{name}_add")([shortcut, x]), f"{name}_act")


def _bottleneck_resnet(
    num_blocks: tuple[int, ...],
    groups: int,
    group_width: int,
    images: keras.KerasTensor,
    activate: Activate,
    num_classes: int,
    *,
    zero_gamma: bool = True,
) -> keras.KerasTensor:
    """7x7 stem, max-pool, four groups of bottlenecks of 64, 128, 256 and 512 filters, logits.

    Args:
      groups: groups of the 3x3 convolutions, 1 for ResNet.
      group_width: channels of one such group in the first stage, 64 for ResNet.
    """
    x = convolution(images, 64, 7, strides=2, name="conv0")
    x = norm_act(x, activate, name="conv0")
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name="pool0")(x)

    def block(x, *, filters, strides, name):
        inner_filters = filters * groups * group_width // 64
        return bottleneck(
            x,
            inner_filters,
            groups,
            activate,
            zero_gamma,
            filters=filters,
            strides=strides,
            name=name,
        )

    return pooled_logits(residual_groups(x, block, num_blocks, 64), num_classes)


NETWORKS = {
    "resnet50": partial(_bottleneck_resnet, (3, 4, 6, 3), 1, 64),
    "resnet101": partial(_bottleneck_resnet, (3, 4, 23, 3), 1, 64),
    "resnet152": partial(_bottleneck_resnet, (3, 8, 36, 3), 1, 64),
    "resnext50-32x4d": partial(_bottleneck_resnet, (3, 4, 6, 3), 32, 4),
    "resnext50-32x8d": partial(_bottleneck_resnet, (3, 4, 6, 3), 32, 8),
    "resnext152-32x8d": partial(_bottleneck_resnet, (3, 8, 36, 3), 32, 8),
}
