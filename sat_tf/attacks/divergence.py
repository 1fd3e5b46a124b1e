"""PGD that pulls the prediction away from the clean one: the attack inside TRADES."""

import tensorflow as tf

from sat_tf.attacks import noise
from sat_tf.attacks.pgd import PGD


class DivergencePGD(PGD):
    """Maximises `KL(p(x) || p(x'))` instead of the cross-entropy; needs no labels.

    Start: `x_0 = P(x + start_deviation * g)`, `g` standard normal, as the gradient is exactly 0 at
    `x` itself. Steps and projection are those of `PGD`; `p(x)` is computed once and held constant.

    Source: Zhang et al., arXiv 1901.08573, algorithm 1; the start deviates by 0.001 of the range
    [0, 1], which is 0.255 pixels. Both networks of the divergence are in the mode `batch_norm`, by
    default inference as in the released code. Deviation: the start is projected at once.

    Args:
      start_deviation: standard deviation of the start in pixels, above 0.
      **options: epsilon, step_size, steps, norm and batch_norm of `PGD`.

    Raises:
      ValueError: a start_deviation that is not above 0, or as `PGD`.
    """

    def __init__(self, *, start_deviation: float = 0.255, **options):
        super().__init__(**options)
        if not start_deviation > 0:
            raise ValueError(
                f"start_deviation is {start_deviation}; give pixels above 0, as the divergence "
                "has no gradient at the image itself"
            )
        self.start_deviation = float(start_deviation)

    def __call__(self, network, images, labels=None, seed=None, *, share=None) -> tf.Tensor:
        """Returns adversarial images; arguments as `PGD`, labels unused."""
        del labels
        images = tf.convert_to_tensor(images, tf.float32)
        clean = tf.nn.softmax(tf.cast(self.logits(network, images), tf.float32))
        return super().__call__(network, images, tf.stop_gradient(clean), seed, share=share)

    def start(self, images: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """Returns the first iterate."""
        seed = noise.fresh_seed() if seed is None else seed
        return self.project(images + self.start_deviation * noise.normal(seed, images), images)

    def ascent(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns `softmax(z) - p`, the slope itself; `labels` are the clean probabilities p."""
        return tf.nn.softmax(logits) - labels
