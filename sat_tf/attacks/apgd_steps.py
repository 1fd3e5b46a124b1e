"""How APGD sets the lengths of its steps, and in L1 their sparsity."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sat_tf.attacks import geometry

# Share of the coordinates that the first L1 step moves; how the share and the step then shrink.
_FIRST_SHARE, _SHRINK, _SHARE_DROP, _MIN_STEP = 0.2, 1.5, 0.95, 0.1


class Control(NamedTuple):
    """What a checkpoint decides.

    Attributes:
      back: where an image goes back to its best point, bool [N].
      changes: for entries of the state, the values at the first point of a stage and those after a
        checkpoint, [N] each.
    """

    back: tf.Tensor
    changes: dict[str, tuple[tf.Tensor, tf.Tensor]]


def halved(
    state: dict[str, tf.Tensor], radius: tf.Tensor, window: tf.Tensor, rho: float
) -> Control:
    """Halves steps that oscillate or no longer help.

    Args:
      state: of APGD; "rises" since the last checkpoint, "halved" and "checked_loss" at it.
      radius: of the balls in pixels, [N].
      window: int32 [N], iterations since the last checkpoint.
      rho: share of raising iterations up to which the step is halved.

    Source: Croce and Hein, arXiv 2003.01690, section 3.2, conditions 1 and 2.
    """
    oscillates = state["rises"] <= rho * tf.cast(window, tf.float32)
    stagnates = ~state["halved"] & (state["checked_loss"] >= state["best_loss"])
    halve = oscillates | stagnates
    size = state["step_size"]
    changes = {
        "step_size": (2.0 * radius, tf.where(halve, 0.5 * size, size)),
        "halved": (True, halve),
    }
    return Control(halve, changes)


def sparsified(state: dict[str, tf.Tensor], radius: tf.Tensor, blank: tf.Tensor) -> Control:
    """Fits the share of the coordinates that L1 steps move to what the best points changed.

    Args:
      state: of APGD; "support" is the number of changed coordinates at the last checkpoint.
      radius: of the balls in pixels, [N].
      blank: bool [N], where the best point tells nothing about the share: .2 is taken.

    Source: Croce and Hein, arXiv 2103.01208, algorithm 1.
    """
    changed = tf.cast(state["best"] != state["images"], tf.float32)
    support = tf.reduce_sum(changed, list(range(1, changed.shape.rank)))
    dimension = float(np.prod(state["images"].shape[1:]))
    sparser = support < _SHARE_DROP * state["support"]
    smaller = tf.maximum(state["step_size"] / _SHRINK, _MIN_STEP * radius)
    share = support / dimension / _SHRINK
    changes = {
        "step_size": (radius, tf.where(sparser, radius, smaller)),
        "share": (tf.where(blank, _FIRST_SHARE, share), share),
        "support": (tf.where(blank, dimension, support), support),
    }
    return Control(sparser, changes)


def sparse_direction(gradient: tf.Tensor, share: float | tf.Tensor) -> tf.Tensor:
    """Computes `t / |t|_1`, `t` the signs of the largest coordinates of the gradient.

    Args:
      gradient: float32 [N, H, W, C].
      share: the share of the coordinates to keep, a scalar or float32 [N], rounded up; one at
        least is kept.

    Source: Croce and Hein, arXiv 2103.01208, section 3.2.
    """
    size = tf.reshape(tf.abs(gradient), [tf.shape(gradient)[0], -1])
    dimension = tf.shape(size)[1]
    kept = tf.cast(tf.math.ceil(share * tf.cast(dimension, tf.float32)), tf.int32)
    kept = tf.broadcast_to(kept, tf.shape(size)[:1])
    order = tf.sort(size, 1, "DESCENDING")
    smallest = tf.gather(order, tf.clip_by_value(kept - 1, 0, dimension - 1), batch_dims=1)
    signs = tf.where(tf.abs(gradient) >= geometry.per_image(smallest), tf.sign(gradient), 0.0)
    return tf.math.divide_no_nan(signs, geometry.per_image(geometry.norms(signs, "l1")))
