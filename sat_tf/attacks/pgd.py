"""Projected gradient descent, the attack inside adversarial training."""

import copy
from collections.abc import Callable

import keras
import tensorflow as tf

from sat_tf import specs
from sat_tf.attacks import apgd_steps, geometry, losses, noise, scaling, soft_labels

# Share of the coordinates that a step in L1 changes.
_L1_SHARE = 0.05
BATCH_NORMS = ("inference", "batch")


class PGD:
    """Searches inside a norm ball for the image that the network gets most wrong.

    Start: `x_0 = P(x + u)`, `u` uniform in the ball of the norm.
    Step: `x_k = P(x_{k-1} + step_size * s(grad_x sum_i CE(f(x_{k-1}), y)_i))`, where `s` is
    the sign for L-inf, the gradient over its L2 norm for L2, and for L1 `t / |t|_1`, `t` the signs
    of the largest twentieth of the gradient's coordinates, those at the end of the range that they
    point to left aside: the steepest step in L1 would change a single one.
    Project: `P` projects on the ball of radius epsilon around `x` and on the range [0, 255].
    The result is the last iterate; no gradient flows through it. Memory does not grow with the
    number of steps. FGSM with random start is PGD with one step.

    Source: Madry et al., arXiv 1706.06083, section 2.1; Xie et al., arXiv 2006.14536, section 3.
    L1: Croce and Hein, arXiv 2103.01208, section 3: the exact projection on ball and pixel range,
    and steps of many coordinates; they fit the share from checkpoint to checkpoint, beginning in
    training with the twentieth that is kept here. Ends of the range are left aside as in Tramer and
    Boneh, arXiv 1904.13000, section 3.
    Deviation: the released evaluation code of the latter leaves the random start outside the pixel
    range until the first step; here it is projected at once.

    Args:
      epsilon: radius of the ball in pixels, at least 0.
      step_size: length of a step in pixels, above 0 (any value where epsilon is 0).
      steps: number of gradient steps, at least 1.
      random_start: whether to start at a random point of the ball, else at the image; a number
        between 0 and 1 is the probability of the random start, drawn once a batch (once an image
        where every image has its own seed). The released training class has 0.8.
      norm: "linf", "l2" or "l1".
      batch_norm: "inference" uses the moving statistics, as the released code; "batch" uses the
        batch's own, as the weight update does. Neither changes them.

    Raises:
      ValueError: an epsilon below 0 or not a number, a step size that is not above 0, fewer than 1
        step, a probability outside [0, 1], an unknown norm or mode.
    """

    def __init__(
        self,
        *,
        epsilon: float,
        step_size: float,
        steps: int,
        random_start: bool | float = True,
        norm: str = "linf",
        batch_norm: str = "inference",
    ):
        if not epsilon >= 0:
            raise ValueError(f"epsilon is {epsilon}; give a radius in pixels (0-255), at least 0")
        if steps < 1:
            raise ValueError(
                f"steps is {steps}; PGD needs at least 1 (use the attack 'none' for 0)"
            )
        if epsilon > 0 and not step_size > 0:
            raise ValueError(f"step_size is {step_size}; give a length in pixels above 0")
        specs.one_of("batch_norm", batch_norm, BATCH_NORMS)
        self.epsilon = float(epsilon)
        self.step_size = float(step_size)
        self.steps = int(steps)
        if not 0 <= random_start <= 1:
            raise ValueError(f"random_start is {random_start}; give a probability from 0 to 1")
        self.random_start = random_start
        self.norm = geometry.check_norm(norm)
        self.batch_norm = batch_norm

    def __call__(
        self,
        network: Callable[..., tf.Tensor],
        images: tf.Tensor,
        labels: tf.Tensor,
        seed: tf.Tensor | None = None,
        *,
        share: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns adversarial images.

        Args:
          network: maps pixels to logits [N, C] and takes `training`.
          images: float32 [N, H, W, C] in pixels.
          labels: int [N], or float [N, C], a probability for each class.
          seed: int32 [2] or [N, 2]; None draws one from TensorFlow's global generator.
          share: of epsilon and of the step size, float32 [] from 0 to 1; None is all of them.
        """
        images = tf.convert_to_tensor(images, tf.float32)
        attack = copy.copy(self)
        if share is not None:
            attack.epsilon, attack.step_size = share * self.epsilon, share * self.step_size
        adversarial = attack.start(images, seed)
        if self.steps == 1:
            adversarial = attack.step(network, adversarial, images, labels)
        else:
            # A loop in the graph: memory and compile time do not depend on the number of steps.
            (adversarial,) = tf.while_loop(
                lambda _: True,
                lambda iterate: (attack.step(network, iterate, images, labels),),
                (adversarial,),
                parallel_iterations=1,
                maximum_iterations=self.steps,
            )
        return tf.stop_gradient(adversarial)

    def start(self, images: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """Returns the first iterate."""
        if not self.random_start:
            return images
        seed = noise.fresh_seed() if seed is None else seed
        if self.norm == "linf":
            offset = noise.uniform(seed, images, -self.epsilon, self.epsilon)
        else:
            ball = noise.unit_ball if self.norm == "l2" else noise.l1_unit_ball
            offset = self.epsilon * ball(seed, images)
        if self.random_start < 1:
            offset *= tf.cast(self._uniform(seed) < self.random_start, tf.float32)
        return self.project(images + offset, images)

    def _uniform(self, seed):
        """Draws the number in [0, 1) that decides on a random start, of the batch or each image."""
        seed = noise.fold_in(seed, 2)  # 0 and 1 are those of the offset
        if seed.shape.rank == 1:
            return noise.unit(seed, [])
        return noise.uniform(seed, tf.zeros([tf.shape(seed)[0], 1, 1, 1]), 0.0, 1.0)

    def step(
        self, network: Callable[..., tf.Tensor], iterate: tf.Tensor, images: tf.Tensor, labels
    ) -> tf.Tensor:
        """Returns the next iterate."""
        _, gradient = self.evaluated(network, iterate, labels)
        return self.moved(iterate, gradient, images)

    def moved(self, iterate: tf.Tensor, gradient: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Returns the points one step further along the gradients."""
        if self.norm == "l1":
            ends = tf.where(gradient > 0, geometry.PIXEL_MAX, geometry.PIXEL_MIN)
            movable = tf.where(iterate == ends, 0.0, gradient)
            direction = apgd_steps.sparse_direction(movable, _L1_SHARE)
        else:
            direction = geometry.steepest_direction(gradient, self.norm)
        return self.project(iterate + self.step_size * direction, images)

    def project(self, iterate: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Returns the nearest allowed images."""
        return geometry.project(iterate, images, self.epsilon, self.norm)

    def evaluated(
        self, network: Callable[..., tf.Tensor], iterate: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the logits and the images' gradients of the sum of their losses.

        Each is times a positive number: its image's own, or one for the whole batch where images
        touch each other through the batch's statistics. Only the direction matters to a step. The
        gradient of the logits goes through the network scaled (`scaling.backpropagate`), because in
        a float16 network that of a sure image (a margin of 12 is enough) would underflow to zero:
        no attack, and a network that seems robust.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(iterate)
            logits = tf.cast(self.logits(network, iterate), tf.float32)
        ascent = self.ascent(logits, labels)
        together = self.batch_norm == "batch"
        return logits, scaling.backpropagate(tape, logits, iterate, ascent, together=together)[0]

    def ascent(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns the slope of the loss in the logits, times a positive number as `evaluated`.

        With the batch's own statistics the slopes `S_i (q_i - onehot(y_i))` of `losses.ascent` keep
        their ratios: each is over the largest S, by logarithms, as S is 1e-87 at a lead of 200.
        """
        if soft_labels.are_soft(labels):
            slope, share = soft_labels.ascent(logits, labels)
        else:
            slope = losses.ascent(logits, labels)
            share = tf.math.log_sigmoid(-losses.log_odds(logits, labels))
        if self.batch_norm == "inference":
            return slope
        share = tf.where(tf.math.is_finite(share), share, share.dtype.min)
        return slope * tf.exp(share - tf.reduce_max(share))[:, None]

    def logits(self, network: Callable[..., tf.Tensor], iterate: tf.Tensor) -> tf.Tensor:
        """Returns the network's outputs in the chosen batch-norm mode, changing no variable."""
        if self.batch_norm == "inference":
            return network(iterate, training=False)
        # The scope catches the updates of the moving statistics and they are dropped with it.
        with keras.StatelessScope():
            return network(iterate, training=True)
