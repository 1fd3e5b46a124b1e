"""Objectives: the loss of a batch of clean images and the adversarial ones made from them."""

from collections.abc import Callable

import keras
import tensorflow as tf

from sat_tf import activations
from sat_tf.attacks import soft_labels

# (network, images, adversarial, labels) -> (loss of every image [N], logits of adversarial [N, C]).
# Labels are classes, int [N], or probabilities of classes, float [N, C]: then the loss of an image
# is the mean over classes drawn from its label, `sum_k y_k loss(k)`.
Objective = Callable[..., tuple[tf.Tensor, tf.Tensor]]

# How the names of trained weights end: of layers, without biases and batch-norm scales, and of
# trained activations.
KERNELS = ("kernel",)
ACTIVATION_SCALARS = tuple(name for one in activations.TRAINED.values() for name in one.scalars)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes `-log softmax(z)_y` for every image, float32 [N], as one operation.

    Of soft labels `-sum_k y_k log softmax(z)_k`.

    Its gradient rounds to 0 at a lead of 17, where nothing is left to learn; attacks, which must
    not stop there, raise `attacks.losses.cross_entropy`.
    """
    logits = tf.cast(logits, tf.float32)
    if soft_labels.are_soft(labels):
        return tf.nn.softmax_cross_entropy_with_logits(tf.cast(labels, tf.float32), logits)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def adversarial_cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """Makes the paper's loss: `CE(f(x_adv), (1 - s) onehot(y) + s / C)`, no clean term.

    Source: Xie et al., arXiv 2006.14536, section 3 (min-max, equation 1). Smoothing is 0 in the
    paper's wording and 0.1 in the released class; the attack's own loss is never smoothed.

    Args:
      label_smoothing: s, in [0, 1).

    Raises:
      ValueError: label_smoothing outside [0, 1).
    """
    _check_smoothing(label_smoothing)

    def objective(network, images, adversarial, labels):
        del images
        logits = tf.cast(network(adversarial, training=True), tf.float32)
        return _smoothed_cross_entropy(logits, labels, label_smoothing), logits

    return objective


def trades(beta: float = 6.0, label_smoothing: float = 0.0) -> Objective:
    """Makes the loss of TRADES: `CE(f(x), y) + beta * KL(p(x) || p(x_adv))`, `p = softmax(f)`.

    Its adversarial images maximise the same divergence: `attacks.divergence.DivergencePGD`. The
    network sees the clean batch, then the adversarial one, both in training mode: batch norm
    normalises each with its own statistics and moves its averages twice. Gradients flow through
    both.

    Source: Zhang et al., arXiv 1901.08573, equation 5; `beta` is their `1 / lambda`, 6 on CIFAR-10.
    Label smoothing, of the clean term, is an addition.

    Args:
      beta: weight of the divergence, at least 0.
      label_smoothing: in [0, 1).

    Raises:
      ValueError: beta negative, label_smoothing outside [0, 1).
    """
    _check_beta(beta)
    _check_smoothing(label_smoothing)

    def objective(network, images, adversarial, labels):
        clean_logits, logits = _both_logits(network, images, adversarial)
        natural = _smoothed_cross_entropy(clean_logits, labels, label_smoothing)
        return natural + beta * divergence(clean_logits, logits), logits

    return objective


def mart(beta: float = 5.0) -> Objective:
    """Makes the loss of MART, which weighs images by how unsure the network is of the clean one.

    `BCE(p(x_adv), y) + beta * KL(p(x) || p(x_adv)) * (1 - p_y(x))`, with the boosted cross-entropy
    `BCE(p, y) = -log p_y - log(1 - max_{k != y} p_k)`. Modes and order as in `trades`; gradients
    flow through every factor. The images come from ordinary PGD on the cross-entropy.

    Source: Wang et al., ICLR 2020 (openreview rklOg6EFwS), section 3; `beta` is their lambda.
    Deviation: `log(1 - p_k)` is computed as `logsumexp_{j != k} log p_j`, exact without the small
    constants of the released code. Of soft labels, which the paper has not, the loss is the mean
    over the label's classes.

    Args:
      beta: weight of the divergence, at least 0.

    Raises:
      ValueError: beta negative.
    """
    _check_beta(beta)

    def objective(network, images, adversarial, labels):
        clean_logits, logits = _both_logits(network, images, adversarial)
        missing = _missing(clean_logits, labels)
        boosted = boosted_cross_entropy(logits, labels)
        return boosted + beta * divergence(clean_logits, logits) * missing, logits

    return objective


def divergence(logits: tf.Tensor, other_logits: tf.Tensor) -> tf.Tensor:
    """Computes `KL(softmax(z) || softmax(z'))` for every image, float32 [N]."""
    log_p = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    log_q = tf.nn.log_softmax(tf.cast(other_logits, tf.float32))
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


def boosted_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes `-log p_y - log(1 - max_{k != y} p_k)` for every image, float32 [N]."""
    log_p = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    num_classes = log_p.shape[-1]
    if soft_labels.are_soft(labels):
        return _soft_boosted(log_p, tf.cast(labels, tf.float32))
    is_label = tf.one_hot(labels, num_classes, True, False, dtype=tf.bool)
    rival = tf.argmax(tf.where(is_label, -float("inf"), log_p), axis=-1)
    is_rival = tf.one_hot(rival, num_classes, True, False, dtype=tf.bool)
    log_rest = tf.reduce_logsumexp(tf.where(is_rival, -float("inf"), log_p), axis=-1)
    return cross_entropy(logits, labels) - log_rest


def _soft_boosted(log_p, labels):
    """The rival of a class is the leading class, and of that the second."""
    ranked = tf.math.top_k(log_p, 2).indices
    leads, follows = (
        tf.one_hot(ranked[:, k], log_p.shape[-1], True, False, dtype=tf.bool) for k in (0, 1)
    )
    log_rest = [
        tf.reduce_logsumexp(tf.where(rival, -float("inf"), log_p), axis=-1, keepdims=True)
        for rival in (follows, leads)
    ]
    return -tf.reduce_sum(labels * (log_p + tf.where(leads, *log_rest)), axis=-1)


def _missing(logits, labels):
    """Computes `1 - p_y(x)`, what the network leaves to other classes, [N]."""
    if not soft_labels.are_soft(labels):
        return -tf.math.expm1(-cross_entropy(logits, labels))
    return -tf.reduce_sum(
        tf.cast(labels, tf.float32) * tf.math.expm1(tf.nn.log_softmax(logits)), axis=-1
    )


def own_losses(network: keras.Model) -> tf.Tensor:
    """Sums what a network's layers added to the loss in the network's last call, float32 [].

    These are `kernel_regularizer` and the like, of weights that are trained, `activity_regularizer`
    (which Keras divides by the images of the call) and `add_loss`.

    Raises:
      ValueError: layers added losses on several replicas that meet inside the call, as in
        synchronized batch norm: Keras keeps the losses of all of them in one list.
    """
    losses = network.losses
    meeting = [layer for layer in network._flatten_layers() if getattr(layer, "synchronized", 0)]
    num_weights = sum(1 for v in network.trainable_variables if v.regularizer)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if meeting and replicas > 1 and len(losses) > num_weights:
        raise ValueError(
            f"layer {meeting[0].name!r} is synchronized between {replicas} replicas, where Keras "
            "mixes up what activity_regularizer and add_loss gave on each; take one of them out, "
            "or use one replica"
        )
    return tf.add_n([tf.zeros([]), *(tf.reduce_sum(tf.cast(x, tf.float32)) for x in losses)])


def named(network: keras.Model, endings: tuple[str, ...]) -> list[keras.Variable]:
    """Lists the trained weights whose names end so."""
    return [v for v in network.trainable_variables if v.name.endswith(endings)]


def weight_decay(
    network: keras.Model, coefficient: float, endings: tuple[str, ...] = KERNELS
) -> tf.Tensor:
    """Computes `0.5 * coefficient * sum |w|^2` over the weights `named` so, float32 []."""
    squares = [tf.nn.l2_loss(tf.cast(v.value, tf.float32)) for v in named(network, endings)]
    return coefficient * tf.add_n(squares)


def _both_logits(network, images, adversarial):
    clean_logits = tf.cast(network(images, training=True), tf.float32)
    return clean_logits, tf.cast(network(adversarial, training=True), tf.float32)


def _smoothed_cross_entropy(logits, labels, smoothing):
    if smoothing == 0:
        return cross_entropy(logits, labels)
    num_classes = logits.shape[-1]
    rest = smoothing / num_classes
    if soft_labels.are_soft(labels):
        targets = (1 - smoothing) * tf.cast(labels, tf.float32) + rest
    else:
        targets = tf.one_hot(labels, num_classes, 1 - smoothing + rest, rest)
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def _check_smoothing(value):
    if not 0 <= value < 1:
        raise ValueError(f"label_smoothing is {value}; give a number from 0 to below 1")


def _check_beta(value):
    if not 0 <= value < float("inf"):
        raise ValueError(f"beta is {value}; give the weight of the divergence, at least 0")
