"""Square attack: random search with square updates; it sees nothing but the network's logits."""

import tensorflow as tf

from sat_tf.attacks import geometry, losses, noise, square_bumps, square_windows, stepped

# Farther than any two pixels are apart.
_FAR = 2.0 * (geometry.PIXEL_MAX - geometry.PIXEL_MIN)


class Square(stepped.Stepped):
    """Lowers the margin `z_y - max z_i` by changes in a random square, kept where they help.

    L-inf: starts from vertical stripes `x + eps * s`, `s` a random sign a column and channel. A
    query sets a window of side `round(sqrt(p H W))` at a random place to `x + eps * s`, `s` a
    random sign a channel.
    L2: starts from a grid of five by five tiles, each a bump, transposed or not, of random sign a
    channel, scaled to norm eps. A query takes two windows (odd side, 3 at least): the perturbation
    of the second is erased, and the first one's becomes `old / |old| + s * bump`, scaled so that
    the channel has the norm both windows had in it, and its part of what the ball has left.
    L1: starts from such tiles of norm 255, projected on ball and range. A query is that of L2 in
    the L1 norm; a channel gets all that the ball has left and its norm of both windows times the
    number of channels, and of what is too long then the projection keeps the largest pixels.
    `p` is `p_init`, halved after queries 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000.
    A change is kept if the margin falls.

    Source: Andriushchenko et al., arXiv 1912.00049, algorithms 1 to 3, with the margin of all
    classes; the schedule of `p` is AutoAttack's (no rescaling to the number of queries). L1 is that
    of the AutoAttack code, for Croce and Hein, arXiv 2103.01208, section 4.2. Unlike that code:
    windows, signs and directions are drawn for each image, so that no image depends on its batch;
    windows reach the last row and column, as in the paper; and images of less than 25 pixels a side
    start from five by five tiles too, where that code has more of them. On images of 8 pixels a
    side the latter two break 6 in 100 more; without them as many as there.

    Args:
      epsilon: radius of the ball in pixels, at least 0.
      norm: "linf", "l2" or "l1".
      queries: number of evaluations of a run, the start included.
      p_init: share of the pixels in the first windows, in (0, 1].
      restarts: number of runs, each from another start.

    Raises:
      ValueError: an argument outside these bounds.
    """

    name = "square"
    takes_gradients = False

    def __init__(
        self,
        *,
        epsilon: float,
        norm: str = "linf",
        queries: int = 5000,
        p_init: float = 0.8,
        restarts: int = 1,
    ):
        stepped.check_counts(queries=queries, restarts=restarts)
        if not 0 < p_init <= 1:
            raise ValueError(f"p_init is {p_init}; give a share of the pixels in (0, 1]")
        self.epsilon = stepped.check_epsilon(epsilon)
        self.norm = geometry.check_norm(norm)
        self.queries, self.restarts, self.p_init = queries, restarts, p_init
        self.num_steps = queries * restarts

    def start(self, images, labels, seeds, logits) -> stepped.State:
        """Returns the state of images that took no step yet (see `stepped.SteppedAttack`)."""
        del logits
        lowest = tf.fill(tf.shape(images)[:1], float("inf"))
        state = stepped.begin(images, labels, seeds, iterate=images, best=images, margin=lowest)
        return {**state, "iterate": self.first_point(state)}

    def step(self, network: stepped.Network, state: stepped.State) -> stepped.State:
        """Returns the state after one more query (see `stepped.SteppedAttack`)."""
        point, labels = state["iterate"], state["labels"]
        logits = network(point, training=False)
        margin = losses.margin(logits, labels)
        first = state["step"] % self.queries == 0
        # A run's first point is kept whatever its margin: changes of a run build on its own start.
        better = first | (margin < state["margin"])
        best = stepped.where(better, point, state["best"])
        state = stepped.advance(
            state,
            self.num_steps,
            point,
            losses.misclassified(logits, labels),
            best,
            best=best,
            margin=tf.where(better, margin, state["margin"]),
        )
        # After the count of steps has moved: the window is that of the query to come.
        return {**state, "iterate": self.next_point(state)}

    def next_point(self, state: stepped.State) -> tf.Tensor:
        """Returns the points of the next query: a change of the best, or the next run's start."""
        change = self.linf_change if self.norm == "linf" else self.bump_change
        point = change(state)
        if self.restarts == 1:
            return point
        fresh = state["step"] % self.queries == 0
        return stepped.restarted(fresh, lambda: self.first_point(state), point)

    def first_point(self, state: stepped.State) -> tf.Tensor:
        """Returns the points of a run's first query."""
        images, seeds, step = state["images"], state["seeds"], state["step"]
        height, width, channels = images.shape[1:]
        if self.norm == "linf":
            signs = noise.hashed_sign(seeds, step, [1, width, channels])
            return self.project(images + self.epsilon * signs, images)
        upright, turned, place = square_bumps.tiling(height, width, self.norm)
        signs = noise.hashed_sign(seeds, step, [place.max() + 1, channels + 1])
        signs = tf.gather(signs, place.reshape(-1), axis=1)
        signs = tf.reshape(signs, [-1, height, width, channels + 1])
        tiles = tf.where(signs[..., :1] < 0, upright[..., None], turned[..., None])
        offset = signs[..., 1:] * tiles
        if self.norm == "l1":
            return self.project(images + geometry.PIXEL_MAX * offset, images)
        return self.project(images + geometry.scaled(offset, self.epsilon, "l2"), images)

    def linf_change(self, state: stepped.State) -> tf.Tensor:
        """Returns the best points with one window set to a corner of the ball."""
        images = state["images"]
        height, width, channels = images.shape[1:]
        draws = noise.hashed_uniform(state["seeds"], state["step"], [2 + channels])
        side = tf.gather(self.sides(height, width), state["step"] % self.queries)
        rows, columns = square_windows.spans(draws[:, :2], side, height, width)
        push = tf.where(draws[:, 2:] < 0.5, -_FAR, _FAR)
        push = tf.where(columns[:, :, None], push[:, None, :], 0.0)
        push = tf.reshape(push, [-1, 1, width * channels])
        push = tf.cast(rows, tf.float32)[:, :, None] * push
        # Where a window pushes a point out of the ball, the projection leaves it at a corner.
        return self.project(state["best"] + tf.reshape(push, tf.shape(images)), images)

    def bump_change(self, state: stepped.State) -> tf.Tensor:
        """Returns the best points with the norm of two windows gathered in one, in L2 and L1."""
        images = state["images"]
        height, width, channels = images.shape[1:]
        draws = noise.hashed_uniform(state["seeds"], state["step"], [5 + channels])
        sides = self.sides(height, width)
        side = tf.gather(sides, state["step"] % self.queries)
        first = square_windows.window(draws[:, :2], side, height, width)
        second = square_windows.window(draws[:, 2:4], side, height, width)
        signs = tf.where(draws[:, None, None, 5:] < 0.5, -1.0, 1.0)
        bumps = square_bumps.placed_bumps(draws, side, sides, (height, width), self.norm)

        old = state["best"] - images
        available = self.available(old, tf.where(first | second, old, 0.0))
        kept = tf.where(first, old, 0.0)
        new = tf.math.divide_no_nan(kept, _channel_norms(kept, self.norm)) + signs * bumps
        new = available * tf.math.divide_no_nan(new, _channel_norms(new, self.norm))
        # Where the windows overlap the first one wins: its bump already holds both norms.
        moves = tf.where(first, new, tf.where(second, 0.0, old))
        return self.project(images + moves, images)

    def available(self, old: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
        """Returns the norm that each channel of the first window gets, [N, 1, 1, C].

        Args:
          old: the perturbations before.
          inside: those of both windows, 0 elsewhere.
        """
        both, channels = _channel_norms(inside, self.norm), old.shape[-1]
        length = geometry.per_image(geometry.norms(old, self.norm))
        # By rounding the length can exceed epsilon; then nothing of the ball is left, not less.
        if self.norm == "l1":
            return tf.maximum(self.epsilon - length, 0.0) + channels * both
        unused = tf.maximum(self.epsilon**2 - tf.square(length), 0.0)
        return tf.sqrt(tf.square(both) + unused / channels)

    def sides(self, height: int, width: int) -> tf.Tensor:
        """Returns the side of the window at every query, int32 [queries]."""
        sides = square_windows.window_sides(self.queries, self.p_init, height, width, self.norm)
        return tf.constant(sides)

    def project(self, points, images) -> tf.Tensor:
        """Returns the nearest allowed points."""
        return geometry.project(points, images, self.epsilon, self.norm)


def _channel_norms(x, norm):
    if norm == "l1":
        return tf.reduce_sum(tf.abs(x), [1, 2], keepdims=True)
    return tf.sqrt(tf.reduce_sum(tf.square(x), [1, 2], keepdims=True))
