"""How a residual branch ends: scaled channel by channel, left out now and then, and added."""

import keras
import tensorflow as tf

from sat_tf import activations


def added(
    x: keras.KerasTensor,
    branch: keras.KerasTensor,
    *,
    drop_rate: float,
    layer_scale: float = 0.0,
    name: str,
) -> keras.KerasTensor:
    """Adds a branch to what it started from.

    Args:
      drop_rate: that of `StochasticDepth`; 0 has no such layer.
      layer_scale: what `LayerScale` starts with; 0 has no such layer.
    """
    if layer_scale:
        branch = LayerScale(layer_scale, name=f"{name}_scale")(branch)
    if drop_rate:
        branch = StochasticDepth(drop_rate, name=f"{name}_drop")(branch)
    return keras.layers.Add(name=f"{name}_add")([x, branch])


def drop_rates(last: float, num_blocks: int) -> list[float]:
    """Returns a rate for each block, from 0 at the first linearly to that of the last.

    Raises:
      ValueError: a rate outside [0, 1).
    """
    if not 0 <= last < 1:
        raise ValueError(
            f"stochastic_depth is {last}; give the rate of the last block, at least 0 and below 1 "
            "(0 leaves no branch out)."
        )
    return [last * index / max(num_blocks - 1, 1) for index in range(num_blocks)]


@keras.saving.register_keras_serializable(package="sat_tf")
class LayerScale(keras.layers.Layer):
    """Multiplies each channel by a trained number, so that a deep network starts near the identity.

    Args:
      initial_scale: what every channel starts with; 1e-6 in ConvNeXt.

    Source: Touvron et al. 2021, arXiv 2103.17239, section 2, equation 4.
    """

    def __init__(self, initial_scale: float, **kwargs):
        super().__init__(**kwargs)
        self.initial_scale = initial_scale

    def build(self, input_shape: tuple) -> None:
        """Makes the numbers, `gamma`."""
        self.gamma = self.add_weight(
            name="gamma",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial_scale),
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the scaled channels."""
        return inputs * self.gamma

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "initial_scale": self.initial_scale}


@keras.saving.register_keras_serializable(package="sat_tf")
class StochasticDepth(keras.layers.Layer):
    """Leaves a branch out, image by image, while the weights are updated.

    `y = x b / (1 - rate)` with `b` 0 at probability `rate` and 1 otherwise, one draw an image; the
    expected value is x. The draw depends on the seed that an adversarial trainer hands over in its
    update (`activations.drawing`), which is one of the run's seed, the step and the replica: a
    resumed run leaves out what the uninterrupted one would have. Everywhere else `y = x`: in
    inference, and in attacks in either batch-norm mode, which are to meet a function and not a draw
    of one; so too under Keras's own `fit`, which has no such seed.

    Args:
      rate: probability of leaving the branch out, at least 0 and below 1.

    Source: Huang et al. 2016, arXiv 1603.09382, with the division in training, not in inference.
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the branch, or what the draw leaves of it."""
        seed = activations.next_seed() if training else None
        if seed is None:
            return inputs
        shape = [tf.shape(inputs)[0], *[1] * (inputs.shape.rank - 1)]
        kept = tf.random.stateless_uniform(shape, seed) >= self.rate
        return inputs * tf.cast(tf.cast(kept, tf.float32) / (1 - self.rate), inputs.dtype)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate}
