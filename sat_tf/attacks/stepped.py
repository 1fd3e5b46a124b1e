"""Attacks as state machines over single images: what packed evaluation drives.

An attack has one state an image. A step costs one evaluation of the network for the whole batch,
whatever step each image is at, so the images of a batch may have started at different times: an
image whose fate is known gives its slot to the next one. Nothing that an image's state becomes
depends on the other images of the batch.
"""

import abc
from collections.abc import Callable
from typing import Protocol

import tensorflow as tf

from sat_tf.attacks import geometry, losses, noise, soft_labels

Network = Callable[..., tf.Tensor]
State = dict[str, tf.Tensor]


class SteppedAttack(Protocol):
    """An attack that can be interrupted after every evaluation of the network.

    Attributes:
      name: what reports call it, such as "apgd-ce".
      norm: one of `geometry.NORMS`.
      epsilon: radius of the ball in pixels.
      num_steps: the most steps an image can take, restarts and targets included.
      takes_gradients: whether a step takes the network's gradient, not only its logits.
    """

    name: str
    norm: str
    epsilon: float
    num_steps: int
    takes_gradients: bool

    def start(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, logits: tf.Tensor
    ) -> State:
        """Returns the state of images that took no step yet, without calling the network.

        Args:
          images: clean images, float32 [N, H, W, C] in pixels.
          labels: int32 [N].
          seeds: int32 [N, 2], one for each image.
          logits: float32 [N, classes], the network's outputs for the clean images.

        Returns:
          Tensors of leading dimension N, whose shapes and dtypes `step` keeps. Every state has
          "images", "labels", "seeds", "step" (int32 [N], steps taken), "broken" (bool [N]) and
          "adversarial" (float32 [N, H, W, C]): the point that broke the image, inside the ball
          and the pixel range, or else the best the attack has found in there so far.
        """
        ...

    def step(self, network: Network, state: State) -> State:
        """Returns the state after one more evaluation of every image.

        A broken image keeps "broken" and "adversarial", and so does one that took all its steps.
        """
        ...


class Stepped(abc.ABC):
    """Makes a stepped attack callable like any other: `attack(network, images, labels, seed)`.

    Attributes:
      norms: for which the attack is defined.
      loss: the name of a loss (see `losses.MIN_CLASSES`), which says how few classes are too few.
      num_targets: how many classes the attack aims at, one after the other.
    """

    name: str
    norm: str
    epsilon: float
    num_steps: int
    norms: tuple[str, ...] = geometry.NORMS
    takes_gradients = True
    loss = "ce"
    num_targets = 0

    def __call__(
        self,
        network: Network,
        images: tf.Tensor,
        labels: tf.Tensor,
        seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns adversarial images: where an image broke, the point that broke it first.

        Elsewhere it is the best point the attack has found. The loop ends as soon as every image
        is broken. Inside a `tf.function` it is a loop of the graph.

        Args:
          network: maps pixels to logits [N, classes] and takes `training`.
          images: float32 [N, H, W, C] in pixels.
          labels: int [N]; soft ones [N, C] are attacked as their most probable class.
          seed: int32 [2] or [N, 2] (one an image); None draws one from TensorFlow's generator.
        """
        images = tf.convert_to_tensor(images, tf.float32)
        labels = soft_labels.classes(labels)
        seed = noise.fresh_seed() if seed is None else tf.convert_to_tensor(seed, tf.int32)
        if seed.shape.rank == 1:
            shape = [tf.shape(images)[0], 2]
            seed = tf.bitcast(noise.bits(seed, shape), tf.int32)
        state = self.start(images, labels, seed, network(images, training=False))
        state = tf.while_loop(
            lambda state: tf.reduce_any(unfinished(state, self.num_steps)),
            lambda state: (self.step(network, state),),
            (state,),
            parallel_iterations=1,
            maximum_iterations=self.num_steps,
        )[0]
        return tf.stop_gradient(state["adversarial"])

    def unavailable(self, num_classes: int) -> str | None:
        """Returns why the attack cannot run with that many classes, or None where it can."""
        return losses.too_few_classes(self.loss, num_classes) or too_many_targets(
            self.num_targets, num_classes
        )

    @abc.abstractmethod
    def start(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, logits: tf.Tensor
    ) -> State:
        """Returns the state of images that took no step yet (see `SteppedAttack`)."""

    @abc.abstractmethod
    def step(self, network: Network, state: State) -> State:
        """Returns the state after one more evaluation (see `SteppedAttack`)."""


def begin(images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, **more: tf.Tensor) -> State:
    """Returns the part of the first state that all attacks share, and what else an attack keeps."""
    images = tf.convert_to_tensor(images, tf.float32)
    batch = tf.shape(images)[:1]
    return {
        "images": images,
        "labels": tf.cast(labels, tf.int32),
        "seeds": tf.cast(seeds, tf.int32),
        "step": tf.zeros(batch, tf.int32),
        "broken": tf.zeros(batch, tf.bool),
        "adversarial": images,
        **{name: tf.convert_to_tensor(value) for name, value in more.items()},
    }


def unfinished(state: State, num_steps: int) -> tf.Tensor:
    """Tells for every image whether it still stands and has steps left, as bool [N]."""
    return ~state["broken"] & (state["step"] < num_steps)


def advance(
    state: State, num_steps: int, point: tf.Tensor, hit: tf.Tensor, fallback: tf.Tensor, **more
) -> State:
    """Returns the state one step later.

    Args:
      state: the state before.
      num_steps: the attack's.
      point: the points just evaluated.
      hit: bool [N], where `point` breaks the image.
      fallback: what "adversarial" holds where nothing has broken the image.
      **more: the attack's own entries that changed.
    """
    active = unfinished(state, num_steps)
    adversarial = where(hit, point, fallback)
    return {
        **state,
        **more,
        "step": state["step"] + 1,
        "broken": state["broken"] | (active & hit),
        "adversarial": where(active, adversarial, state["adversarial"]),
    }


def restarted(fresh: tf.Tensor, start: Callable[[], tf.Tensor], moved: tf.Tensor) -> tf.Tensor:
    """Returns `moved`, and `start()` for the images whose next run begins, `fresh` [N].

    Starts cost random numbers and projections, so they are made only where some image needs one.
    """
    return tf.cond(tf.reduce_any(fresh), lambda: where(fresh, start(), moved), lambda: moved)


def where(condition: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Chooses whole images: `x[n]` where `condition[n]`, else `y[n]`; x and y of one shape."""
    # The operation of TensorFlow 1 copies rows; that of 2 broadcasts, on a CPU for ten times as
    # much.
    return tf.compat.v1.where(condition, x, y)


def check_epsilon(epsilon: float) -> float:
    """Returns a radius in pixels.

    Raises:
      ValueError: it is negative or not a number.
    """
    if not epsilon >= 0:
        raise ValueError(f"epsilon is {epsilon}; give a radius in pixels (0-255), at least 0")
    return float(epsilon)


def check_counts(**counts: int) -> None:
    """Raises ValueError, by name, for a count that is not a whole number of at least 1."""
    for name, count in counts.items():
        if count != int(count) or count < 1:
            raise ValueError(f"{name} is {count}; give a whole number of at least 1")


def check_targets(num_targets: int | None, targeted: bool) -> int:
    """Returns the number of targets: 9 for a targeted attack unless given, else 0.

    Raises:
      ValueError: targets without a targeted attack, or none with one.
    """
    if not targeted:
        if num_targets:
            raise ValueError(f"num_targets is {num_targets} and the attack aims at no class")
        return 0
    num_targets = 9 if num_targets is None else num_targets
    check_counts(num_targets=num_targets)
    return num_targets


def too_many_targets(num_targets: int, num_classes: int) -> str | None:
    """Returns why a network has too few classes to aim at, or None where it has enough."""
    if num_targets < num_classes:
        return None
    return f"{num_targets} targets need {num_targets + 1} classes and the network has {num_classes}"
