"""The loss around an image, in the direction of its gradient and in a random one."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from sat_tf.attacks import geometry, losses, noise

POINTS = 25  # along each direction, the image in the middle


@dataclasses.dataclass
class Landscape:
    """The loss in a plane of images.

    Attributes:
      index: position of the image in the data set.
      label: its class.
      norm: "linf", "l2" or "l1".
      offsets: float [P], along either direction, in pixels.
      loss: float32 [P, P], the cross-entropy of the label at `x + offsets[i] d + offsets[j] r`.
      margin: float32 [P, P], there `z_y - max_{i != y} z_i` of the logits.
      wrong: bool [P, P], where the network says another class or a logit is no finite number.
    """

    index: int
    label: int
    norm: str
    offsets: np.ndarray
    loss: np.ndarray
    margin: np.ndarray
    wrong: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Returns the content as JSON, which has no number for a loss that is not finite: None."""
        loss = np.round(self.loss.astype(np.float64), 6)
        return {
            "index": self.index,
            "label": self.label,
            "offsets": np.round(self.offsets, 6).tolist(),
            "loss": np.where(np.isfinite(loss), loss, None).tolist(),
            "wrong": self.wrong.astype(int).tolist(),
        }


def around(
    network: Callable[..., tf.Tensor],
    image: np.ndarray,
    label: int,
    *,
    index: int,
    epsilon: float,
    norm: str,
    seed: int,
) -> Landscape:
    """Evaluates the network on a square of side `2 epsilon` around an image.

    `d` comes of the gradient of the loss at the image and has length 1 in the norm: its sign for
    linf, the gradient over its L2 norm for l2 and over its L1 norm for l1 (not the steepest
    direction there, which is a single coordinate); `r` likewise of standard normal noise. So a
    point on an axis is as far from the image as its offset says. Points are clipped to [0, 255].
    Off the axes they may be outside the ball: for linf and l1 as far as the sum of the offsets.

    Where gradients tell what the loss does, it rises evenly along `d` and hardly along `r`; a ridge
    or holes at the image mean that an attack by gradients is led astray.

    Args:
      network: maps pixels to logits and takes `training`.
      image: float32 [H, W, C] in pixels.
      label: its class.
      index: position in the data set, of which the noise depends with the seed.
      epsilon: in pixels.
      norm: of the ball.
      seed: of the noise.

    Source: Engstrom et al. 2018, arXiv 1807.10272, figure 2 (there from the image on in one
    quadrant); Tramèr et al. 2018, arXiv 1705.07204, section 4.
    """
    clean, labels = tf.constant(image[None]), tf.constant([label])
    _, _, gradient = losses.loss_and_gradient(
        network, clean, lambda logits: losses.cross_entropy(logits, labels)
    )
    random = noise.normal(tf.constant([seed, index], tf.int32), clean)
    kind = "linf" if norm == "linf" else "l2"
    steepest, other = (
        _of_length_1(geometry.steepest_direction(one, kind), norm) for one in (gradient, random)
    )
    offsets = np.linspace(-epsilon, epsilon, POINTS).astype(np.float32)
    found = []
    for offset in offsets:  # a row at a time, as a whole square may be too many images
        points = clean + offset * steepest + tf.reshape(offsets, [-1, 1, 1, 1]) * other
        points = tf.clip_by_value(points, geometry.PIXEL_MIN, geometry.PIXEL_MAX)
        logits = tf.cast(network(points, training=False), tf.float32)
        many = tf.repeat(labels, POINTS)
        kinds = (losses.cross_entropy, losses.margin, losses.misclassified)
        found.append([kind(logits, many).numpy() for kind in kinds])
    loss, margin, wrong = map(np.stack, zip(*found, strict=True))
    return Landscape(index, int(label), norm, offsets, loss, margin, wrong)


def _of_length_1(direction, norm):
    length = geometry.per_image(geometry.norms(direction, norm))
    return tf.math.divide_no_nan(direction, length)  # 0 stays 0
