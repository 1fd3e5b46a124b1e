"""Activations as layers, made from a spec."""

from collections.abc import Callable

import keras
import tensorflow as tf

from sat_tf.activations.specs import function_of, parse
from sat_tf.activations.trained import TRAINED


def make(spec: str, name: str | None = None) -> keras.layers.Layer:
    """Makes a fresh activation layer.

    Args:
      spec: a name of `NAMES` or a dotted path `package.module:callable`, with parameters after a
        colon: `"swish"`, `"celu:alpha=1.6"`, `"my_package.my_module:my_activation:scale=2"`.
      name: the layer's name.

    Returns:
      A layer that keeps shape and dtype, ready for any Keras model and saved with it.

    Raises:
      ValueError: an unknown name or parameter, or a value that is not a finite number.
    """
    function, parameters = parse(spec)
    if function in TRAINED:
        return TRAINED[function](**parameters, name=name)
    return Activation(spec, name=name)


def factory(spec: str) -> Callable[[str], keras.layers.Layer]:
    """Returns the function `name -> layer` that fills the activation sites of one network.

    Every site gets its own layer, except under `pssilu`, whose paper shares one pair (a, b) over
    the network: there every site gets the same layer.
    """
    function = parse(spec)[0]
    if function in TRAINED and TRAINED[function].one_for_all:
        shared = make(spec, name=function)
        return lambda name: shared
    return lambda name: make(spec, name=name)


@keras.saving.register_keras_serializable(package="sat_tf")
class Activation(keras.layers.Layer):
    """Applies the function that a spec names; the saved model keeps the spec.

    Attributes:
      function: the name of `NAMES` (aliases resolved), or the dotted path.
      parameters: those given in the spec.
    """

    def __init__(self, spec: str, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.spec = str(spec)
        self.function, self.parameters = parse(self.spec)
        self._apply = function_of(self.function, self.parameters)

    def build(self, input_shape):
        if isinstance(self._apply, keras.layers.Layer):
            self._apply.dtype_policy = self.dtype_policy
            self._apply.build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self._apply(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "spec": self.spec}
