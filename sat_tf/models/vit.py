"""Vision transformers: an image is a sequence of patches; one size of images a network.

Source: Dosovitskiy et al. 2020, arXiv 2010.11929, in the sizes and with the stochastic depth of
DeiT, Touvron et al. 2020, arXiv 2012.12877; "_convstem": Singh, Croce and Hein 2023, arXiv
2303.01870. The papers activate by gelu; here the activation is handed in. Softmax of attention is a
gate and stays. No dropout, as in DeiT.

Layer names: "stem_conv", "tokens", "block0_attention_norm", "block0_attention" with "_drop" and
"_add", "block0_mlp_norm", "block0_mlp_expand", "block0_mlp_act", "block0_mlp_project", likewise
"_drop" and "_add", "head_norm", "logits".
"""

import math
from collections.abc import Callable
from functools import partial

import keras
import tensorflow as tf

from sat_tf.models.branches import added, drop_rates
from sat_tf.models.layer_norm import (
    convolution,
    convolutional_stem,
    dense,
    halvings,
    layer_norm,
    normal,
)
from sat_tf.models.layers import Activate

Stem = Callable[[keras.KerasTensor, Activate, int, int], keras.KerasTensor]


@keras.saving.register_keras_serializable(package="sat_tf")
class Tokens(keras.layers.Layer):
    """Makes a sequence [N, 1 + H W, C] of maps [N, H, W, C]: a trained token, then the positions.

    To each of them a trained vector is added that says where it is. Both start as N(0, 0.02); their
    names, `token` and `position`, are no kernels', so that they are not decayed, as in DeiT.
    """

    def build(self, input_shape: tuple) -> None:
        """Makes the token and a vector for each place."""
        _, height, width, channels = input_shape
        shapes = {"token": (1, channels), "position": (1 + height * width, channels)}
        for name, shape in shapes.items():
            weight = self.add_weight(name=name, shape=shape, initializer=normal())
            setattr(self, name, weight)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the sequence."""
        count, channels = self.position.shape
        positions = tf.reshape(inputs, [-1, count - 1, channels])
        token = tf.convert_to_tensor(self.token)[None]
        token = tf.repeat(token, tf.shape(inputs)[0], axis=0)
        return tf.concat([token, positions], axis=1) + self.position

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns (N, 1 + H W, C)."""
        batch, height, width, channels = input_shape
        return batch, 1 + height * width, channels


def _patches(
    images: keras.KerasTensor, activate: Activate, width: int, patch_size: int
) -> keras.KerasTensor:
    """Cuts images into patches that do not overlap: one convolution."""
    del activate  # nothing bends here
    return convolution(images, width, patch_size, strides=patch_size, name="stem_conv")


def _convolutions(
    images: keras.KerasTensor, activate: Activate, width: int, patch_size: int
) -> keras.KerasTensor:
    """Halves the map as often as it takes, each time twice as wide, up to `width`; then 1x1."""
    times = halvings(patch_size, width)
    filters = [width >> before for before in reversed(range(times))]
    x = convolutional_stem(images, activate, filters, patch_size)
    return convolution(x, width, 1, strides=1, name="stem_conv")


def _block(
    x: keras.KerasTensor, activate: Activate, num_heads: int, drop_rate: float, *, name: str
) -> keras.KerasTensor:
    """Attention of all places to all, then four times as wide and back; a norm before each."""
    width, scope = x.shape[-1], f"{name}_attention"
    y = layer_norm(x, name=f"{scope}_norm")
    attention = keras.layers.MultiHeadAttention(
        num_heads, width // num_heads, kernel_initializer=normal(), name=scope
    )
    x = added(x, attention(y, y), drop_rate=drop_rate, name=scope)
    scope = f"{name}_mlp"
    y = dense(layer_norm(x, name=f"{scope}_norm"), 4 * width, name=f"{scope}_expand")
    y = dense(activate(y, f"{scope}_act"), width, name=f"{scope}_project")
    return added(x, y, drop_rate=drop_rate, name=scope)


def _vit(
    stem: Stem,
    images: keras.KerasTensor,
    activate: Activate,
    num_classes: int,
    *,
    width: int,
    num_heads: int,
    depth: int = 12,
    patch_size: int = 16,
    stochastic_depth: float = 0.1,
) -> keras.KerasTensor:
    """Stem, tokens, blocks, norm, and logits of the first token.

    Args:
      stem: makes maps of (images, activate, width, patch_size).
      width: channels of a token.
      num_heads: heads of attention, which share the channels among them.
      depth: number of blocks.
      patch_size: pixels along a side of a patch; 16 in the papers, 4 for images of 32 pixels.
      stochastic_depth: probability that training leaves a branch of the last block out; linearly
        less before.

    Raises:
      ValueError: heads that do not divide the channels, an image that is no number of patches.
    """
    if min(width, num_heads, depth, patch_size) < 1 or width % num_heads:
        raise ValueError(
            f"width, num_heads, depth and patch_size are {width}, {num_heads}, {depth} and "
            f"{patch_size}; give 1 or more, and a width that num_heads divides."
        )
    sides = height, length = images.shape[1:3]
    if height % patch_size or length % patch_size:
        raise ValueError(
            f"Images of {height} x {length} pixels are not cut evenly by patch_size={patch_size}; "
            "give one that divides both sides, such as "
            f"--model=vit_tiny:patch_size={_fitting(sides)}, or another image_size."
        )
    x = Tokens(name="tokens")(stem(images, activate, width, patch_size))
    for index, rate in enumerate(drop_rates(stochastic_depth, depth)):
        x = _block(x, activate, num_heads, rate, name=f"block{index}")
    # Of the first token alone, as a norm looks at each place by itself.
    x = keras.layers.Cropping1D((0, x.shape[1] - 1), name="first_token")(x)
    x = layer_norm(keras.layers.Flatten(name="head")(x), name="head_norm")
    return dense(x, num_classes, dtype="float32", name="logits")


def _fitting(sides):
    """Returns the power of two, as every stem takes, that cuts each side into as many or more."""
    fitting = math.gcd(*sides, 16)
    while fitting**2 > min(sides):
        fitting //= 2
    return fitting


_SIZES = {"tiny": {"width": 192, "num_heads": 3}, "small": {"width": 384, "num_heads": 6}}
NETWORKS = {
    f"vit_{size}{ending}": partial(_vit, stem, **options)
    for size, options in _SIZES.items()
    for ending, stem in (("", _patches), ("_convstem", _convolutions))
}
