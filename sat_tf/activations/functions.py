"""Scalar functions with the derivative that their backward pass multiplies by.

Automatic differentiation of a formula such as `x * tanh(softplus(x))` keeps every intermediate
tensor until the backward pass and walks over each of them again. Here f and f' are computed
together, from shared intermediates; f' alone is kept, and the backward pass is one multiplication.
Where nothing is differentiated, TensorFlow prunes f' from the graph. f' is an ordinary function of
x on the tape, so derivatives of any order remain right.

float16 and bfloat16 inputs are computed in float32 and rounded once, at the end: `alpha * x`
overflows float16 from x = 6,550 on, and `1 - sigmoid(x)` has lost all its bits in bfloat16 at
x = 6. What is kept for the backward pass is in half precision again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import tensorflow as tf

Pair = tuple[tf.Tensor, tf.Tensor]

_HALVES = (tf.float16, tf.bfloat16)


@dataclass(frozen=True)
class ScalarFunction:
    """A function f of a real number.

    Attributes:
      pair: `(x, **parameters) -> (f(x), f'(x))`.
      defaults: the parameters, all fixed numbers, with their default values.
      native: `(x, **parameters) -> f(x)` by TensorFlow operations whose own gradients are single
        kernels already and which keep no more than f'.
      exact: whether `native` is right in half precision too, where TensorFlow's kernels compute in
        half precision on a CPU: bfloat16 has `elu(-0.002) = -0.0039`. The others go by `pair`.
    """

    pair: Callable[..., Pair]
    defaults: Mapping[str, float] = field(default_factory=dict)
    native: Callable[..., tf.Tensor] | None = None
    exact: bool = False

    def __call__(self, x: tf.Tensor, **parameters: float) -> tf.Tensor:
        """Computes f(x), in the shape and dtype of `x`."""
        parameters = {**self.defaults, **parameters}
        x = tf.convert_to_tensor(x)
        if self.native is not None and (self.exact or x.dtype not in _HALVES):
            return self.native(x, **parameters)
        value, derivative = (tf.cast(t, x.dtype) for t in self.pair(_widened(x), **parameters))
        return with_gradient(value, lambda dy: (dy * derivative,), x)


def with_backward(forward: ScalarFunction, backward: ScalarFunction, x: tf.Tensor) -> tf.Tensor:
    """Computes f(x), whose gradient is that of another function g: `dy * g'(x)`.

    Args:
      forward: f, at its default parameters.
      backward: g, at its default parameters.
      x: tensor of any shape and floating dtype.
    """
    x = tf.convert_to_tensor(x)
    derivative = tf.cast(backward.pair(_widened(x), **backward.defaults)[1], x.dtype)
    return with_gradient(forward(x), lambda dy: (dy * derivative,), x)


def with_gradient(
    value: tf.Tensor, pullback: Callable[[tf.Tensor], tuple], *inputs: tf.Tensor
) -> tf.Tensor:
    """Returns `value`, computed from `inputs`, with a gradient of its own.

    Args:
      pullback: maps the gradient of `value` to the gradients of the inputs.
    """

    @tf.custom_gradient
    def replaced(value, *_):
        return tf.identity(value), lambda dy: (None, *pullback(dy))

    return replaced(value, *inputs)


def _widened(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32) if x.dtype in _HALVES else x


def _scaled(x: tf.Tensor, factor: float) -> tf.Tensor:
    return x if factor == 1 else factor * x


def _relu(x) -> Pair:
    return tf.nn.relu(x), tf.cast(x > 0, x.dtype)


def _swish(x, beta) -> Pair:
    gate = tf.sigmoid(_scaled(x, beta))
    # x sigmoid'(x): TensorFlow's kernel multiplies by sigmoid' = 0 where x is huge.
    return x * gate, gate + tf.raw_ops.SigmoidGrad(y=gate, dy=_scaled(x, beta))


def _gelu(x) -> Pair:
    probability = 0.5 + 0.5 * tf.math.erf(0.5**0.5 * x)
    density = tf.exp(-0.5 * tf.square(x) - 0.9189385332046727)
    return x * probability, probability + x * density


_GELU_SLOPE = 2 * (2 / 3.141592653589793) ** 0.5
_GELU_CUBE = 0.044715 * _GELU_SLOPE
# Beyond |x| = 20 the gate is 0 or 1 even in float64, while the square of x would overflow.
_GELU_EDGE = 400.0


def _gelu_tanh(x) -> Pair:
    square = tf.minimum(tf.square(x), _GELU_EDGE)
    # 0.5 (1 + tanh(u)) = sigmoid(2u): one operation where the published form takes three.
    gate = tf.sigmoid(x * (_GELU_SLOPE + _GELU_CUBE * square))
    slope = x * (_GELU_SLOPE + 3 * _GELU_CUBE * square)
    return x * gate, gate + tf.raw_ops.SigmoidGrad(y=gate, dy=slope)


def _elu(x, alpha) -> Pair:
    unit = tf.nn.elu(x)
    derivative = tf.minimum(unit, 0) + 1
    if alpha != 1:
        derivative = tf.where(x > 0, derivative, alpha * derivative)
    return _elu_native(x, alpha), derivative


def _elu_native(x, alpha):
    unit = tf.nn.elu(x)
    if alpha == 1:
        return unit
    if x.dtype == tf.float64:  # the kernel below keeps alpha in float32
        return tf.where(x > 0, x, alpha * unit)
    return tf.nn.leaky_relu(unit, alpha)


def _celu(x, alpha) -> Pair:
    unit = tf.nn.elu(_scaled(x, 1 / alpha))
    return _scaled(unit, alpha), tf.minimum(unit, 0) + 1


def _softplus(x, alpha=1.0) -> Pair:
    x = _scaled(x, alpha)
    return _scaled(tf.nn.softplus(x), 1 / alpha), tf.sigmoid(x)


def _mish(x) -> Pair:
    # tanh(ln(1 + w)) = n / (n + 2) with n = w (w + 2), which is 1 from x = 20 on.
    w = tf.exp(tf.minimum(x, 20))
    n = w * (w + 2)
    gate = n / (n + 2)
    inner = tf.raw_ops.TanhGrad(y=gate, dy=x)
    return x * gate, gate + tf.raw_ops.SoftplusGrad(gradients=inner, features=x)


FUNCTIONS: dict[str, ScalarFunction] = {
    "relu": ScalarFunction(_relu, native=tf.nn.relu, exact=True),
    "swish": ScalarFunction(_swish, {"beta": 1.0}),
    "gelu": ScalarFunction(_gelu),
    "gelu_tanh": ScalarFunction(_gelu_tanh),
    "elu": ScalarFunction(_elu, {"alpha": 1.0}, native=_elu_native),
    "celu": ScalarFunction(_celu, {"alpha": 1.0}),
    "softplus": ScalarFunction(_softplus, native=tf.nn.softplus),
    "parametric_softplus": ScalarFunction(_softplus, {"alpha": 10.0}),
    "mish": ScalarFunction(_mish),
}


def smoothrelu(x: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
    """Computes `max(0, x) - ln(1 + a max(0, x)) / a`, differentiable in `x` and in the scalar `a`.

    `f'(x) = a x / (1 + a x)` and `df/da = (ln(1 + a x) / a - x / (1 + a x)) / a` for x >= 0,
    both 0 below.
    """
    x = tf.convert_to_tensor(x)
    above = tf.nn.relu(_widened(x))
    a = tf.cast(a, above.dtype)
    scaled = a * above

    def pullback(dy):
        wide = tf.cast(dy, scaled.dtype)
        dx = wide * (scaled / (1 + scaled))
        # Only now: one logarithm for both directions would be kept from forward to backward.
        with tf.control_dependencies([dy]):
            logarithm = tf.math.log1p(scaled)
        # x / (1 + a x) = f'(x) / a, so the second sum comes from dx.
        da = (tf.reduce_sum(wide * logarithm) - tf.reduce_sum(dx)) / tf.square(a)
        return tf.cast(dx, x.dtype), da

    value = above - tf.math.log1p(scaled) / a
    return with_gradient(tf.cast(value, x.dtype), pullback, x, a)


def pssilu(x: tf.Tensor, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Computes `x (sigmoid(a x) - b) / (1 - b)`, differentiable in `x` and the scalars `a`, `b`."""
    x = tf.convert_to_tensor(x)
    wide = _widened(x)
    a, b = (tf.cast(t, wide.dtype) for t in (a, b))
    gate = tf.sigmoid(a * wide)
    scale = 1 / (1 - b)

    def pullback(dy):
        dy = tf.cast(dy, wide.dtype)
        slope = tf.raw_ops.SigmoidGrad(y=gate, dy=wide)
        dx = dy * (scale * (gate + a * slope) - scale * b)
        weighted = dy * wide
        da = scale * tf.reduce_sum(weighted * slope)
        db = tf.square(scale) * tf.reduce_sum(weighted * (gate - 1))
        return tf.cast(dx, x.dtype), da, db

    # Nothing is written as in the pullback: TensorFlow would keep what both have in common.
    return with_gradient(tf.cast(wide * (scale * gate - scale * b), x.dtype), pullback, x, a, b)
