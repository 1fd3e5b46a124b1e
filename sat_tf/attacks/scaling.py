"""Gradients kept inside the range of the network's numbers, float16 included."""

import tensorflow as tf

# The largest entry, up to a factor of two, of what is sent back through a network. Gradients in
# pixels are a few hundred times smaller than those of the logits and float16 loses what is below
# 6e-8; above it ends at 65504, far beyond what networks make of 16.
_LARGEST = 16.0
_EXPONENT_BITS = 0x7F800000
# Reciprocals of powers of two between these, and products with 16, are finite and exact.
_SMALLEST_POWER, _LARGEST_POWER = 2.0**-120, 2.0**100


def power_of_two(x: tf.Tensor) -> tf.Tensor:
    """Returns the largest power of two that is at most `|x|`, between 2^-120 and 2^100.

    Products with it and quotients by it are exact, unless they leave the range of float32.
    """
    bits = tf.bitwise.bitwise_and(tf.bitcast(tf.abs(x), tf.int32), _EXPONENT_BITS)
    return tf.clip_by_value(tf.bitcast(bits, tf.float32), _SMALLEST_POWER, _LARGEST_POWER)


def backpropagate(
    tape: tf.GradientTape,
    logits: tf.Tensor,
    points: tf.Tensor,
    slope: tf.Tensor,
    *,
    together: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the gradient of `<slope, logits>` with respect to the points, over a scale.

    In a network that computes in float16 a slope of 1e-9, that of the cross-entropy of a sure
    image, would become 0, and one of 1e6 infinite. So every image's slope goes through the network
    divided by a power of two, which leaves 16 to 32 as its largest entry. In float32 the result is
    therefore exact. Entries that are no finite numbers are mended as `finite` says.

    Args:
      tape: holds the network from points to logits.
      logits: float32 [N, classes].
      points: float32 [N, H, W, C].
      slope: the gradient of a loss with respect to the logits, float32 [N, classes].
      together: whether all images share one scale: where they touch each other through the batch's
        own statistics, an image's gradient is a sum over the slopes of all of them.

    Returns:
      The gradient over the scale, float32 as the points; and the scales, float32 [N].

    Raises:
      ValueError: the logits do not depend on the points through differentiable operations.
    """
    gradient, scale = raw_gradient(tape, logits, points, slope, together=together)
    return finite(gradient), scale


def raw_gradient(
    tape: tf.GradientTape,
    logits: tf.Tensor,
    points: tf.Tensor,
    slope: tf.Tensor,
    *,
    together: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes what `backpropagate` does, with NaN and infinity where the network gives them."""
    # Logits that are no numbers have no slope, and must not set the scale of the others.
    slope = tf.where(tf.math.is_finite(slope), slope, 0.0)
    largest = tf.reduce_max(tf.abs(slope), 1)
    if together:
        largest = tf.fill(tf.shape(largest), tf.reduce_max(largest))
    scale = power_of_two(largest) / _LARGEST
    gradient = tape.gradient(logits, points, slope / scale[:, None])
    if gradient is None:
        raise ValueError(
            "the network gives no gradient with respect to its images; white-box attacks need "
            "a differentiable network (a Keras model, or a SavedModel exported with gradients)"
        )
    return gradient, scale


def finite(gradient: tf.Tensor) -> tf.Tensor:
    """Replaces entries of images' gradients that are not finite, so that a step can be taken.

    NaN, such as the derivative of a square root at 0 times one of 0, becomes 0. An infinite entry
    keeps its sign and is made as large as the largest finite one of its image, or 1 where there is
    none. The sign of what results is the sign that AutoAttack takes: 0 for NaN, 1 for infinity.

    Args:
      gradient: float tensor [N, H, W, C].
    """
    size = tf.abs(gradient)
    known = tf.where(tf.math.is_finite(size), size, 0.0)
    largest = tf.reduce_max(known, [1, 2, 3], keepdims=True)
    largest = tf.where(largest > 0, largest, 1.0)
    numbers = tf.where(tf.math.is_nan(gradient), 0.0, gradient)
    return tf.clip_by_value(numbers, -largest, largest)
