"""Training against several balls at once: one drawn for a batch, the worst of all, or all."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from sat_tf import specs
from sat_tf.attacks import losses, noise, soft_labels

# Attacks fold 0 to 2 into their seeds.
_DRAW = 3


class Drawn:
    """Attacks a batch with one of several attacks, each with the same chance.

    The draw depends on the seed that the batch gets alone; a replica's part of a batch, and each
    accumulated piece, has a seed and so a draw of its own.

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
        drawn = tf.cast(noise.bits(seed, []), tf.int64)
        return tf.cast(drawn % len(self.attacks), tf.int32)


class Biased(Drawn):
    """Attacks a batch with one of several attacks, the likelier the more images it has broken.

    Attack i is drawn with probability `e_i / sum_j e_j`, where `e_i` is the share of the images
    attacked by it since the run began that were misclassified afterwards; with equal chances until
    each was drawn once, and where all are 0. The counts are state of the run, over all replicas: a
    run that goes on draws as if it had never stopped.

    Source: E-AT with L-inf and L1, Croce and Hein, arXiv 2105.12508, by the authors' released
    training (github.com/fra31/robust-finetuning, commit 76b8b9a). Deviations: an image counts as
    broken if the result is misclassified in inference mode, for which the network is evaluated once
    more; theirs counts any iterate of the attack, which is APGD. Each replica draws for its part of
    a batch, and each accumulated piece.

    Args:
      attacks: (network, images, labels, seed) -> images; two at least. Make it in the scope of the
        strategy.

    Attributes:
      counts: int64 [attacks, 2], images that each has broken and images that it was given.
    """

    def __init__(self, attacks: Sequence[Callable[..., tf.Tensor]]):
        super().__init__(attacks)
        self.counts = keras.Variable(
            np.zeros((len(attacks), 2)),
            dtype="int64",  # float32 would count no image beyond 2^24
            trainable=False,
            aggregation="only_first_replica",  # all have the same
            name="broken_and_given",
        )

    @property
    def variables(self) -> list[keras.Variable]:
        """What a run has to restore."""
        return [self.counts]

    def __call__(self, network, images, labels, seed=None, **options) -> tf.Tensor:
        """Returns adversarial images and counts them; arguments as `PGD`, the seed int32 [2]."""
        seed = noise.fresh_seed() if seed is None else seed
        chosen = self.chosen(seed)
        found = super().__call__(network, images, labels, seed, **options)
        broken = losses.misclassified(network(found, training=False), labels)
        own = tf.one_hot(chosen, len(self.attacks), dtype=tf.int64)[:, None]
        more = own * tf.stack([tf.math.count_nonzero(broken), tf.size(broken, tf.int64)])
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            more = context.all_reduce(tf.distribute.ReduceOp.SUM, more)
        self.counts.assign_add(more)
        return found

    def chosen(self, seed: tf.Tensor) -> tf.Tensor:
        """Returns the number of the attack that a seed draws now, int32 []."""
        limits = tf.cumsum(self.probabilities())
        point = noise.unit(noise.fold_in(seed, _DRAW), [])
        # Rounding may leave the last limit below 1.
        return tf.reduce_sum(tf.cast(point >= limits[:-1], tf.int32))

    def probabilities(self) -> tf.Tensor:
        """Returns each attack's chance of the next batch, float32 [attacks]."""
        broken, given = tf.unstack(tf.cast(self.counts.value, tf.float32), axis=1)
        errors = tf.math.divide_no_nan(broken, given)
        known = tf.reduce_all(given > 0) & (tf.reduce_sum(errors) > 0)
        errors = tf.where(known, errors, 1.0)
        return errors / tf.reduce_sum(errors)


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
COMBINATIONS = {"random": Drawn, "biased": Biased, "max": Worst, "avg": Each}


def _several(attacks):
    if len(attacks) < 2:
        raise ValueError(f"{len(attacks)} attacks are to be combined; give two at least")
    return list(attacks)
