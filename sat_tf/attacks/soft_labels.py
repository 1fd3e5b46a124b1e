"""Soft labels: a probability for each class [N, C], where an ordinary label is one class [N]."""

import tensorflow as tf


def are_soft(labels: tf.Tensor) -> bool:
    """Tells whether labels are rows [N, C], by their rank alone."""
    return tf.convert_to_tensor(labels).shape.rank == 2


def classes(labels: tf.Tensor) -> tf.Tensor:
    """Returns the class that a prediction is held against, int32 [N].

    Of a soft label that is its most probable class, of several equal ones the first.
    """
    labels = tf.convert_to_tensor(labels)
    return tf.argmax(labels, 1, tf.int32) if are_soft(labels) else tf.cast(labels, tf.int32)


def ascent(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the slope of the cross-entropy `-sum_k y_k log softmax(z)_k` in the logits.

    The slope is `p - y = p (1 - y) - y (1 - p)`, `p = softmax(z)`, computed from logarithms, so
    that a one-hot label has the direction of `losses.ascent` however sure the network is, where
    `p - y` itself would round to 0.

    Args:
      logits: [N, C].
      labels: float [N, C], rows of probabilities.

    Returns:
      The slope over its largest term, float32 [N, C], and the logarithm of that term [N].
    """
    # Rounding may leave a probability just above 1, whose complement has no logarithm.
    labels = tf.minimum(tf.cast(labels, tf.float32), 1.0)
    logits = tf.cast(logits, tf.float32)
    log_p = tf.nn.log_softmax(logits)
    raised = log_p + tf.math.log1p(-labels)
    lowered = tf.math.log(labels) + _log_rest(logits, log_p)
    largest = tf.reduce_max(tf.maximum(raised, lowered), 1, keepdims=True)
    largest = tf.maximum(largest, logits.dtype.min)
    return tf.exp(raised - largest) - tf.exp(lowered - largest), largest[:, 0]


def _log_rest(logits, log_p):
    """Computes `log(1 - p)`: of the largest p from the other logits, else p is at most 1/2."""
    leads = tf.one_hot(tf.argmax(logits, 1), tf.shape(logits)[1], True, False, dtype=tf.bool)
    others = tf.reduce_logsumexp(tf.where(leads, logits.dtype.min, logits), 1, keepdims=True)
    of_leading = others - tf.reduce_logsumexp(logits, 1, keepdims=True)
    return tf.where(leads, of_leading, tf.math.log1p(-tf.exp(log_p)))
