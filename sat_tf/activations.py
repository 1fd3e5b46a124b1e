"""Activations as layers, made by name: `make("swish")`, `make("celu:alpha=1.6")`.

| name | f(x) | parameters |
|---|---|---|
| relu | max(0, x) | |
| swish, silu | x sigmoid(beta x) | beta=1 |
| gelu | x Phi(x), Phi the normal distribution | |
| gelu_tanh | 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the paper's GELU | |
| elu | x, or alpha (e^x - 1) below 0; smooth at alpha=1 only | alpha=1 |
| celu | x, or alpha (e^(x/alpha) - 1) below 0; smooth for every alpha | alpha=1 |
| softplus | ln(1 + e^x) | |
| parametric_softplus | ln(1 + e^(alpha x)) / alpha | alpha=10 |
| mish | x tanh(ln(1 + e^x)) | |
| smoothrelu | max(0, x) - ln(1 + a max(0, x)) / a, a = beta^2 trained at every site | beta=20 |
| pssilu | x (sigmoid(abs(a) x) - abs(b)) / (1 - abs(b)), a and b trained | a=1, b=1e-8 |

`package.module:callable` names anything else: a Keras layer class, a function of one tensor, or a
function of no tensor that makes a layer. Its parameters follow a second colon and are numbers.

`f:backward=g` computes f forward and multiplies gradients by g'(x) on the way back, with g's
parameters as `backward_...`: `relu:backward=parametric_softplus,backward_alpha=10`.

Source: Xie et al., Smooth Adversarial Training, arXiv 2006.14536; PSSiLU from Dai et al. 2021.
"""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable

import keras
import tensorflow as tf

from sat_tf.activation_functions import (
    FUNCTIONS,
    ScalarFunction,
    pssilu,
    smoothrelu,
    with_backward,
)

_ALIASES = {"silu": "swish"}
_TRAINABLE = {"smoothrelu": {"beta": 20.0}, "pssilu": {"a": 1.0, "b": 1e-8}}

NAMES = (*FUNCTIONS, *_ALIASES, *_TRAINABLE)


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


def parse(spec: str) -> tuple[str, dict[str, float | str]]:
    """Splits a spec into the function's name or dotted path and its given parameters.

    Raises:
      ValueError: as `make`.
    """
    head, _, tail = str(spec).strip().partition(":")
    head = head.strip()
    if head.lower() in NAMES:
        head = _ALIASES.get(head.lower(), head.lower())
        return head, _parse_parameters(spec, tail, _valid_parameters(head, tail))
    target, _, tail = tail.partition(":")
    if not target or "=" in target:
        raise ValueError(
            f"unknown activation {spec!r}; use one of: {', '.join(NAMES)}; or a dotted path "
            "such as my_package.my_module:my_activation"
        )
    path = f"{head}:{target.strip()}"
    _import(path)
    return path, _parse_parameters(spec, tail, None)


def _valid_parameters(function: str, tail: str) -> tuple[str, ...]:
    if function in _TRAINABLE:
        return tuple(_TRAINABLE[function])
    valid = (*FUNCTIONS[function].defaults, "backward")
    for item in tail.split(","):
        key, _, value = item.partition("=")
        if key.strip() == "backward":
            valid += tuple(f"backward_{p}" for p in FUNCTIONS[_backward(value)].defaults)
    return valid


def _backward(value: str) -> str:
    name = value.strip().lower()
    name = _ALIASES.get(name, name)
    if name not in FUNCTIONS:
        raise ValueError(f"backward={value!r} is unknown; use one of: {', '.join(FUNCTIONS)}")
    return name


def _parse_parameters(
    spec: str, text: str, valid: tuple[str, ...] | None
) -> dict[str, float | str]:
    parameters = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or (valid is not None and key not in valid):
            known = "any name=number" if valid is None else ", ".join(valid) or "none"
            raise ValueError(f"activation {spec!r}: cannot read {item!r}; parameters: {known}")
        if key in parameters:
            raise ValueError(f"activation {spec!r}: parameter {key!r} is given twice")
        if valid is not None and key == "backward":
            parameters[key] = _backward(value)
        else:
            parameters[key] = _number(spec, key, value, zero=valid is None)
    return parameters


def _number(spec: str, key: str, value: str, zero: bool) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf") or not (zero or number > 0):
        sort = "number" if zero else "number above 0"
        raise ValueError(f"activation {spec!r}: {key}={value!r} is not a finite {sort}")
    return number


def _import(path: str) -> Callable:
    module, _, target = path.partition(":")
    try:
        found = importlib.import_module(module)
        for part in target.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"activation {path!r} cannot be imported ({error}); give package.module:callable "
            f"or one of: {', '.join(NAMES)}"
        ) from error
    if not callable(found):
        raise ValueError(f"activation {path!r} is a {type(found).__name__}, not a callable")
    if isinstance(found, keras.layers.Layer):
        raise ValueError(
            f"activation {path!r} is one layer object, which all sites would share; "
            "name its class or a function that makes it"
        )
    return found


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
        if self.function in FUNCTIONS:
            self._apply = _named(self.function, self.parameters)
        else:
            self._apply = _external(self.function, self.parameters)

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


def _named(name: str, parameters: dict) -> Callable[[tf.Tensor], tf.Tensor]:
    parameters = dict(parameters)
    backward = parameters.pop("backward", None)
    prefix = "backward_"
    other = {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}
    own = {k: v for k, v in parameters.items() if not k.startswith(prefix)}
    forward = _at(FUNCTIONS[name], own)
    if backward is None:
        return forward
    return functools.partial(with_backward, forward, _at(FUNCTIONS[backward], other))


def _at(function: ScalarFunction, parameters: dict) -> ScalarFunction:
    return dataclasses.replace(function, defaults={**function.defaults, **parameters})


def _external(path: str, parameters: dict) -> Callable[[tf.Tensor], tf.Tensor]:
    found = _import(path)
    makes_layer = inspect.isclass(found)
    if not makes_layer:
        try:
            arguments = inspect.signature(found).parameters.values()
        except ValueError:
            arguments = None  # a builtin says nothing about itself: a function of a tensor
        if arguments is not None:
            makes_layer = not any(
                a.default is a.empty and a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)
                for a in arguments
            )
    if not makes_layer:
        return lambda x: found(x, **parameters)
    made = found(**parameters)
    if not isinstance(made, keras.layers.Layer):
        raise ValueError(f"activation {path!r} makes a {type(made).__name__}, not a Keras layer")
    return made


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


if __name__ == "__main__":
    from sat_tf.activation_table import main

    main()
