"""The nearest point of a hyperplane within the pixel range."""

import tensorflow as tf

from sat_tf.attacks.geometry import PIXEL_MAX, PIXEL_MIN, check_norm, per_image

# Longer than any move inside the range needs, and its products stay finite in float32.
_FAR = 1e30
# Newton steps on a concave piecewise-linear function; a handful converge, and each image stops on
# its own, so the bound only keeps the loop finite.
_NEWTON_STEPS = 60


def plane_projection(
    points: tf.Tensor, weights: tf.Tensor, excess: tf.Tensor, norm: str
) -> tf.Tensor:
    """Finds the nearest point of the pixel range on a hyperplane, or as close to it as the range.

    Minimises `|z - x|` over `z` in the range with `<w, z - x> = b`. With `s_i` the direction of
    `b w_i`, `v_i` the speed of coordinate `i` (1 for L-inf, `|w_i|` for L2) and `r_i` its room up
    to the end of the range: `z = x + s * min(t v, r)` with `t` such that
    `sum_i |w_i| min(t v_i, r_i) = |b|`. The left side is concave and piecewise linear in `t`, so
    Newton's method from `t = 0` climbs to the solution without passing it. Where the range does
    not reach the plane, every coordinate goes to its end.

    Args:
      points: float32 [N, H, W, C] in pixels, inside the range.
      weights: normals of the planes, same shape.
      excess: `b`, float32 [N]; 0 keeps the point.
      norm: "linf" or "l2".

    Returns:
      The moves `z - x`, float32 [N, H, W, C].

    Source: Croce and Hein, arXiv 1907.02044, section 2.2 and appendix A; Newton instead of sorting.
    """
    points = tf.convert_to_tensor(points, tf.float32)
    weights = tf.convert_to_tensor(weights, tf.float32)
    axes = list(range(1, points.shape.rank))
    size = tf.abs(weights)
    # Scaled to max|w| = 1, where squares of small gradients neither vanish nor overflow.
    scale = tf.reduce_max(size, axes, keepdims=True)
    size = tf.math.divide_no_nan(size, scale)
    needed = tf.math.divide_no_nan(tf.abs(excess), tf.reshape(scale, [-1]))
    speed = tf.sign(size) if check_norm(norm, ("linf", "l2")) == "linf" else size
    direction = tf.sign(weights) * per_image(tf.sign(excess))
    room = tf.where(direction > 0, PIXEL_MAX - points, points - PIXEL_MIN)

    def climb(time, moving):
        reach = per_image(time) * speed
        reached = tf.reduce_sum(size * tf.minimum(reach, room), axes)
        slope = tf.reduce_sum(tf.where(reach < room, size * speed, 0.0), axes)
        later = time + tf.math.divide_no_nan(needed - reached, slope)
        # Where nothing is left to move, all the room is taken: the plane is out of reach.
        later = tf.where((slope <= 0) & (needed > reached), _FAR, later)
        moving = moving & (later > time * (1 + 1e-7))
        return tf.where(moving, later, time), moving

    time, _ = tf.while_loop(
        lambda time, moving: tf.reduce_any(moving),
        climb,
        (tf.zeros_like(needed), needed > 0),
        parallel_iterations=1,
        maximum_iterations=_NEWTON_STEPS,
    )
    return direction * tf.minimum(per_image(time) * speed, room)
