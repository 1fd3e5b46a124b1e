"""Learning rates, and the size of the attack, as functions of the optimiser's step."""

import math

import keras
import tensorflow as tf

NAMES = ("constant", "step", "cosine", "one_cycle", "exponential")


def attack_share(step: tf.Tensor, warmup_steps: int) -> tf.Tensor:
    """Returns the share of epsilon and step size at a step, float32 []: `min(1, t / w)`.

    Training against attacks that grow from nothing, "epsilon warm-up", is what keeps networks
    without batch norm from learning one answer for all images. Source: Debenedetti et al. 2022,
    arXiv 2209.07399, which raises epsilon once an epoch; here it grows with every step.

    Args:
      step: t, the optimiser's steps so far.
      warmup_steps: w, at least 1.
    """
    return tf.minimum(tf.cast(step, tf.float32) / warmup_steps, 1.0)


@keras.saving.register_keras_serializable(package="sat_tf")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up from 0 to the peak, then one of five shapes down.

    With `t` the step, `w` the warm-up's length, `T` the run's and `q = (t - w) / (T - w)`:

    - warm-up (t < w): `peak * (t + 1) / w`
    - constant: `peak`
    - step: `peak * factor^(number of boundaries b with t >= b)`
    - cosine: `peak * (1 + cos(pi q)) / 2` (Loshchilov and Hutter, arXiv 1608.03983)
    - one_cycle: `peak * (1 - q)`, the triangle of Smith, arXiv 1708.07120, used for fast
      adversarial training by Wong et al., arXiv 2001.03994
    - exponential: `peak * factor^floor(t / decay_steps)`, falls counted from the run's first step,
      as EfficientNet's (Tan and Le, arXiv 1905.11946: 0.97 every 2.4 epochs)

    Args:
      name: one of `NAMES`.
      peak: the largest learning rate, for the whole batch as given.
      num_steps: T, optimiser steps in the run.
      warmup_steps: w.
      boundaries: optimiser steps at which "step" falls; increasing.
      factor: what "step" and "exponential" multiply by, 0.1 in the paper.
      decay_steps: steps between two falls of "exponential".

    Raises:
      ValueError: an unknown name, a rate or length out of range, boundaries out of order.
    """

    def __init__(
        self,
        name: str,
        *,
        peak: float,
        num_steps: int,
        warmup_steps: int = 0,
        boundaries: tuple[int, ...] = (),
        factor: float = 0.1,
        decay_steps: int = 1,
    ):
        if name not in NAMES:
            raise ValueError(f"--schedule is {name!r}; use one of: {', '.join(NAMES)}")
        if not peak > 0:
            raise ValueError(f"the learning rate is {peak}; give a number above 0")
        if not 0 <= warmup_steps < num_steps:
            raise ValueError(
                f"the warm-up takes {warmup_steps} of {num_steps} steps; make it shorter than "
                "the run (fewer warm-up epochs or more epochs)"
            )
        if list(boundaries) != sorted(set(boundaries)):
            raise ValueError(f"boundaries are {boundaries}; give increasing, different numbers")
        if decay_steps < 1:
            raise ValueError(f"decay_steps is {decay_steps}; give at least 1")
        self.name, self.peak, self.num_steps = name, peak, num_steps
        self.warmup_steps, self.boundaries, self.factor = warmup_steps, tuple(boundaries), factor
        self.decay_steps = decay_steps

    def __call__(self, step) -> tf.Tensor:
        """Returns the float32 learning rate at an optimiser step."""
        step = tf.cast(step, tf.float32)
        warming = self.peak * (step + 1) / max(self.warmup_steps, 1)
        return tf.where(step < self.warmup_steps, warming, self.peak * self._shape(step))

    def _shape(self, step):
        progress = (step - self.warmup_steps) / (self.num_steps - self.warmup_steps)
        progress = tf.clip_by_value(progress, 0.0, 1.0)
        if self.name == "step":
            passed = tf.reduce_sum(
                tf.cast(step[None] >= tf.constant(self.boundaries, tf.float32), tf.float32)
            )
            return tf.pow(tf.constant(self.factor, tf.float32), passed)
        if self.name == "exponential":
            return tf.pow(tf.constant(self.factor, tf.float32), step // self.decay_steps)
        if self.name == "cosine":
            return (1 + tf.cos(math.pi * progress)) / 2
        if self.name == "one_cycle":
            return 1 - progress
        return tf.ones_like(step)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "name": self.name,
            "peak": self.peak,
            "num_steps": self.num_steps,
            "warmup_steps": self.warmup_steps,
            "boundaries": self.boundaries,
            "factor": self.factor,
            "decay_steps": self.decay_steps,
        }
