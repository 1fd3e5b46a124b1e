"""What every network here is assembled from: convolution, batch norm, logits, activation sites."""

import functools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from sat_tf import activations
from sat_tf.models.batch_norm import BatchNormalization

Activation = str | Callable[[str], keras.layers.Layer]
Activate = Callable[[keras.KerasTensor, str], keras.KerasTensor]


def activation_sites(activation: Activation) -> Activate:
    """Returns `activate(x, name)`, which puts an activation layer of that name after `x`.

    Args:
      activation: a spec for `sat_tf.activations.factory`, such as "swish" or "celu:alpha=1.6", or a
        callable that makes a layer from a name. Sites get a layer each, unless the callable returns
        one twice, as the factory of "pssilu" does.
    """
    make = activation if callable(activation) else activations.factory(activation)
    return lambda x, name: make(name)(x)


def convolution(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    strides: int = 1,
    groups: int = 1,
    centred: bool = True,
) -> keras.KerasTensor:
    """Applies a convolution without bias, its kernel centred on every output's position.

    A strided kernel gets `kernel_size // 2` zeros on all four sides: TensorFlow's SAME would shift
    it by a pixel on maps of even size, so that features and shortcut no longer align.

    Args:
      x: maps of shape [N, H, W, C].
      groups: number of channel groups convolved separately.
      centred: whether a strided kernel is, as said; if not, all `kernel_size - 2` zeros come after
        the last row and column, as of SAME at a stride of 2 on maps of even size.

    Source: initialisation N(0, 2 / fan_out), truncated: He et al. 2015, arXiv 1502.01852, eq. 14.
    """
    if strides > 1 and kernel_size > 1:
        around = kernel_size // 2 if centred else ((0, kernel_size - 2),) * 2
        x = keras.layers.ZeroPadding2D(around, name=f"{name}_pad")(x)
    layer = GroupedConv2D if groups > 1 else keras.layers.Conv2D
    return layer(
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
    return BatchNormalization(
        momentum=0.9,
        epsilon=1e-5,
        gamma_initializer="zeros" if zero_gamma else "ones",
        name=name,
    )(x)


def norm_act(x: keras.KerasTensor, activate: Activate, *, name: str) -> keras.KerasTensor:
    """Normalises, then activates: layers "NAME_bn" and "NAME_act"."""
    return activate(batch_norm(x, name=f"{name}_bn"), f"{name}_act")


def projection(x: keras.KerasTensor, filters: int, strides: int, *, name: str) -> keras.KerasTensor:
    """Takes the shortcut of the block NAME to another shape: a normalised 1x1 convolution."""
    scope = f"{name}_convshortcut"
    return batch_norm(convolution(x, filters, 1, strides=strides, name=scope), name=f"{scope}_bn")


def residual_groups(
    x: keras.KerasTensor,
    block: Callable[..., keras.KerasTensor],
    num_blocks: Sequence[int],
    width: int,
) -> keras.KerasTensor:
    """Stacks groups of residual blocks; each group after the first halves the maps, doubles width.

    Args:
      block: `block(x, filters=..., strides=..., name=...)`; names are "group0_block0" and so on.
      num_blocks: number of blocks in each group.
      width: filters of the first group.
    """
    for group, repeats in enumerate(num_blocks):
        for index in range(repeats):
            strides = 2 if group > 0 and index == 0 else 1
            name = f"group{group}_block{index}"
            x = block(x, filters=width * 2**group, strides=strides, name=name)
    return x


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


@keras.saving.register_keras_serializable(package="sat_tf")
class GroupedConv2D(keras.layers.Conv2D):
    """A grouped convolution that trains fast on every device, with the kernel of Keras's own.

    Keras sends grouped convolutions through XLA on every device, whose gradient takes 300 to 1500
    times as long on a CPU, and which TensorFlow Serving may lack. Here TensorFlow's operation is
    called directly. It has gradients on GPU, and on CPU through oneDNN (x86, unless switched off);
    elsewhere the groups are convolved one by one.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        def convolve(inputs, kernel):
            return tf.nn.conv2d(
                inputs, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate
            )

        if differentiates_groups():
            return convolve(inputs, kernel)
        parts = zip(
            tf.split(inputs, self.groups, axis=-1),
            tf.split(kernel, self.groups, axis=-1),
            strict=True,
        )
        return tf.concat([convolve(*part) for part in parts], axis=-1)


@functools.cache
def differentiates_groups() -> bool:
    """Tells, by trying once, if the default device has the gradients of a grouped convolution."""
    try:
        with tf.init_scope():  # eagerly, also where a graph is being traced
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=(1, 3, 3, 4),
                filter=tf.ones((3, 3, 2, 4)),
                out_backprop=tf.ones((1, 3, 3, 4)),
                strides=[1] * 4,
                padding="SAME",
            )
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
        return False
    return True
