"""Scalar functions `y = f(x)` whose backward pass recomputes `f'(x)` from `x`.

Automatic differentiation of a formula such as `x * tanh(softplus(x))` keeps every intermediate
tensor until the backward pass and walks over each of them again. Here a function keeps `x` alone,
and its derivative is written with TensorFlow's own gradient kernels (`SoftplusGrad`, `EluGrad`).
Those kernels are differentiable themselves, so derivatives of any order remain right.

float16 and bfloat16 inputs are computed in float32 and rounded once, at the end: `alpha * x`
overflows float16 from x = 6,550 on, and `1 - sigmoid(x)` has lost all its bits in bfloat16 at
x = 6. What is kept for the backward pass stays in half precision.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import tensorflow as tf

_HALF = (tf.float16, tf.bfloat16)


@dataclass(frozen=True)
class ScalarFunction:
    """A function with the product of its derivative and an incoming gradient.

    Attributes:
      value: `(x, **parameters) -> f(x)`.
      pullback: `(dy, x, **parameters) -> dy * f'(x)`.
      defaults: the parameters, all fixed numbers, with their default values.
    """

    value: Callable[..., tf.Tensor]
    pullback: Callable[..., tf.Tensor]
    defaults: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, x: tf.Tensor, **parameters: float) -> tf.Tensor:
        """Computes f(x), in the shape and dtype of `x`."""
        parameters = {**self.defaults, **parameters}
        return custom_derivative(
            x,
            lambda x: self.value(x, **parameters),
            lambda dy, x: self.pullback(dy, x, **parameters),
        )


def custom_derivative(
    x: tf.Tensor,
    value: Callable[[tf.Tensor], tf.Tensor],
    pullback: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Computes `value(x)` with `pullback(dy, x)` as its gradient, at least in float32."""
    x = tf.convert_to_tensor(x)
    narrow = x.dtype
    wide = tf.float32 if narrow in _HALF else narrow

    @tf.custom_gradient
    def function(x):
        def gradient(dy):
            return tf.cast(pullback(tf.cast(dy, wide), tf.cast(x, wide)), narrow)

        return tf.cast(value(tf.cast(x, wide)), narrow), gradient

    return function(x)


def _scaled(x: tf.Tensor, factor: float) -> tf.Tensor:
    return x if factor == 1 else factor * x


def _relu_pullback(dy, x):
    return tf.raw_ops.ReluGrad(gradients=dy, features=x)


def _swish(x, beta):
    return x * tf.sigmoid(_scaled(x, beta))


def _swish_pullback(dy, x, beta):
    # Multiplied by x last: sigmoid' is 0 where x is huge, so nothing overflows.
    gate = tf.sigmoid(_scaled(x, beta))
    return dy * gate + _scaled(x, beta) * tf.raw_ops.SigmoidGrad(y=gate, dy=dy)


def _gelu(x):
    # erfc instead of 1 + erf, which cancels to 0 from x = -6 on in float32.
    return 0.5 * x * tf.math.erfc(-(0.5**0.5) * x)


def _gelu_pullback(dy, x):
    density = 0.3989422804014327 * tf.exp(-0.5 * tf.square(x))
    return dy * (0.5 * tf.math.erfc(-(0.5**0.5) * x) + x * density)


_GELU_SLOPE = 2 * (2 / 3.141592653589793) ** 0.5
_GELU_CUBE = 0.044715 * _GELU_SLOPE
# Beyond it the gate is 0 or 1 even in float64, while the cube of x would overflow.
_GELU_EDGE = 20.0


def _gelu_gate(edge):
    return tf.sigmoid(edge * (_GELU_SLOPE + _GELU_CUBE * tf.square(edge)))


def _gelu_tanh(x):
    # 0.5 (1 + tanh(u)) = sigmoid(2u): one operation where the published form takes three.
    return x * _gelu_gate(tf.clip_by_value(x, -_GELU_EDGE, _GELU_EDGE))


def _gelu_tanh_pullback(dy, x):
    edge = tf.clip_by_value(x, -_GELU_EDGE, _GELU_EDGE)
    gate = _gelu_gate(edge)
    slope = edge * (_GELU_SLOPE + 3 * _GELU_CUBE * tf.square(edge))
    return dy * gate + tf.raw_ops.SigmoidGrad(y=gate, dy=dy) * slope


def _elu(x, alpha):
    below = tf.nn.elu(x)
    return below if alpha == 1 else tf.where(x > 0, x, alpha * below)


def _elu_pullback(dy, x, alpha):
    below = tf.raw_ops.EluGrad(gradients=dy, outputs=tf.nn.elu(x))
    return below if alpha == 1 else tf.where(x > 0, dy, alpha * below)


def _celu(x, alpha):
    return _elu(x, 1) if alpha == 1 else tf.where(x > 0, x, alpha * tf.nn.elu(x / alpha))


def _celu_pullback(dy, x, alpha):
    return tf.raw_ops.EluGrad(gradients=dy, outputs=tf.nn.elu(_scaled(x, 1 / alpha)))


def _softplus(x, alpha=1.0):
    return _scaled(tf.nn.softplus(_scaled(x, alpha)), 1 / alpha)


def _softplus_pullback(dy, x, alpha=1.0):
    return tf.raw_ops.SoftplusGrad(gradients=dy, features=_scaled(x, alpha))


def _mish(x):
    return x * tf.tanh(tf.nn.softplus(x))


def _mish_pullback(dy, x):
    gate = tf.tanh(tf.nn.softplus(x))
    inner = tf.raw_ops.TanhGrad(y=gate, dy=dy)
    return dy * gate + x * tf.raw_ops.SoftplusGrad(gradients=inner, features=x)


FUNCTIONS: dict[str, ScalarFunction] = {
    "relu": ScalarFunction(tf.nn.relu, _relu_pullback),
    "swish": ScalarFunction(_swish, _swish_pullback, {"beta": 1.0}),
    "gelu": ScalarFunction(_gelu, _gelu_pullback),
    "gelu_tanh": ScalarFunction(_gelu_tanh, _gelu_tanh_pullback),
    "elu": ScalarFunction(_elu, _elu_pullback, {"alpha": 1.0}),
    "celu": ScalarFunction(_celu, _celu_pullback, {"alpha": 1.0}),
    "softplus": ScalarFunction(_softplus, _softplus_pullback),
    "parametric_softplus": ScalarFunction(_softplus, _softplus_pullback, {"alpha": 10.0}),
    "mish": ScalarFunction(_mish, _mish_pullback),
}


def smoothrelu(x: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
    """Computes `max(0, x) - ln(1 + a max(0, x)) / a`, differentiable in `x` and in the scalar `a`.

    `f'(x) = a x / (1 + a x)` and `df/da = (ln(1 + a x) / a - x / (1 + a x)) / a` for x >= 0,
    both 0 below.
    """

    def wide(x, dtype):
        return tf.cast(tf.nn.relu(x), dtype)

    x = tf.convert_to_tensor(x)
    narrow, dtype = x.dtype, tf.float32 if x.dtype in _HALF else x.dtype

    @tf.custom_gradient
    def function(x, a):
        def gradient(dy):
            above, dy = wide(x, dtype), tf.cast(dy, dtype)
            scaled = a * above
            dx = dy * (scaled / (1 + scaled))
            # x / (1 + a x) = f'(x) / a, so the second sum comes from dx.
            da = (tf.reduce_sum(dy * tf.math.log1p(scaled)) - tf.reduce_sum(dx)) / tf.square(a)
            return tf.cast(dx, narrow), da

        above = wide(x, dtype)
        return tf.cast(above - tf.math.log1p(a * above) / a, narrow), gradient

    return function(x, tf.cast(a, dtype))


def pssilu(x: tf.Tensor, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Computes `x (sigmoid(a x) - b) / (1 - b)`, differentiable in `x` and the scalars `a`, `b`."""
    x = tf.convert_to_tensor(x)
    narrow, dtype = x.dtype, tf.float32 if x.dtype in _HALF else x.dtype

    @tf.custom_gradient
    def function(x, a, b):
        def gradient(dy):
            wide, dy = tf.cast(x, dtype), tf.cast(dy, dtype)
            gate = tf.sigmoid(a * wide)
            slope = wide * tf.raw_ops.SigmoidGrad(y=gate, dy=dy)
            dx = (dy * (gate - b) + a * slope) / (1 - b)
            da = tf.reduce_sum(wide * slope) / (1 - b)
            db = tf.reduce_sum(dy * wide * (gate - 1)) / tf.square(1 - b)
            return tf.cast(dx, narrow), da, db

        wide = tf.cast(x, dtype)
        return tf.cast(wide * ((tf.sigmoid(a * wide) - b) / (1 - b)), narrow), gradient

    return function(x, tf.cast(a, dtype), tf.cast(b, dtype))
