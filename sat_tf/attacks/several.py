"""Training against several balls at once: one drawn for a batch, the worst of all, or all."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from sat_tf import specs
from sat_tf.attacks import losses, noise, soft_labels

# Attacks fold 0 to 2 into their seeds.
_DRAW = 3


class Drawn:
    """Attacks a batch with one of several attacks, each with the same chance.

    The draw depends on the seed that the batch gets alone; a replica's part of a batch, and each
    accumulated piece, has a seed and so a draw of its own.

    Source: Croce and Hein, arXiv 2105.12508, section 3 (E-AT with L-inf and L1, the extremes).
    Deviation: they draw by running means of the robust errors, which would be state that a resumed
    run has to keep; equal chances are those of their plain random sampling.

    Args:
      attacks: (network, images, labels, seed) -> images; two at least.
    """

    def __init__(self, attacks: Sequence[Callable[..., tf.Tensor]]):
        self.attacks = _several(attacks)

    def __call__(self, network, images, labels, seed=None, **options) -> tf.Tensor:
        """Returns adversarial images; arguments as `PGD`, the seed int32 [2]."""
        seed = noise.fresh_seed() if seed is None else seed
        branches = [
            lambda attack=attack: attack(network, images, labels, seed, **options)
            for attack in self.attacks
        ]
        return tf.switch_case(self.chosen(seed), branches)

    def chosen(self, seed: tf.Tensor) -> tf.Tensor:
        """Returns the number of the attack that a seed draws, int32 []."""
        seed = noise.fold_in(seed, _DRAW)
        return tf.random.stateless_uniform([], seed, 0, len(self.attacks), tf.int32)


class Worst:
    """Attacks with each of several attacks and keeps the worst result, image by image.

    By "loss" that is the image of highest cross-entropy, as "max" over perturbations (Tramer and
    Boneh, arXiv 1904.13000, section 2); by "margin" that of the lowest margin `z_y - max z_i`: then
    an image is classified right only if it is under every attack. The network judges in inference
    mode.

    Args:
      attacks: (network, images, labels, seed) -> images; two at least.
      by: "loss" or "margin".
    """

    def __init__(self, attacks: Sequence[Callable[..., tf.Tensor]], by: str = "loss"):
        self.attacks = _several(attacks)
        self.by = specs.one_of("by", by, _WORST_BY)

    def __call__(self, network, images, labels, seed=None, **options) -> tf.Tensor:
        """Returns adversarial images; arguments as `PGD`."""
        seed = noise.fresh_seed() if seed is None else seed
        worst = highest = None
        for attack in self.attacks:
            found = attack(network, images, labels, seed, **options)
            logits = tf.cast(network(found, training=False), tf.float32)
            size = _WORST_BY[self.by](logits, labels)
            # What is no number is misclassified: nothing is worse.
            size = tf.where(tf.math.is_nan(size), float("inf"), size)
            if worst is None:
                worst, highest = found, size
            else:
                worst = tf.where(tf.reshape(size > highest, [-1, 1, 1, 1]), found, worst)
                highest = tf.maximum(highest, size)
        return tf.stop_gradient(worst)


class Each:
    """Attacks with each of several attacks and returns all results, one batch after the other.

    The images of the first attack come first; who learns from them repeats the clean images and
    labels `copies` times. The mean of the loss over them is "avg" over perturbations (Tramer and
    Boneh, arXiv 1904.13000, section 2). Batch norm sees all of them as one batch, which there is a
    choice of the code.

    Args:
      attacks: (network, images, labels, seed) -> images; two at least.
    """

    def __init__(self, attacks: Sequence[Callable[..., tf.Tensor]]):
        self.attacks = _several(attacks)
        self.copies = len(self.attacks)

    def __call__(self, network, images, labels, seed=None, **options) -> tf.Tensor:
        """Returns adversarial images [copies * N, H, W, C]; arguments as `PGD`."""
        seed = noise.fresh_seed() if seed is None else seed
        return tf.concat(
            [attack(network, images, labels, seed, **options) for attack in self.attacks], 0
        )


def _loss(logits, labels):
    if soft_labels.are_soft(labels):
        labels = tf.cast(labels, tf.float32)
        return -tf.reduce_sum(labels * tf.nn.log_softmax(logits), 1)
    return losses.cross_entropy(logits, _known(logits, labels))


def _negative_margin(logits, labels):
    return -losses.margin(logits, _known(logits, soft_labels.classes(labels)))


def _known(logits, labels):
    # A label that is no class is told by the trainer, in words.
    return tf.clip_by_value(labels, 0, logits.shape[-1] - 1)


# How the worst of several is found: what the attacks make largest.
_WORST_BY = {"loss": _loss, "margin": _negative_margin}
COMBINATIONS = {"random": Drawn, "max": Worst, "avg": Each}


def _several(attacks):
    if len(attacks) < 2:
        raise ValueError(f"{len(attacks)} attacks are to be combined; give two at least")
    return list(attacks)
