"""Losses that attacks raise: one value an image, from its logits alone."""

import math
from collections.abc import Callable

import tensorflow as tf

from sat_tf import specs
from sat_tf.attacks import scaling, soft_labels

# The lead from which on the cross-entropy is continued, so that it does not end at 0.
_SURE = 80.0
# Below, the small entries of a gradient in pixels would leave float32.
_SMALLEST_SCALE = 2.0**-44
# Keeps the ratio finite where the leading logits are equal (AutoAttack's constant).
_TINY = 1e-12

# The smallest number of classes for which a loss has a meaning.
MIN_CLASSES = {"ce": 2, "dlr": 3, "dlr-targeted": 4}


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes `-log softmax(z)_y` as `softplus(-a)`, `a` the label's lead (`log_odds`).

    Where the softmax of float32 rounds to 1, at a lead of 17 and more, this keeps its value, for
    attacks to compare, and its gradient. Beyond a lead of 80, where float32 ends, its tangent
    `exp(-80) (81 - a)` goes on: the order of points and the direction of gradients remain those of
    the cross-entropy, however sure the network is. Training learns nothing there and takes
    TensorFlow's one operation, `training.objectives.cross_entropy`.
    """
    lead = log_odds(logits, labels)
    tangent = math.exp(-_SURE) * (1.0 + _SURE - lead)
    return tf.where(lead > _SURE, tangent, tf.nn.softplus(-lead))


def log_odds(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes `z_y - log sum_{i != y} exp(z_i)`, the logarithm of the odds of the label, [N]."""
    return logit(logits, labels) - tf.reduce_logsumexp(_others(logits, labels), 1)


def ascent(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes the direction in which the logits raise the cross-entropy most, largest entry 1.

    The gradient is `softmax(z) - onehot(y) = S * (q - onehot(y))`, with `q` the softmax of the
    other classes' logits and `S` their share of the probability; this is `q - onehot(y)`, float32
    [N, classes], exact however small S is.
    """
    own = tf.one_hot(labels, logits.shape[-1])
    return tf.nn.softmax(_others(logits, labels)) - own


def margin(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes `z_y - max_{i != y} z_i`: at most 0 where another class is at least as likely."""
    return logit(logits, labels) - tf.reduce_max(_others(logits, labels), 1)


def _others(logits, labels):
    """Returns the logits in float32, the label's as low as that goes."""
    logits = tf.cast(logits, tf.float32)
    own = tf.one_hot(labels, tf.shape(logits)[1], on_value=True, off_value=False)
    return tf.where(own, logits.dtype.min, logits)


def logit(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Picks `z_c` of every image: [N, C] and int [N] give [N]."""
    return tf.gather(tf.cast(logits, tf.float32), classes, batch_dims=1)


def dlr(logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor | None = None) -> tf.Tensor:
    """Computes the difference of logits ratio `-(z_y - max_{i != y} z_i) / (z_(1) - z_(3))`.

    `z_(k)` is the k-th largest logit. It changes neither with a shift nor with a positive factor
    of the logits, so a confident network gives it as much gradient as any other.

    Source: Croce and Hein, arXiv 2003.01690, equation 6; 1e-12 is added to the denominator.
    """
    del targets
    top = tf.math.top_k(tf.cast(logits, tf.float32), 3).values
    return -margin(logits, labels) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_dlr(logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Computes `-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)` for the target classes `t`.

    Source: Croce and Hein, arXiv 2003.01690, equation 7; 1e-12 is added to the denominator.
    """
    top = tf.math.top_k(tf.cast(logits, tf.float32), 4).values
    spread = top[:, 0] - 0.5 * (top[:, 2] + top[:, 3])
    return (logit(logits, targets) - logit(logits, labels)) / (spread + _TINY)


def loss_function(name: str) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns the loss `(logits, labels, targets) -> [N]` of that name.

    Raises:
      ValueError: an unknown name, with the list of known ones.
    """
    functions = {
        "ce": lambda logits, labels, targets: cross_entropy(logits, labels),
        "dlr": dlr,
        "dlr-targeted": targeted_dlr,
    }
    return functions[specs.one_of("loss", name, functions)]


def too_few_classes(loss: str, num_classes: int) -> str | None:
    """Returns why a loss cannot be computed with that many classes, or None where it can."""
    needed = MIN_CLASSES[loss]
    if num_classes >= needed:
        return None
    return f"the loss {loss} needs at least {needed} classes and the network has {num_classes}"


def misclassified(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Tells where the largest logit is not the label's or a logit is not finite, as bool [N].

    Whatever counts predictions asks here: the largest of numbers that are none is no answer, though
    `argmax` has one, the class 0. Soft labels [N, C] count as their most probable class.
    """
    finite = tf.reduce_all(tf.math.is_finite(logits), 1)
    return ~finite | (tf.argmax(logits, 1, tf.int32) != soft_labels.classes(labels))


def probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Computes `softmax(z)` in float32, [N, classes]; NaN throughout where a logit is not finite.

    So pictures, which see probabilities, can tell the images that `misclassified` counts as such.
    """
    logits = tf.cast(logits, tf.float32)
    finite = tf.reduce_all(tf.math.is_finite(logits), 1, keepdims=True)
    return tf.where(finite, tf.nn.softmax(logits), float("nan"))


def ranked_classes(logits: tf.Tensor, num_targets: int) -> tf.Tensor:
    """Returns the classes of the 2nd to (num_targets + 1)-th largest logits, int32 [N, targets]."""
    return tf.math.top_k(logits, num_targets + 1).indices[:, 1:]


def loss_and_gradient(
    network: Callable[..., tf.Tensor],
    points: tf.Tensor,
    loss: Callable[[tf.Tensor], tf.Tensor],
    eot_steps: int = 1,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Evaluates the network, a loss of its logits and the gradient of the loss at the points.

    Args:
      network: maps pixels to logits and takes `training`.
      points: float32 [N, H, W, C] in pixels.
      loss: maps logits [N, classes] to one value an image.
      eot_steps: number of evaluations of a random network; the gradient is their mean (expectation
        over transformation), loss and logits are those of the last one, as in AutoAttack.

    Returns:
      Logits [N, classes], losses [N] and the gradients [N, H, W, C], all float32. Through the
      network gradients go scaled, and come out finite (`scaling.backpropagate`). Where no slope of
      the loss exceeds 2^-40, a gradient is made longer so that its small entries remain.

    Raises:
      ValueError: the outputs do not depend on the points through differentiable operations.
    """
    logits, value, gradient = _evaluate(network, points, loss)
    if eot_steps == 1:
        return logits, value, gradient
    logits, value, gradient = tf.while_loop(
        lambda *_: True,
        lambda _logits, _value, total: _add_gradient(_evaluate(network, points, loss), total),
        (logits, value, gradient),
        parallel_iterations=1,
        maximum_iterations=eot_steps - 1,
    )
    return logits, value, gradient / eot_steps


def _evaluate(network, points, loss):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(points)
        logits = tf.cast(network(points, training=False), tf.float32)
    with tf.GradientTape(watch_accessed_variables=False) as loss_tape:
        loss_tape.watch(logits)
        value = loss(logits)
    slope = loss_tape.gradient(value, logits)
    gradient, scale = scaling.backpropagate(tape, logits, points, slope)
    scale = tf.maximum(scale, _SMALLEST_SCALE)
    return logits, value, gradient * tf.reshape(scale, [-1, 1, 1, 1])


def _add_gradient(evaluated, total):
    logits, value, gradient = evaluated
    return logits, value, total + gradient
