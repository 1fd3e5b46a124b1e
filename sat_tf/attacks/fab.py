"""FAB: looks for the nearest misclassified image, where the others raise a loss in a ball."""

import tensorflow as tf

from sat_tf.attacks import geometry, losses, planes, starts, stepped

# Keeps the weights of the two projections finite where both moves are zero, in pixels.
_TINY = 255e-8


class FAB(stepped.Stepped):
    """Steps along the linearised decision boundary, drawn towards the original image.

    At `x_k`, the boundary to class `t` is linearised to the plane
    `z_t - z_y + <grad(z_t - z_y), . - x_k> = 0`. With `d` and `d_0` the smallest moves that take
    `x_k` and the original `x` to the plane within the pixel range, `a = min(|d| / (|d| + |d_0|),
    alpha_max)`:
    `x_{k+1} = clip((1 - a) (x_k + eta d) + a (x + eta d_0))`.
    Where `x_{k+1}` is misclassified, the next step starts from `x + beta (x_{k+1} - x)` instead.
    An image is broken by a misclassified `x_{k+1}` at a distance of at most epsilon.
    With targets, `t` is the k-th largest logit of the clean image, k = 2, 3, ..., one run each;
    without, at each step the class whose plane is nearest. Runs after a target's first start at a
    random point, at half of epsilon before the range cuts it.

    A step evaluates the gradient at `x_k` and the network at `x_{k+1}`. Without targets it takes
    one gradient a class, one after the other. The state's "distance" is that of the nearest
    misclassified image so far, in pixels, infinite before there is one.

    Source: Croce and Hein, arXiv 1907.02044, algorithm 1; targets as in 2003.01690. Deviation: an
    image is done at its first hit inside epsilon, where the paper goes on to lower the distance.

    Args:
      epsilon: the distance from which on a hit counts, in pixels, at least 0.
      norm: "linf", "l2" or "l1".
      targeted: whether to aim at classes.
      num_targets: how many; 9 if None, 0 without targets.
      iterations: steps of a run, at least 1.
      restarts: runs, of each target if there are targets.
      alpha_max, eta, beta: the constants above.

    Raises:
      ValueError: an argument outside these bounds.
    """

    def __init__(
        self,
        *,
        epsilon: float,
        norm: str = "linf",
        targeted: bool = True,
        num_targets: int | None = None,
        iterations: int = 100,
        restarts: int = 1,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
    ):
        stepped.check_counts(iterations=iterations, restarts=restarts)
        self.epsilon = stepped.check_epsilon(epsilon)
        self.norm = geometry.check_norm(norm)
        self.name = "fab-t" if targeted else "fab"
        self.num_targets = stepped.check_targets(num_targets, targeted)
        self.iterations, self.restarts = iterations, restarts
        self.alpha_max, self.eta, self.beta = alpha_max, eta, beta
        self.num_steps = iterations * restarts * max(self.num_targets, 1)

    def start(self, images, labels, seeds, logits) -> stepped.State:
        """Returns the state of images that took no step yet (see `stepped.SteppedAttack`)."""
        far = tf.fill(tf.shape(images)[:1], float("inf"))
        state = stepped.begin(images, labels, seeds, iterate=images, distance=far)
        if self.num_targets:
            state["targets"] = losses.ranked_classes(logits, self.num_targets)
        return state

    def step(self, network: stepped.Network, state: stepped.State) -> stepped.State:
        """Returns the state after a gradient and a check (see `stepped.SteppedAttack`)."""
        point = self.nearer_boundary(network, state)
        wrong = losses.misclassified(network(point, training=False), state["labels"])
        images = state["images"]
        distance = geometry.norms(point - images, self.norm)
        closest = wrong & (distance < state["distance"])
        state = stepped.advance(
            state,
            self.num_steps,
            point,
            wrong & (distance <= self.epsilon),
            images,
            distance=tf.where(closest, distance, state["distance"]),
        )
        back = images + self.beta * (point - images)
        return {**state, "iterate": self.next_start(state, stepped.where(wrong, back, point))}

    def nearer_boundary(self, network: stepped.Network, state: stepped.State) -> tf.Tensor:
        """Returns `x_{k+1}`."""
        here, images = state["iterate"], state["images"]
        if self.num_targets:
            run = tf.minimum(state["step"], self.num_steps - 1) // self.iterations
            target = tf.gather(state["targets"], run // self.restarts, batch_dims=1)
            gap, gradient = lead(network, here, state["labels"], target)
        else:
            gap, gradient = nearest_boundary(network, here, state["labels"], self.norm)
        # Where logits are no numbers the point stays, but for the pull towards the image.
        gap = tf.where(tf.math.is_finite(gap), gap, 0.0)
        from_image = tf.reduce_sum(gradient * (here - images), [1, 2, 3]) - gap
        # One projection of both: its loop is then run once.
        moves = planes.plane_projection(
            tf.concat([here, images], 0),
            tf.concat([gradient, gradient], 0),
            tf.concat([-gap, from_image], 0),
            self.norm,
        )
        move, image_move = tf.split(moves, 2)
        length = tf.maximum(geometry.norms(move, self.norm), _TINY)
        image_length = tf.maximum(geometry.norms(image_move, self.norm), _TINY)
        alpha = tf.minimum(length / (length + image_length), self.alpha_max)
        alpha = geometry.per_image(alpha)
        point = (1 - alpha) * (here + self.eta * move)
        point += alpha * (images + self.eta * image_move)
        return tf.clip_by_value(point, geometry.PIXEL_MIN, geometry.PIXEL_MAX)

    def next_start(self, state: stepped.State, iterate: tf.Tensor) -> tf.Tensor:
        """Returns the iterates, or the start of the next run where one begins."""
        if self.num_steps == self.iterations:
            return iterate
        fresh = state["step"] % self.iterations == 0
        again = (state["step"] // self.iterations) % self.restarts > 0
        images = state["images"]
        iterate = stepped.where(fresh, images, iterate)
        if self.restarts == 1:
            return iterate
        return stepped.restarted(fresh & again, lambda: self.random_point(state), iterate)

    def random_point(self, state: stepped.State) -> tf.Tensor:
        """Returns points at half of epsilon that depend on the images' seeds and steps alone."""
        offset = starts.random_direction(state, self.norm)
        point = state["images"] + geometry.scaled(offset, 0.5 * self.epsilon, self.norm)
        return tf.clip_by_value(point, geometry.PIXEL_MIN, geometry.PIXEL_MAX)


def lead(
    network: stepped.Network, points: tf.Tensor, labels: tf.Tensor, classes: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes `z_c - z_y`, [N], and its gradient with respect to the points."""
    _, gap, gradient = losses.loss_and_gradient(
        network,
        points,
        lambda logits: losses.logit(logits, classes) - losses.logit(logits, labels),
    )
    return gap, gradient


def nearest_boundary(
    network: stepped.Network, points: tf.Tensor, labels: tf.Tensor, norm: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes gap and gradient of the class whose linearised boundary is nearest.

    The distance of a plane is `|gap| / |gradient|` in the dual norm (L1 for L-inf and the other way
    round, L2 for L2), the pixel range left aside. Classes are evaluated one after the other, so
    memory does not depend on their number.
    """
    num_classes = network(points[:1], training=False).shape[1]
    dual = {"linf": "l1", "l2": "l2", "l1": "linf"}[norm]

    def look(index, nearest, gap, gradient):
        # Counted from the label: the label itself, no boundary, is never looked at.
        candidate = (labels + index) % num_classes
        new_gap, new_gradient = lead(network, points, labels, candidate)
        distance = tf.abs(new_gap) / (geometry.norms(new_gradient, dual) + 1e-12)
        closer = distance < nearest
        return (
            index + 1,
            tf.where(closer, distance, nearest),
            tf.where(closer, new_gap, gap),
            stepped.where(closer, new_gradient, gradient),
        )

    far = tf.fill(tf.shape(labels), float("inf"))
    _, _, gap, gradient = tf.while_loop(
        lambda *_: True,
        look,
        (tf.constant(1), far, tf.zeros_like(far), tf.zeros_like(points)),
        parallel_iterations=1,
        maximum_iterations=num_classes - 1,
    )
    return gap, gradient
