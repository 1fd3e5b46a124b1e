"""PGD as the paper evaluates it: every image gets every step, and every iterate is judged."""

from collections.abc import Callable

import tensorflow as tf

from sat_tf.attacks import losses, stepped
from sat_tf.attacks.pgd import PGD


class Trajectory:
    """Runs PGD to its last step whatever happens, and notes which iterates are misclassified.

    The iterates are those of `pgd`: each is `pgd.moved` along the gradient of `pgd.evaluated`.

    With a fixed start and step size PGD-10 is the beginning of PGD-200, so one run of `pgd.steps`
    steps holds the verdict of every shorter attack: column `k` of the state's `wrong` is the
    verdict on the iterate after `k` steps (column 0: the random start), and "any iterate" up to
    `k` is a running maximum over the columns.

    It keeps the protocol of a stepped attack (one evaluation of the network a step), except that
    it reports an image as broken only once all steps are done: no slot is left early, because the
    iterate that counts in the paper is the last one. An evaluation gives the verdict on an iterate
    and the way to the next, so `pgd.steps` steps take `pgd.steps + 1` evaluations.

    `adversarial` is the first misclassified iterate, or the last iterate where there is none.

    Args:
      pgd: the attack, whose largest number of steps is run.

    Raises:
      ValueError: batch norm with the batch's own statistics, where images would touch each other.
    """

    takes_gradients = True

    def __init__(self, pgd: PGD):
        if pgd.batch_norm != "inference":
            raise ValueError(
                f"batch_norm is {pgd.batch_norm!r}; an evaluation attacks the network as it "
                "predicts: use 'inference'"
            )
        self.pgd = pgd
        self.name = f"pgd-{pgd.steps}"
        self.norm, self.epsilon = pgd.norm, pgd.epsilon
        self.num_steps = pgd.steps + 1

    def start(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, logits
    ) -> stepped.State:
        """Returns the state of images that have not been attacked yet."""
        del logits
        iterate = self.pgd.start(images, seeds)
        return stepped.begin(
            images,
            labels,
            seeds,
            iterate=iterate,
            wrong=tf.zeros([tf.shape(labels)[0], self.num_steps], tf.bool),
        )

    def step(self, network: Callable[..., tf.Tensor], state: stepped.State) -> stepped.State:
        """Judges the iterate of every image and moves on to the next one."""
        iterate, step, labels = state["iterate"], state["step"], state["labels"]
        logits, gradient = self.pgd.evaluated(network, iterate, labels)
        moved = self.pgd.moved(iterate, gradient, state["images"])
        misses = losses.misclassified(logits, labels)
        column = tf.one_hot(step, self.num_steps, on_value=True, off_value=False, dtype=tf.bool)
        wrong = state["wrong"] | (column & misses[:, None])
        fooled_before = tf.reduce_any(state["wrong"], 1)
        last = step + 1 >= self.num_steps
        return state | {
            "step": step + 1,
            "broken": last & tf.reduce_any(wrong, 1),
            "adversarial": stepped.where(fooled_before, state["adversarial"], iterate),
            "iterate": stepped.where(last, iterate, moved),
            "wrong": wrong,
        }
