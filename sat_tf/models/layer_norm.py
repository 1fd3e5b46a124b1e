"""What networks with layer norm are assembled from: kernels of N(0, 0.02), norms, stems."""

import math
from collections.abc import Sequence

import keras

from sat_tf.models.layers import Activate


def normal() -> keras.initializers.Initializer:
    """Makes N(0, 0.02): the papers' code cuts it at 2, a hundred deviations away."""
    return keras.initializers.RandomNormal(stddev=0.02)


def layer_norm(x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    """Normalises every position over its channels, with epsilon 1e-6 (Ba et al. 2016)."""
    return keras.layers.LayerNormalization(epsilon=1e-6, name=name)(x)


def dense(x: keras.KerasTensor, units: int, *, name: str, **options) -> keras.KerasTensor:
    """Mixes the channels of every position; with bias."""
    return keras.layers.Dense(units, kernel_initializer=normal(), name=name, **options)(x)


def convolution(
    x: keras.KerasTensor, filters: int, kernel_size: int, *, strides: int, name: str
) -> keras.KerasTensor:
    """Applies a convolution with bias.

    One as large as its stride cuts the map into patches; rows and columns that are left over at the
    end are not seen. Every other one is centred, with zeros around the map.
    """
    if 1 < strides != kernel_size:  # TensorFlow's SAME would be off the centre by one
        x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same" if strides == 1 else "valid",
        kernel_initializer=normal(),
        name=name,
    )(x)


def halvings(patch_size: int, largest: int) -> int:
    """Returns how often a stem of strided convolutions halves a map.

    Raises:
      ValueError: a patch_size that is no power of two, or above `largest`.
    """
    times = int(math.log2(patch_size)) if patch_size > 0 else -1
    if patch_size != 2**times or patch_size > largest:
        sizes = ", ".join(str(2**n) for n in range(int(math.log2(largest)) + 1))
        raise ValueError(
            f"patch_size is {patch_size}; a convolutional stem halves the map: use one of {sizes}."
        )
    return times


def convolutional_stem(
    x: keras.KerasTensor, activate: Activate, filters: Sequence[int], patch_size: int
) -> keras.KerasTensor:
    """Takes images to maps of the last of `filters` by 3x3 convolutions, each normed and activated.

    As many of them as it takes, the first ones, have a stride of 2.

    Source: Singh, Croce and Hein 2023, arXiv 2303.01870, section 3 ("ConvStem"), after Xiao et al.
    2021, arXiv 2106.14881.

    Raises:
      ValueError: a patch_size that these convolutions cannot reach.
    """
    times = halvings(patch_size, 2 ** len(filters))
    for index, width in enumerate(filters):
        name = f"stem_conv{index + 1}"
        x = convolution(x, width, 3, strides=2 if index < times else 1, name=name)
        x = activate(layer_norm(x, name=f"{name}_norm"), f"{name}_act")
    return x
