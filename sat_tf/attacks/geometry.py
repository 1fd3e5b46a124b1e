"""Norm balls around an image, cut with the pixel range."""

import tensorflow as tf

from sat_tf import specs
from sat_tf.attacks import scaling

NORMS = ("linf", "l2", "l1")
PIXEL_MIN, PIXEL_MAX = 0.0, 255.0

# Keeps divisions by a norm finite where it is zero; far below any gradient that matters.
_TINY = 1e-12
# Halvings of the bracket around the threshold, after which the active set is the final one.
_L1_HALVINGS = 30


def check_norm(norm: str, supported: tuple[str, ...] = NORMS) -> str:
    """Returns `norm` if it is one of `supported`; else a ValueError lists them."""
    return specs.one_of("norm", norm, supported)


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


def scaled(x: tf.Tensor, radius: float | tf.Tensor, norm: str) -> tf.Tensor:
    """Gives every image the norm `radius`, a scalar or [N]: `x * radius / |x|`."""
    return x * per_image(radius / norms(x, norm))


def steepest_direction(gradient: tf.Tensor, norm: str) -> tf.Tensor:
    """Computes the direction of unit norm that raises a linear function the most.

    `sign(g)` for L-inf (with `sign(0) = 0`), `g / |g|_2` for L2. A zero gradient gives zero.

    Args:
      gradient: float tensor [N, H, W, C].
      norm: "linf" or "l2".
    """
    if check_norm(norm, ("linf", "l2")) == "linf":
        return tf.sign(gradient)
    # Squares of gradients below 1e-19 vanish in float32; a power of two changes no digit.
    largest = norms(gradient, "linf")
    gradient /= per_image(scaling.power_of_two(largest))
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
    L1: the exact projection on the intersection, `l1_projection`.

    Args:
      images: float32 [N, H, W, C] in pixels.
      center: the clean images, same shape, inside the pixel range.
      epsilon: radius in pixels, a scalar or [N].
      norm: one of `NORMS`.
    """
    if check_norm(norm) == "l1":
        return l1_projection(images, center, epsilon)
    epsilon = per_image(epsilon)
    if norm == "linf":
        lower = tf.maximum(center - epsilon, PIXEL_MIN)
        upper = tf.minimum(center + epsilon, PIXEL_MAX)
        return tf.clip_by_value(images, lower, upper)
    delta = images - center
    scale = tf.minimum(1.0, epsilon / per_image(tf.maximum(norms(delta, norm), _TINY)))
    return tf.clip_by_value(center + delta * scale, PIXEL_MIN, PIXEL_MAX)


def l1_projection(images: tf.Tensor, center: tf.Tensor, epsilon: float | tf.Tensor) -> tf.Tensor:
    """Finds the nearest point (L2) in the L1 ball around `center` and in the pixel range.

    With `d = x - c` and `r_i` the room between `c_i` and the end of the range that `d_i` points
    to: `c + sign(d) * clip(|d| - t, 0, r)`, with the smallest `t >= 0` for which the L1 norm is at
    most epsilon. `t` is bracketed by halving, then solved for with the coordinates that are
    neither 0 nor at the end of the range.

    Args:
      images: float32 [N, H, W, C] in pixels.
      center: the clean images, same shape, inside the pixel range.
      epsilon: radius in pixels, a scalar or [N].

    Source: Croce and Hein, arXiv 2103.01208, proposition 2.1; halving instead of sorting.
    """
    delta = tf.convert_to_tensor(images, tf.float32) - center
    size, axes = tf.abs(delta), list(range(1, delta.shape.rank))
    room = tf.where(delta > 0, PIXEL_MAX - center, center - PIXEL_MIN)
    epsilon = tf.broadcast_to(tf.cast(epsilon, tf.float32), tf.shape(delta)[:1])

    def moves(threshold):
        return tf.clip_by_value(size - per_image(threshold), 0.0, room)

    def halve(low, high):
        middle = 0.5 * (low + high)
        outside = tf.reduce_sum(moves(middle), axes) > epsilon
        return tf.where(outside, middle, low), tf.where(outside, high, middle)

    zeros = tf.zeros_like(epsilon)
    inside = tf.reduce_sum(moves(zeros), axes) <= epsilon
    low, high = tf.while_loop(
        lambda *_: True,
        halve,
        (zeros, tf.reduce_max(size, axes)),
        parallel_iterations=1,
        maximum_iterations=_L1_HALVINGS,
    )
    over = size - per_image(high)
    saturated = over >= room
    free = (over > 0) & ~saturated
    count = tf.reduce_sum(tf.cast(free, tf.float32), axes)
    held = tf.reduce_sum(tf.where(saturated, room, 0.0), axes)
    total = held + tf.reduce_sum(tf.where(free, size, 0.0), axes)
    exact = tf.clip_by_value((total - epsilon) / tf.maximum(count, 1.0), low, high)
    threshold = tf.where(inside, 0.0, tf.where(count > 0, exact, high))
    return center + tf.sign(delta) * moves(threshold)
