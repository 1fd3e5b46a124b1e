"""Auto-PGD: projected gradient ascent that sets its own step size, on three losses."""

import tensorflow as tf

from sat_tf.attacks import apgd_schedule, apgd_steps, geometry, losses, starts, stepped

NAMES = {"ce": "apgd-ce", "dlr": "apgd-dlr", "dlr-targeted": "apgd-t"}

# Weight of the new direction against the previous move.
_MOMENTUM = 0.75


class APGD(stepped.Stepped):
    """Raises a loss in a norm ball with momentum, halving the step where progress ends.

    Start: `x_0 = P(x + eps * u / |u|)`, `u` uniform in [-1, 1] (L-inf) or normal (L2); normal with
    a deviation of the pixel range, projected, for L1.
    Step: `z = P(x_k + s * d(grad))`, `x_{k+1} = P(x_k + .75 (z - x_k) + .25 (x_k - x_{k-1}))`;
    the first step is `z` itself. `d` is the sign (L-inf) or the gradient over its norm (L2).
    Step size: `s = 2 eps` at first. At checkpoints (after int(.22 n) iterations, then at gaps that
    shrink by int(.03 n) down to int(.06 n)) an image's `s` is halved, and it goes back to its best
    point with that point's gradient, if (a) at most `rho` of the iterations since the last
    checkpoint raised the loss, or (b) `s` was not halved at the last checkpoint and the highest
    loss has not moved since.
    L1: `x_{k+1} = P(x_k + s * t / |t|_1)`, `t` the signs of the largest gradient coordinates: .2 of
    them at first, then at checkpoints (every int(.04 n)) as many as the best point changes, over
    1.5. `s = eps` whenever that number fell by 5 % (and back to the best point), else s / 1.5 down
    to eps / 10. No momentum. With `wide` a run has three stages, at radii 3 eps, 2 eps and eps (30,
    30 and 40 % of the iterations), each started from the last one's best point.
    An image is broken as soon as one iterate, the start included, is misclassified; that iterate is
    returned. A run takes n + 1 evaluations (n + 3 with `wide`).

    Source: Croce and Hein, arXiv 2003.01690, algorithm 1 (L-inf, L2) and 2103.01208, algorithm 1
    (L1). As in the AutoAttack code and unlike the paper: the first loss after the start counts as
    raised if it is above 0 rather than above the loss at the start; (b) does not apply at the first
    checkpoint; with `wide` the first share is that of the start's changes, over 1.5. Unlike that
    code, which goes on: the first misclassified iterate is kept, so that the image can leave; the
    verdict is the same. Unlike both: the cross-entropy of an image that float32's softmax is sure
    of keeps its order, and its gradient its direction (`losses.cross_entropy`).

    Args:
      epsilon: radius of the ball in pixels, at least 0.
      norm: "linf", "l2" or "l1".
      loss: "ce" (cross-entropy), "dlr" (3 classes at least) or "dlr-targeted" (4 at least).
      iterations: number of gradient steps of a run, at least 1.
      restarts: number of runs, each from another random start.
      num_targets: for "dlr-targeted", how many classes are aimed at, `restarts` runs each, from the
        second largest logit of the clean image downwards; 0 for the other losses.
      rho: share of raising iterations up to which the step is halved.
      eot_steps: evaluations averaged in a gradient, for random networks.
      wide: for L1, whether to search at larger radii first.

    Raises:
      ValueError: an argument outside these bounds.
    """

    def __init__(
        self,
        *,
        epsilon: float,
        norm: str = "linf",
        loss: str = "ce",
        iterations: int = 100,
        restarts: int = 1,
        num_targets: int | None = None,
        rho: float = 0.75,
        eot_steps: int = 1,
        wide: bool = False,
    ):
        stepped.check_counts(iterations=iterations, restarts=restarts, eot_steps=eot_steps)
        self.epsilon = stepped.check_epsilon(epsilon)
        self.norm = geometry.check_norm(norm)
        self.loss_function = losses.loss_function(loss)
        self.loss, self.name = loss, NAMES[loss]
        self.num_targets = stepped.check_targets(num_targets, loss == "dlr-targeted")
        if wide and norm != "l1":
            raise ValueError(f"wide=True is for norm='l1', and norm is {norm!r}; leave it out")
        self.restarts, self.eot_steps, self.rho, self.wide = restarts, eot_steps, rho, wide
        runs = restarts * max(self.num_targets, 1)
        stages = apgd_schedule.WIDE_STAGES if wide else apgd_schedule.ONE_STAGE
        self.schedule = apgd_schedule.schedule(iterations, runs, norm, stages)
        self.num_steps = len(self.schedule["first"])

    def start(self, images, labels, seeds, logits) -> stepped.State:
        """Returns the state of images that took no step yet (see `stepped.SteppedAttack`)."""
        zeros = tf.zeros_like(labels, tf.float32)
        state = stepped.begin(
            images,
            labels,
            seeds,
            iterate=images,
            previous=images,
            best=images,
            gradient=tf.zeros_like(images),
            best_gradient=tf.zeros_like(images),
            best_loss=zeros,
            last_loss=zeros,
            checked_loss=zeros,
            rises=zeros,
            halved=tf.ones_like(labels, tf.bool),
            step_size=zeros,
            share=zeros,
            support=zeros,
        )
        if self.num_targets:
            state["targets"] = losses.ranked_classes(logits, self.num_targets)
        return {**state, "iterate": self.random_start(state, self.radius(state))}

    def step(self, network: stepped.Network, state: stepped.State) -> stepped.State:
        """Returns the state after one more evaluation (see `stepped.SteppedAttack`)."""
        point, radius = state["iterate"], self.radius(state)
        state, hit = self.evaluated(network, state)
        hit &= self.at("counts", state)
        # Step sizes are set before the move: at a checkpoint the move already starts from the best
        # point, with that point's gradient and half the step.
        state = self.adapted(state, radius)
        best = state["best"]
        if self.wide:  # points of a wider stage may lie outside the ball
            best = stepped.where(self.at("counts", state), best, state["adversarial"])
        # `point` is what was evaluated; `adapted` may have taken "iterate" back elsewhere.
        state = stepped.advance(state, self.num_steps, point, hit, best)
        # The count of steps has moved: the schedule is now read at the evaluation to come.
        return self.proposed(state)

    def at(self, column: str, state: stepped.State) -> tf.Tensor:
        """Reads the schedule at every image's step, [N]."""
        row = tf.minimum(state["step"], self.num_steps - 1)
        return tf.gather(tf.constant(self.schedule[column]), row)

    def radius(self, state: stepped.State) -> tf.Tensor:
        """Returns the radius of every image's ball at its step, [N] in pixels."""
        return self.epsilon * self.at("factor", state)

    def evaluated(self, network, state) -> tuple[stepped.State, tf.Tensor]:
        """Evaluates the iterates; returns the state with losses and gradients, and the hits."""
        labels, targets = state["labels"], None
        if self.num_targets:
            rank = self.at("run", state) // self.restarts
            targets = tf.gather(state["targets"], rank, batch_dims=1)
        logits, loss, gradient = losses.loss_and_gradient(
            network,
            state["iterate"],
            lambda logits: self.loss_function(logits, labels, targets),
            self.eot_steps,
        )
        first = self.at("first", state)
        better = first | (loss > state["best_loss"])
        rises = state["rises"] + tf.cast(loss > state["last_loss"], tf.float32)
        evaluated = {
            "gradient": gradient,
            "best": stepped.where(better, state["iterate"], state["best"]),
            "best_gradient": stepped.where(better, gradient, state["best_gradient"]),
            "best_loss": tf.where(better, loss, state["best_loss"]),
            # The first comparison of a run is with 0, as in the AutoAttack code.
            "last_loss": tf.where(first, 0.0, loss),
            "checked_loss": tf.where(first, loss, state["checked_loss"]),
            "rises": tf.where(first, 0.0, rises),
        }
        return {**state, **evaluated}, losses.misclassified(logits, labels)

    def adapted(self, state: stepped.State, radius: tf.Tensor) -> stepped.State:
        """Sets the step sizes at first iterates and at checkpoints."""
        first, check = self.at("first", state), self.at("window", state) > 0
        if self.norm == "l1":
            blank = self.at("fresh", state) & (not self.wide)
            back, entries = apgd_steps.sparsified(state, radius, blank)
        else:
            back, entries = apgd_steps.halved(state, radius, self.at("window", state), self.rho)
        back &= check
        changes = {
            key: tf.where(first, begin, tf.where(check, kept, state[key]))
            for key, (begin, kept) in entries.items()
        }
        return {
            **state,
            **changes,
            "rises": tf.where(check, 0.0, state["rises"]),
            "checked_loss": tf.where(check, state["best_loss"], state["checked_loss"]),
            "iterate": stepped.where(back, state["best"], state["iterate"]),
            "gradient": stepped.where(back, state["best_gradient"], state["gradient"]),
            # The previous point stays: after going back, the move is measured from it.
        }

    def proposed(self, state: stepped.State) -> stepped.State:
        """Sets the points of the next evaluation."""
        radius = self.radius(state)
        iterate = self.moved(state, radius)
        # A later stage goes on from the best point, a new run from a random one.
        if self.wide:
            best = self.project(state["best"], state, radius)
            iterate = stepped.where(self.at("first", state), best, iterate)
        if self.schedule["fresh"].sum() > 1:
            fresh = self.at("fresh", state)
            iterate = stepped.restarted(fresh, lambda: self.random_start(state, radius), iterate)
        return {**state, "iterate": iterate, "previous": state["iterate"]}

    def moved(self, state: stepped.State, radius: tf.Tensor) -> tf.Tensor:
        """Returns the points one step further along the gradients."""
        here, size = state["iterate"], geometry.per_image(state["step_size"])
        if self.norm == "l1":
            direction = apgd_steps.sparse_direction(state["gradient"], state["share"])
            return self.project(here + size * direction, state, radius)
        direction = geometry.steepest_direction(state["gradient"], self.norm)
        # Projected before momentum is added, and again after: algorithm 1 has both projections.
        ahead = self.project(here + size * direction, state, radius)
        with_momentum = here + _MOMENTUM * (ahead - here)
        with_momentum += (1 - _MOMENTUM) * (here - state["previous"])
        with_momentum = self.project(with_momentum, state, radius)
        return stepped.where(self.at("second", state), ahead, with_momentum)

    def random_start(self, state: stepped.State, radius: tf.Tensor) -> tf.Tensor:
        """Returns points that depend on the images' seeds and steps alone."""
        images = state["images"]
        offset = starts.random_direction(state, self.norm)
        if self.norm == "l1":
            offset *= geometry.PIXEL_MAX - geometry.PIXEL_MIN
        else:
            offset = geometry.scaled(offset, radius, self.norm)
        return self.project(images + offset, state, radius)

    def project(self, points, state, radius) -> tf.Tensor:
        """Returns the nearest allowed points."""
        return geometry.project(points, state["images"], radius, self.norm)
