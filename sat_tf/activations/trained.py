"""Activations with trained scalars.

A class that stands in `TRAINED` is an activation by name, is found and replaced by injection, and
its scalars are what `activation_weight_decay` decays. It says

- `defaults`: the parameters of its spec, with the values that training starts from;
- `scalars`: the names of its weights, in the order of the parameters;
- `one_for_all`: whether all sites of a network share one layer.
"""

from types import MappingProxyType

import keras
import tensorflow as tf

from sat_tf.activations.functions import pssilu, smoothrelu


@keras.saving.register_keras_serializable(package="sat_tf")
class SmoothReLU(keras.layers.Layer):
    """Applies `max(0, x) - ln(1 + a max(0, x)) / a` with a trained `a = beta^2`.

    One scalar `smoothrelu_beta` a layer, shared by all its channels and positions; at its initial
    value 20 the function is nearly ReLU, and it tends to ReLU as beta grows.

    Source: the paper's section on SmoothReLU; initial value and squaring as in its released code.
    """

    defaults = MappingProxyType({"beta": 20.0})
    scalars = ("smoothrelu_beta",)
    one_for_all = False

    def __init__(self, beta: float = defaults["beta"], **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.initial_beta = beta

    def build(self, input_shape):
        # Not autocast: the square of a bfloat16 beta would move in steps of 1 %.
        self.beta = self.add_weight(
            name=self.scalars[0],
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

    defaults = MappingProxyType({"a": 1.0, "b": 1e-8})
    scalars = ("pssilu_a", "pssilu_b")
    one_for_all = True

    def __init__(
        self,
        a: float = defaults["a"],
        b: float = defaults["b"],
        pair: "PSSiLUPair | None" = None,
        **kwargs,
    ):
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
                name=name,
                shape=(1,),
                initializer=keras.initializers.Constant(value),
                autocast=False,
            )
            for name, value in zip(PSSiLU.scalars, self.initial.values(), strict=True)
        )

    def get_config(self) -> dict:
        return {**super().get_config(), **self.initial}


TRAINED = {"smoothrelu": SmoothReLU, "pssilu": PSSiLU}
