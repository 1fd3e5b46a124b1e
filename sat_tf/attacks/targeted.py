"""PGD towards a class that is not the label's: random, or the least likely of the clean image."""

from collections.abc import Callable

import tensorflow as tf

from sat_tf import specs
from sat_tf.attacks import losses, noise, soft_labels, stepped
from sat_tf.attacks.pgd import PGD
from sat_tf.attacks.pgd_restarts import RestartedPGD

TARGETS = ("random", "least_likely")
# Of the numbers that a seed gives, those of the targets; PGD takes 0 to 2 and `several` 3.
_COUNTER = 4


class TargetedPGD:
    """Lowers the cross-entropy of a target class `t` in the label's place: the attack of training.

    Step: `x_k = P(x_{k-1} - step_size * s(grad_x sum_i CE(f(x_{k-1}), t)_i))`; start, `s` and `P`
    are those of `PGD`, the result is the last iterate. With two classes it is `PGD`. It does not
    leak the label, as one step of FGSM on it does.

    Source: Kurakin et al. 2017, arXiv 1611.01236, section 2 ("step rnd." and "step l.l."); Xie et
    al. 2019, arXiv 1812.03411, section 5, train with random targets. Deviation: the least likely
    class is never the label.

    Args:
      target: one of `TARGETS`; "random" is uniform over the other classes and drawn for each image.
      **options: of `PGD`.

    Raises:
      ValueError: an unknown target, or as `PGD`.
    """

    def __init__(self, target: str, **options):
        self.target = specs.one_of("target", target, TARGETS)
        self.pgd = _Descent(**options)
        self.epsilon, self.norm = self.pgd.epsilon, self.pgd.norm

    def __call__(
        self,
        network: Callable[..., tf.Tensor],
        images: tf.Tensor,
        labels: tf.Tensor,
        seed: tf.Tensor | None = None,
        *,
        share: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns adversarial images; arguments as `PGD`, the largest of soft labels counts.

        The least likely class costs an evaluation of the network more.
        """
        images = tf.convert_to_tensor(images, tf.float32)
        seed = noise.fresh_seed() if seed is None else tf.convert_to_tensor(seed, tf.int32)
        logits = self.pgd.logits(network, images)
        chosen = targets(self.target, logits, labels, seed)
        return self.pgd(network, images, chosen, seed, share=share)


class SteppedTargetedPGD(RestartedPGD):
    """`TargetedPGD` in an evaluation: an image is broken as soon as any iterate is misclassified.

    Args:
      target: one of `TARGETS`.
      **options: of `RestartedPGD`.
    """

    def __init__(self, target: str, **options):
        super().__init__(**options)
        self.target = specs.one_of("target", target, TARGETS)
        self.name = f"{self.name}-{target}"

    def start(self, images, labels, seeds, logits) -> stepped.State:
        """Returns the state of images that took no step yet (see `stepped.SteppedAttack`)."""
        state = super().start(images, labels, seeds, logits)
        return {**state, "targets": targets(self.target, logits, labels, seeds)}

    def raised(self, logits: tf.Tensor, state: stepped.State) -> tf.Tensor:
        """Returns what the attack raises: minus the cross-entropy of the targets."""
        return -losses.cross_entropy(logits, state["targets"])


def targets(target: str, logits: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Chooses a class other than the label for every image, int32 [N].

    Args:
      target: one of `TARGETS`.
      logits: [N, classes] of the clean images; of "random", only their shape is looked at.
      labels: int [N], or float [N, classes], whose largest entry is the label.
      seed: int32 [2], or [N, 2] for a draw that depends on nothing but the image's own.
    """
    labels = soft_labels.classes(labels)
    num_classes = logits.shape[-1]
    if target == "least_likely":
        own = tf.one_hot(labels, num_classes, on_value=True, off_value=False)
        logits = tf.cast(logits, tf.float32)
        return tf.argmin(tf.where(own, logits.dtype.max, logits), 1, tf.int32)
    if seed.shape.rank == 1:
        drawn = noise.unit(noise.fold_in(seed, _COUNTER), tf.shape(labels))
    else:
        drawn = noise.hashed_uniform(seed, _COUNTER, [1])[:, 0]
    offset = 1 + tf.cast(drawn * (num_classes - 1), tf.int32)
    return (labels + tf.minimum(offset, num_classes - 1)) % num_classes


class _Descent(PGD):
    """PGD whose labels are targets: it goes down where PGD goes up."""

    def ascent(self, logits, labels):
        return -super().ascent(logits, labels)
