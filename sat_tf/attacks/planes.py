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
    Newton's method from `t = 0` climbs to the solution without passing it. For L1 the coordinates
    of the largest `|w_i|` go to their ends, one after the other, until the plane is reached. Where
    the range does not reach the plane, every coordinate goes to its end.

    Args:
      points: float32 [N, H, W, C] in pixels, inside the range.
      weights: normals of the planes, same shape.
      excess: `b`, float32 [N]; 0 keeps the point.
      norm: "linf", "l2" or "l1".

    Returns:
      The moves `z - x`, float32 [N, H, W, C].

    Source: Croce and Hein, arXiv 1907.02044, section 2.2 and appendix A; Newton instead of sorting,
    but for L1.
    """
    check_norm(norm)
    points = tf.convert_to_tensor(points, tf.float32)
    weights = tf.convert_to_tensor(weights, tf.float32)
    axes = list(range(1, points.shape.rank))
    size = tf.abs(weights)
    # Scaled to max|w| = 1, where squares of small gradients neither vanish nor overflow.
    scale = tf.reduce_max(size, axes, keepdims=True)
    size = tf.math.divide_no_nan(size, scale)
    needed = tf.math.divide_no_nan(tf.abs(excess), tf.reshape(scale, [-1]))
    direction = tf.sign(weights) * per_image(tf.sign(excess))
    room = tf.where(direction > 0, PIXEL_MAX - points, points - PIXEL_MIN)
    if norm == "l1":
        return direction * _heaviest_first(size, room, needed)
    speed = tf.sign(size) if norm == "linf" else size
    time = _time(size, speed, room, needed)
    return direction * tf.minimum(per_image(time) * speed, room)


def _heaviest_first(size, room, needed):
    """Returns the smallest moves in L1 with `sum_i size_i move_i = needed`, at most the room."""
    flat = [tf.shape(size)[0], -1]
    weights, ends = tf.reshape(size, flat), tf.reshape(room, flat)
    order = tf.argsort(weights, 1, "DESCENDING", stable=True)
    sorted_weights = tf.gather(weights, order, batch_dims=1)
    sorted_ends = tf.gather(ends, order, batch_dims=1)
    before = tf.cumsum(sorted_weights * sorted_ends, 1, exclusive=True)
    left = tf.math.divide_no_nan(tf.maximum(needed[:, None] - before, 0.0), sorted_weights)
    moves = tf.minimum(left, sorted_ends)
    return tf.reshape(tf.gather(moves, tf.argsort(order, 1), batch_dims=1), tf.shape(size))


def _time(size, speed, room, needed):
    """Returns `t` with `sum_i size_i min(t speed_i, room_i) = needed`, [N]."""
    axes = list(range(1, size.shape.rank))

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
    return time
