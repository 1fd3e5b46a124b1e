"""Gradients kept inside the range of the network's numbers, float16 included."""

import tensorflow as tf

# The largest entry, up to a factor of two, of what is sent back through a network. Gradients in
# pixels are a few hundred times smaller than those of the logits and float16 loses what is below
# 6e-8; above it ends at 65504, far beyond what networks make of 16.
_LARGEST = 16.0
_EXPONENT_BITS = 0x7F800000
# Reciprocals of powers of two between these, and products with 16, are finite and exact.
_SMALLEST_POWER, _LARGEST_POWER = 2.0**-100, 2.0**100


def power_of_two(x: tf.Tensor) -> tf.Tensor:
    """Returns the largest power of two that is at most `|x|`, between 2^-100 and 2^100.

    Products with it and quotients by it are exact, unless they leave the range of float32.
    """
    bits = tf.bitwise.bitwise_and(tf.bitcast(tf.abs(x), tf.int32), _EXPONENT_BITS)
    return tf.clip_by_value(tf.bitcast(bits, tf.float32), _SMALLEST_POWER, _LARGEST_POWER)


def backpropagate(
    tape: tf.GradientTape, logits: tf.Tensor, points: tf.Tensor, slope: tf.Tensor
) -> tuple[tf.Tensor | None, tf.Tensor]:
    """Computes the gradient of `<slope, logits>` with respect to the points, over a scale.

    In a network that computes in float16 a slope of 1e-9, that of the cross-entropy of a sure
    image, would become 0, and one of 1e6 infinite. So every image's slope goes through the network
    divided by a power of two, which leaves 16 to 32 as its largest entry. In float32 the result is
    therefore exact.

    Args:
      tape: holds the network from points to logits.
      logits: float32 [N, classes].
      points: float32 [N, H, W, C].
      slope: the gradient of a loss with respect to the logits, float32 [N, classes].

    Returns:
      The gradient over the scale, float32 as the points, or None where there is none; and the
      scales, float32 [N].
    """
    scale = power_of_two(tf.reduce_max(tf.abs(slope), 1)) / _LARGEST
    return tape.gradient(logits, points, slope / scale[:, None]), scale
