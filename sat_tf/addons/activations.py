"""The activations of TensorFlow Addons by name: `tfa:hardshrink`, `tfa:snake:frequency=2`.

| name | f(x) | parameters |
|---|---|---|
| gelu | x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, or x Phi(x) | approximate=1 (0: Phi) |
| hardshrink | 0 between lower and upper, x outside | lower=-0.5, upper=0.5 |
| lisht | x tanh(x) | |
| mish | x tanh(ln(1 + e^x)) | |
| rrelu | x, or a x below 0, a uniform in [lower, upper) | lower=1/8, upper=1/3 |
| snake | x + (1 - cos(2 frequency x)) / (2 frequency) | frequency=1 |
| softshrink | 0 between lower and upper, x - lower below, x - upper above | lower=-0.5, upper=0.5 |
| tanhshrink | x - tanh(x) | |

`rrelu` draws a slope for every number in a step of training: from the step's seed (see
`sat_tf.activations.drawing`) and not from TensorFlow's generators, as everything random here. In
attacks, validation and evaluation its slope is the mean, (lower + upper) / 2.

float16 and bfloat16 are computed in float32 and rounded once. Derivatives are TensorFlow's.
`sparsemax` is not here: it normalises over the channels and is no function of one number.

Source: tensorflow_addons.activations, version 0.23. Deviations: the seed, and half precision.
"""

import functools
from collections.abc import Callable, Mapping

import tensorflow as tf

from sat_tf import activations, specs
from sat_tf.addons.opening import tensorflow_addons

PARAMETERS: Mapping[str, Mapping[str, float]] = {
    "gelu": {"approximate": 1.0},
    "hardshrink": {"lower": -0.5, "upper": 0.5},
    "lisht": {},
    "mish": {},
    "rrelu": {"lower": 0.125, "upper": 0.3333333333333333},
    "snake": {"frequency": 1.0},
    "softshrink": {"lower": -0.5, "upper": 0.5},
    "tanhshrink": {},
}


def function_of(name: str, parameters: Mapping[str, float]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns an activation of TensorFlow Addons as a function of one tensor.

    Args:
      name: of `PARAMETERS`.
      parameters: of that activation; the others keep their values.

    Raises:
      ValueError: an unknown name or parameter, a value that it cannot take, or no Addons.
    """
    if name == "sparsemax":
        raise ValueError(
            "tfa:sparsemax normalises over the channels, as softmax does, and is no activation of "
            "one number; use softmax's place, the end of a network"
        )
    specs.one_of("activation", f"tfa:{name}", [f"tfa:{known}" for known in PARAMETERS])
    defaults = PARAMETERS[name]
    for key in parameters:
        if key not in defaults:
            valid = ", ".join(defaults) or "none"
            raise ValueError(f"activation tfa:{name} has no parameter {key!r}; parameters: {valid}")
    given = {**defaults, **parameters}
    if "lower" in given and given["lower"] > given["upper"]:
        raise ValueError(
            f"activation tfa:{name}: lower={given['lower']:g} is above upper={given['upper']:g}"
        )
    if given.get("approximate", 0) not in (0, 1):
        raise ValueError(f"activation tfa:gelu: approximate={given['approximate']:g}; use 0 or 1")
    function = getattr(tensorflow_addons().activations, name)
    return functools.partial(_rounded_once, _rrelu if name == "rrelu" else function, given)


def _rounded_once(function, parameters, x):
    x = tf.convert_to_tensor(x)
    wide = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
    return tf.cast(function(wide, **parameters), x.dtype)


def _rrelu(x, lower, upper):
    seed = activations.next_seed()
    draws = {} if seed is None else {"rng": _Stateless(seed)}
    return tensorflow_addons().activations.rrelu(
        x, lower, upper, training=seed is not None, **draws
    )


class _Stateless:
    """Draws from a seed where Addons expects a `tf.random.Generator`."""

    def __init__(self, seed: tf.Tensor):
        self._seed = seed

    def uniform(self, shape, minval, maxval, dtype) -> tf.Tensor:
        return tf.random.stateless_uniform(shape, self._seed, minval, maxval, dtype)
