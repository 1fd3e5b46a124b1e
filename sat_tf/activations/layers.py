"""Activations as layers: those of a formula, and those with trained scalars."""

from collections.abc import Callable

import keras
import tensorflow as tf

from sat_tf.activations.functions import pssilu, smoothrelu
from sat_tf.activations.specs import function_of, parse


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
    if function == "smoothrelu":
        return SmoothReLU(**parameters, name=name)
    if function == "pssilu":
        return PSSiLU(**parameters, name=name)
    return Activation(spec, name=name)


def factory(spec: str) -> Callable[[str], keras.layers.Layer]:
    """Returns the function `name -> layer` that fills the activation sites of one network.

    Every site gets its own layer, except under `pssilu`, whose paper shares one pair (a, b) over
    the network: there every site gets the same layer.
    """
    if parse(spec)[0] == "pssilu":
        shared = make(spec, name="pssilu")
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


@keras.saving.register_keras_serializable(package="sat_tf")
class SmoothReLU(keras.layers.Layer):
    """Applies `max(0, x) - ln(1 + a max(0, x)) / a` with a trained `a = beta^2`.

    One scalar `smoothrelu_beta` a layer, shared by all its channels and positions; at its initial
    value 20 the function is nearly ReLU, and it tends to ReLU as beta grows.

    Source: the paper's section on SmoothReLU; initial value and squaring as in its released code.
    """

    def __init__(self, beta: float = 20.0, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.initial_beta = beta

    def build(self, input_shape):
        # Not autocast: the square of a bfloat16 beta would move in steps of 1 %.
        self.beta = self.add_weight(
            name="smoothrelu_beta",
            shape=(1,),
            initializer=keras.initializers.Constant(self.initial_beta),
            autocast=False,
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return smoothrelu(inputs, tf.square(tf.reshape(self.beta, [])))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "beta": self.initial_beta}


@keras.saving.register_keras_serializable(package="sat_tf")
class PSSiLU(keras.layers.Layer):
    """Applies `x (sigmoid(|a| x) - |b|) / (1 - |b|)` with trained scalars a and b.

    Source: Dai et al. 2021. The paper trains one pair for the whole network: hand the same layer
    to every site, as `factory("pssilu")` does. `make("pssilu")` is a pair of its own.

    Args:
      a: initial value, above 0.
      b: initial value, above 0 and not 1.
      pair: that of another layer; default a new one.
    """

    def __init__(self, a: float = 1.0, b: float = 1e-8, pair: "PSSiLUPair | None" = None, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.initial = {"a": a, "b": b}
        self.shared = pair is not None
        self.pair = pair or PSSiLUPair(a, b, name="pair")

    def twin(self) -> "PSSiLU":
        """Makes another layer with the same pair, for a model that is nested in this one's.

        A Keras file cannot hold a layer that is called in both.
        """
        self.shared = True
        return PSSiLU(**self.initial, pair=self.pair, name=self.name, dtype=self.dtype_policy)

    def build(self, input_shape):
        if not self.pair.built:
            self.pair.build()

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        a, b = (tf.abs(tf.reshape(weight, [])) for weight in (self.pair.a, self.pair.b))
        return pssilu(inputs, a, b)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        config = {**super().get_config(), **self.initial}
        if self.shared:
            # Of equal numbers Keras makes one object, but it writes none into nested models.
            pair = keras.saving.serialize_keras_object(self.pair)
            config["pair"] = {**pair, "shared_object_id": id(self.pair)}
        return config

    @classmethod
    def from_config(cls, config: dict) -> "PSSiLU":
        if "pair" in config:
            pair = keras.saving.deserialize_keras_object(config["pair"])
            config = {**config, "pair": pair}
        return cls(**config)


@keras.saving.register_keras_serializable(package="sat_tf")
class PSSiLUPair(keras.layers.Layer):
    """Holds the trained scalars of `PSSiLU`, float32 whatever the layers compute in."""

    def __init__(self, a: float, b: float, **kwargs):
        super().__init__(**kwargs)
        self.initial = {"a": a, "b": b}

    def build(self, input_shape=None):
        self.a, self.b = (
            self.add_weight(
                name=f"pssilu_{name}",
                shape=(1,),
                initializer=keras.initializers.Constant(value),
                autocast=False,
            )
            for name, value in self.initial.items()
        )

    def get_config(self) -> dict:
        return {**super().get_config(), **self.initial}
