"""What every network here is assembled from: convolution, batch norm, logits, activation sites."""

from collections.abc import Callable

import keras
import tensorflow as tf

from sat_tf import activations

Activation = str | Callable[[str], keras.layers.Layer]
Activate = Callable[[keras.KerasTensor, str], keras.KerasTensor]


def activation_sites(activation: Activation) -> Activate:
    """Returns `activate(x, name)`, which puts a fresh activation layer of that name after `x`.

    Args:
      activation: a spec for `sat_tf.activations.make`, such as "swish" or "celu:alpha=1.6", or
          a callable that makes a new layer from a name.

    Raises:
      ValueError: the callable returned one layer for two sites.
    """
    made = {}

    def activate(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        layer = (
            activation(name) if callable(activation) else activations.make(activation, name=name)
        )
        if id(layer) in made:
            raise ValueError(
                f"The activation callable returned one layer for the sites {made[id(layer)]!r} and "
                f"{name!r}; it must make a new layer at each call: lambda name: Layer(name=name)."
            )
        made[id(layer)] = name
        return layer(x)

    return activate


def convolution(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    strides: int = 1,
    groups: int = 1,
) -> keras.KerasTensor:
    """Applies a convolution without bias, its kernel centred on every output's position.

    A strided kernel gets `kernel_size // 2` zeros on all four sides: TensorFlow's SAME would shift
    it by a pixel on maps of even size, so that features and shortcut no longer align.

    Args:
      x: maps of shape [N, H, W, C].
      groups: number of channel groups convolved separately.

    Source: initialisation N(0, 2 / fan_out), truncated: He et al. 2015, arXiv 1502.01852, eq. 14.
    """
    if strides > 1 and kernel_size > 1:
        x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same" if strides == 1 else "valid",
        groups=groups,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal"),
        name=name,
    )(x)


def batch_norm(x: keras.KerasTensor, *, name: str, zero_gamma: bool = False) -> keras.KerasTensor:
    """Normalises each channel over the batch, with momentum 0.9 and epsilon 1e-5.

    Args:
      zero_gamma: starts the scale at 0, so that a residual block begins as the identity
          (Goyal et al. 2017, arXiv 1706.02677, section 5.1).
    """
    return keras.layers.BatchNormalization(
        momentum=0.9,
        epsilon=1e-5,
        gamma_initializer="zeros" if zero_gamma else "ones",
        name=name,
    )(x)


def pooled_logits(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Averages each map and classifies: float32 logits of shape [N, num_classes]."""
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.layers.Dense(
        num_classes,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        dtype="float32",
        name="logits",
    )(x)


@keras.saving.register_keras_serializable(package="sat_tf")
class PaddedIdentity(keras.layers.Layer):
    """Keeps every `strides`-th position and appends channels of zeros up to `filters`.

    Source: the parameter-free shortcut, option A of He et al. 2015, arXiv 1512.03385, section 4.2.
    """

    def __init__(self, filters: int, strides: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        kept = inputs[:, :: self.strides, :: self.strides]
        return tf.pad(kept, [[0, 0], [0, 0], [0, 0], [0, self.filters - inputs.shape[-1]]])

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, *sides, _ = input_shape
        return (batch, *(None if s is None else -(-s // self.strides) for s in sides), self.filters)

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}
