"""PGD with restarts: an image stands only if no iterate of any restart breaks it."""

import tensorflow as tf

from sat_tf.attacks import losses, noise, stepped
from sat_tf.attacks.pgd import PGD


class RestartedPGD(stepped.Stepped):
    """Runs `PGD` several times from random points and keeps the worst, image by image.

    The iterates of a run are those of `pgd.PGD`: `x_0 = P(x + u)` and
    `x_k = P(x_{k-1} + step_size * d(grad))`. An image is broken as soon as one of the `steps + 1`
    iterates of one of the runs is misclassified; elsewhere the iterate of highest cross-entropy
    over all runs is kept. Never worst per batch: one image's run does not touch another's.

    Source: Madry et al., arXiv 1706.06083. Deviation: the usual report looks at the last iterate
    only; looking at each can only find more.

    Args:
      epsilon: radius of the ball in pixels, at least 0.
      step_size: length of a step in pixels, above 0 (any value where epsilon is 0).
      steps: number of gradient steps of a run, at least 1.
      restarts: number of runs; each takes steps + 1 evaluations.
      random_start: whether runs start at random points; without, one run is all there is.
      norm: "linf", "l2" or "l1".
      eot_steps: evaluations averaged in a gradient, for random networks.

    Raises:
      ValueError: an argument outside these bounds, or restarts of a run without random start.
    """

    def __init__(
        self,
        *,
        epsilon: float,
        step_size: float,
        steps: int,
        restarts: int = 1,
        random_start: bool = True,
        norm: str = "linf",
        eot_steps: int = 1,
    ):
        stepped.check_counts(steps=steps, restarts=restarts, eot_steps=eot_steps)
        if restarts > 1 and not random_start:
            raise ValueError(
                f"restarts is {restarts} without a random start: all runs would be the same; "
                "use restarts=1 or random_start=True"
            )
        self.pgd = PGD(
            epsilon=epsilon, step_size=step_size, steps=steps, random_start=random_start, norm=norm
        )
        self.epsilon, self.norm = self.pgd.epsilon, norm
        self.steps, self.eot_steps = steps, eot_steps
        self.name = f"pgd-{steps}" if restarts == 1 else f"pgd-{steps}x{restarts}"
        self.num_steps = restarts * (steps + 1)

    def start(self, images, labels, seeds, logits) -> stepped.State:
        """Returns the state of images that took no step yet (see `stepped.SteppedAttack`)."""
        del logits
        state = stepped.begin(
            images,
            labels,
            seeds,
            iterate=images,
            best_loss=tf.fill(tf.shape(images)[:1], -float("inf")),
        )
        return {**state, "iterate": self.random_point(state)}

    def step(self, network: stepped.Network, state: stepped.State) -> stepped.State:
        """Returns the state after one more evaluation (see `stepped.SteppedAttack`)."""
        point, labels = state["iterate"], state["labels"]
        logits, loss, gradient = losses.loss_and_gradient(
            network, point, lambda logits: self.raised(logits, state), self.eot_steps
        )
        better = loss > state["best_loss"]
        state = stepped.advance(
            state,
            self.num_steps,
            point,
            losses.misclassified(logits, labels),
            stepped.where(better, point, state["adversarial"]),
            best_loss=tf.where(better, loss, state["best_loss"]),
        )
        return {**state, "iterate": self.next_point(state, point, gradient)}

    def raised(self, logits: tf.Tensor, state: stepped.State) -> tf.Tensor:
        """Returns what the attack raises, one value an image."""
        return losses.cross_entropy(logits, state["labels"])

    def next_point(self, state, point, gradient) -> tf.Tensor:
        """Returns the next iterates: a step further, or the start of the next run."""
        moved = self.pgd.moved(point, gradient, state["images"])
        fresh = state["step"] % (self.steps + 1) == 0
        if self.num_steps == self.steps + 1:
            return moved
        return stepped.restarted(fresh, lambda: self.random_point(state), moved)

    def random_point(self, state: stepped.State) -> tf.Tensor:
        """Returns starts that depend on the images' seeds and steps alone."""
        images, shape = state["images"], list(state["images"].shape[1:])
        if not self.pgd.random_start or self.epsilon == 0:
            return images
        if self.norm == "linf":
            offset = 2.0 * noise.hashed_uniform(state["seeds"], state["step"], shape) - 1.0
        else:
            ball = noise.hashed_unit_ball if self.norm == "l2" else noise.hashed_l1_unit_ball
            offset = ball(state["seeds"], state["step"], shape)
        return self.pgd.project(images + self.epsilon * offset, images)
