"""What stands between the pixels and a network that takes other values."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from sat_tf import specs

PREPROCESSINGS = ("none", "tf", "torch", "caffe")


class Adapted:
    """A network that takes other values than pixels, behind a function that makes them.

    Args:
      network: maps what `prepare` returns to logits.
      prepare: maps pixels in [0, 255] to what the network takes, with gradients.
    """

    def __init__(self, network: Any, prepare: Callable[[tf.Tensor], tf.Tensor]):
        self.network, self.prepare = network, prepare
        self.name, self.variables = network.name, network.variables
        self.trainable_variables = network.trainable_variables
        self.input_shape, self.output_shape = network.input_shape, network.output_shape

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns logits [N, classes] of images in pixels."""
        return self.network(self.prepare(images), training=training)


def adapt(network: Any, input_range: Sequence[float] | None = None, preprocessing="none") -> Any:
    """Puts what a network expects of its input between the pixels and the network.

    Args:
      network: as `load` returns it.
      input_range: (low, high): pixel 0 becomes low and 255 high; None leaves pixels.
      preprocessing: of `keras.applications`: "tf" for [-1, 1], "torch" for ImageNet's mean and
        deviation, "caffe" for BGR without ImageNet's mean; "none" leaves pixels.

    Raises:
      ValueError: both at once, an unknown name, or a range that is not two rising numbers.
    """
    specs.one_of("--preprocessing", preprocessing, PREPROCESSINGS)
    if input_range is not None and preprocessing != "none":
        raise ValueError("give an input range or a preprocessing, not both")
    if preprocessing != "none":
        prepare = keras.applications.imagenet_utils.preprocess_input
        return Adapted(network, lambda images: prepare(images, mode=preprocessing))
    if input_range is None:
        return network
    if len(input_range) != 2 or not input_range[0] < input_range[1]:
        raise ValueError(f"input range {tuple(input_range)} is not LOW,HIGH, such as 0,1 or -1,1")
    low, high = map(float, input_range)
    return Adapted(network, lambda images: images * ((high - low) / 255.0) + low)
