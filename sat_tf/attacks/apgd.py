"""Auto-PGD: projected gradient ascent that sets its own step size, on three losses."""

import numpy as np
import tensorflow as tf

from sat_tf.attacks import geometry, losses, noise, stepped

NAMES = {"ce": "apgd-ce", "dlr": "apgd-dlr", "dlr-targeted": "apgd-t"}

# Weight of the new direction against the previous move.
_MOMENTUM = 0.75
# Radii and shares of the iterations of multi-epsilon L1 (2103.01208, section 3.4).
_WIDE_STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
# Share of the coordinates that the first L1 step moves; how the share and the step then shrink.
_FIRST_SHARE, _SHRINK, _SHARE_DROP, _MIN_STEP = 0.2, 1.5, 0.95, 0.1


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
    raised if it is above 0 rather than above the loss at the start, and (b) does not apply at the
    first checkpoint. Unlike that code, which goes on: the first misclassified iterate is kept, so
    that the image can leave; the verdict is the same.

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
        self.restarts, self.eot_steps, self.rho = restarts, eot_steps, rho
        runs = restarts * max(self.num_targets, 1)
        stages = _WIDE_STAGES if wide else ((1.0, 1.0),)
        self.schedule = schedule(iterations, runs, norm, stages)
        self.num_steps = len(self.schedule["first"])

    def unavailable(self, num_classes: int) -> str | None:
        """Returns why the attack cannot run with that many classes, or None where it can."""
        return losses.too_few_classes(self.loss, num_classes) or stepped.too_many_targets(
            self.num_targets, num_classes
        )

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
        state = self.adapted(state, radius)
        # Points of a wider stage may lie outside the ball.
        best = stepped.where(self.at("counts", state), state["best"], state["adversarial"])
        state = stepped.advance(state, self.num_steps, point, hit, best)
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
            shrink, changes = self._sparser(state, radius, first)
        else:
            shrink, changes = self._halved(state, radius)
        back = check & shrink
        for key, (begin, kept) in changes.items():
            changes[key] = tf.where(first, begin, tf.where(check, kept, state[key]))
        return {
            **state,
            **changes,
            "rises": tf.where(check, 0.0, state["rises"]),
            "checked_loss": tf.where(check, state["best_loss"], state["checked_loss"]),
            "iterate": stepped.where(back, state["best"], state["iterate"]),
            "gradient": stepped.where(back, state["best_gradient"], state["gradient"]),
            # The previous point stays: after going back, the move is measured from it.
        }

    def _halved(self, state, radius):
        window = tf.cast(self.at("window", state), tf.float32)
        oscillates = state["rises"] <= self.rho * window
        stagnates = ~state["halved"] & (state["checked_loss"] >= state["best_loss"])
        halve = oscillates | stagnates
        size = state["step_size"]
        changes = {
            "step_size": (2.0 * radius, tf.where(halve, 0.5 * size, size)),
            "halved": (True, halve),
        }
        return halve, changes

    def _sparser(self, state, radius, first):
        changed = tf.cast(state["best"] != state["images"], tf.float32)
        axes = list(range(1, changed.shape.rank))
        support = tf.reduce_sum(changed, axes)
        dimension = float(np.prod(state["images"].shape[1:]))
        sparser = support < _SHARE_DROP * state["support"]
        smaller = tf.maximum(state["step_size"] / _SHRINK, _MIN_STEP * radius)
        share = support / dimension / _SHRINK
        fresh = first & self.at("fresh", state)
        changes = {
            "step_size": (radius, tf.where(sparser, radius, smaller)),
            "share": (tf.where(fresh, _FIRST_SHARE, share), share),
            "support": (tf.where(fresh, dimension, support), support),
        }
        return sparser, changes

    def proposed(self, state: stepped.State) -> stepped.State:
        """Sets the points of the next evaluation."""
        radius = self.radius(state)
        moved = self.moved(state, radius)
        fresh, first = self.at("fresh", state), self.at("first", state)
        # A later stage goes on from the best point, a new run from a random one.
        iterate = stepped.where(first, self.project(state["best"], state, radius), moved)
        if self.schedule["fresh"].sum() > 1:
            iterate = tf.cond(
                tf.reduce_any(fresh),
                lambda: stepped.where(fresh, self.random_start(state, radius), iterate),
                lambda: iterate,
            )
        return {**state, "iterate": iterate, "previous": state["iterate"]}

    def moved(self, state: stepped.State, radius: tf.Tensor) -> tf.Tensor:
        """Returns the points one step further along the gradients."""
        here, size = state["iterate"], geometry.per_image(state["step_size"])
        if self.norm == "l1":
            direction = sparse_direction(state["gradient"], state["share"])
            return self.project(here + size * direction, state, radius)
        direction = geometry.steepest_direction(state["gradient"], self.norm)
        ahead = self.project(here + size * direction, state, radius)
        with_momentum = here + _MOMENTUM * (ahead - here)
        with_momentum += (1 - _MOMENTUM) * (here - state["previous"])
        with_momentum = self.project(with_momentum, state, radius)
        return stepped.where(self.at("second", state), ahead, with_momentum)

    def random_start(self, state: stepped.State, radius: tf.Tensor) -> tf.Tensor:
        """Returns points that depend on the images' seeds and steps alone."""
        images, shape = state["images"], list(state["images"].shape[1:])
        if self.norm == "linf":
            offset = 2.0 * noise.hashed_uniform(state["seeds"], state["step"], shape) - 1.0
        else:
            offset = noise.hashed_normal(state["seeds"], state["step"], shape)
        if self.norm == "l1":
            offset *= geometry.PIXEL_MAX - geometry.PIXEL_MIN
        else:
            offset *= geometry.per_image(radius / geometry.norms(offset, self.norm))
        return self.project(images + offset, state, radius)

    def project(self, points, state, radius) -> tf.Tensor:
        """Returns the nearest allowed points."""
        return geometry.project(points, state["images"], radius, self.norm)


def sparse_direction(gradient: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Computes `t / |t|_1`, `t` the signs of the largest coordinates of the gradient.

    Args:
      gradient: float32 [N, H, W, C].
      share: the share of the coordinates to keep, float32 [N], rounded up; one at least is kept.

    Source: Croce and Hein, arXiv 2103.01208, section 3.2.
    """
    size = tf.reshape(tf.abs(gradient), [tf.shape(gradient)[0], -1])
    dimension = tf.shape(size)[1]
    kept = tf.cast(tf.math.ceil(share * tf.cast(dimension, tf.float32)), tf.int32)
    order = tf.sort(size, 1, "DESCENDING")
    smallest = tf.gather(order, tf.clip_by_value(kept - 1, 0, dimension - 1), batch_dims=1)
    signs = tf.where(tf.abs(gradient) >= geometry.per_image(smallest), tf.sign(gradient), 0.0)
    return tf.math.divide_no_nan(signs, geometry.per_image(geometry.norms(signs, "l1")))


def checkpoint_windows(iterations: int, norm: str) -> np.ndarray:
    """Returns for every iteration the number since the last checkpoint if it is one, else 0."""
    windows = np.zeros(iterations, np.int32)
    if norm == "l1":
        gap, shrink, smallest = max(int(0.04 * iterations), 1), 0, 1
    else:
        gap, smallest = max(int(0.22 * iterations), 1), max(int(0.06 * iterations), 1)
        shrink = max(int(0.03 * iterations), 1)
    at = gap
    while at <= iterations:
        windows[at - 1] = gap
        gap = max(gap - shrink, smallest)
        at += gap
    return windows


def schedule(
    iterations: int, runs: int, norm: str, stages: tuple[tuple[float, float], ...]
) -> dict[str, np.ndarray]:
    """Lays out the evaluations of all runs, one row each.

    Columns: "run", its number; "factor", the radius over epsilon; "first" and "second", whether it
    is that evaluation of a stage; "fresh", whether it is at a random start; "window", the number
    of iterations since the last checkpoint where one follows, else 0; "counts", whether the point
    lies in the ball of radius epsilon.
    """
    rows = []
    for run in range(runs):
        left = iterations
        for index, (factor, share) in enumerate(stages):
            last = index == len(stages) - 1
            length = left if last else int(share * iterations)
            left -= length
            for local, window in enumerate([0, *checkpoint_windows(length, norm)]):
                fresh = local == 0 and index == 0
                rows.append((run, factor, local == 0, local == 1, fresh, window, last))
    columns = ("run", "factor", "first", "second", "fresh", "window", "counts")
    kinds = (np.int32, np.float32, bool, bool, bool, np.int32, bool)
    return {
        name: np.array(values, kind)
        for name, values, kind in zip(columns, zip(*rows, strict=True), kinds, strict=True)
    }
