"""Norm balls around an image, cut with the pixel range."""

import tensorflow as tf

NORMS = ("linf", "l2", "l1")
PIXEL_MIN, PIXEL_MAX = 0.0, 255.0

# Keeps divisions by a norm finite where it is zero; far below any gradient that matters.
_TINY = 1e-12


def check_norm(norm: str, supported: tuple[str, ...] = NORMS) -> str:
    """Returns `norm` if it is one of `supported`.

    Raises:
      ValueError: an unknown norm, with the list of supported ones.
    """
    if norm not in supported:
        raise ValueError(f"norm {norm!r} is not supported here; use one of: {', '.join(supported)}")
    return norm


def per_image(value: float | tf.Tensor) -> tf.Tensor:
    """Makes a scalar or a vector [N] broadcast against images [N, H, W, C]."""
    value = tf.convert_to_tensor(value, tf.float32)
    return value if value.shape.rank == 0 else tf.reshape(value, [-1, 1, 1, 1])


def norms(x: tf.Tensor, norm: str) -> tf.Tensor:
    """Computes the norm of every image: `max|x|`, `sqrt(sum x^2)` or `sum|x|`.

    Args:
      x: float tensor [N, H, W, C], usually a perturbation in pixels.
      norm: one of `NORMS`.

    Returns:
      A tensor [N] in the unit of `x`.
    """
    axes = list(range(1, x.shape.rank))
    if check_norm(norm) == "linf":
        return tf.reduce_max(tf.abs(x), axes)
    if norm == "l2":
        return tf.sqrt(tf.reduce_sum(tf.square(x), axes))
    return tf.reduce_sum(tf.abs(x), axes)


def steepest_direction(gradient: tf.Tensor, norm: str) -> tf.Tensor:
    """Computes the direction of unit norm that raises a linear function the most.

    `sign(g)` for L-inf (with `sign(0) = 0`), `g / |g|_2` for L2. A zero gradient gives zero.

    Args:
      gradient: float tensor [N, H, W, C].
      norm: "linf" or "l2".
    """
    if check_norm(norm, ("linf", "l2")) == "linf":
        return tf.sign(gradient)
    return gradient / per_image(tf.maximum(norms(gradient, norm), _TINY))


def project(
    images: tf.Tensor, center: tf.Tensor, epsilon: float | tf.Tensor, norm: str
) -> tf.Tensor:
    """Projects images on the ball around `center` and on the pixel range.

    L-inf: `clip(x, max(c - eps, 0), min(c + eps, 255))`, the exact projection on the intersection.
    L2: `c + d * min(1, eps / |d|)` with `d = x - c`, then clipped to the range. Clipping moves
    every coordinate towards `c`, which lies in the range, so the result stays inside the ball; it
    is a point of the intersection but not always the nearest one (as in Madry et al., 1706.06083,
    and in AutoAttack).

    Args:
      images: float32 [N, H, W, C] in pixels.
      center: the clean images, same shape, inside the pixel range.
      epsilon: radius in pixels, a scalar or [N].
      norm: "linf" or "l2".
    """
    epsilon = per_image(epsilon)
    if check_norm(norm, ("linf", "l2")) == "linf":
        lower = tf.maximum(center - epsilon, PIXEL_MIN)
        upper = tf.minimum(center + epsilon, PIXEL_MAX)
        return tf.clip_by_value(images, lower, upper)
    delta = images - center
    scale = tf.minimum(1.0, epsilon / per_image(tf.maximum(norms(delta, norm), _TINY)))
    return tf.clip_by_value(center + delta * scale, PIXEL_MIN, PIXEL_MAX)
