"""Square asks only for logits, keeps its schedule and breaks what random corners can break."""

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from sat_tf.attacks import noise, square_bumps, square_windows
from sat_tf.attacks.square import Square
from sat_tf.attacks.square_bumps import bump
from tests import linear_network

SEED = tf.constant([3, 4])


def per_image_seeds(count):
    return tf.random.stateless_uniform([count, 2], [5, 6], None, None, tf.int32)


def run(attack, network, images, labels):
    """Yields the state after every query."""
    state = attack.start(images, labels, per_image_seeds(len(images)), network(images))
    step = tf.function(lambda state: attack.step(network, state), autograph=False)
    for _ in range(attack.num_steps):
        yield state
        state = step(state)
    yield state


def test_windows_follow_the_schedule_without_rescaling():
    sides = square_windows.window_sides(10000, 0.8, 32, 32, "linf")
    shares = [0.8 / 2**k for k in range(10)]
    ends = [*square_windows.HALVINGS, 9999]
    start = 0
    for share, end in zip(shares, ends, strict=True):
        expected = max(round(np.sqrt(share * 32 * 32)), 1)
        assert set(sides[start : end + 1]) == {expected}, (share, end)
        start = end + 1
    assert set(sides) == {29, 20, 14, 10, 7, 5, 4, 3, 2, 1}
    odd = square_windows.window_sides(10000, 0.8, 32, 32, "l2")
    assert set(odd % 2) == {1} and odd.min() == 3
    assert square_windows.window_sides(5, 0.8, 8, 30, "linf").tolist() == [8] * 5
    assert square_windows.window_sides(5, 0.8, 8, 30, "l2").tolist() == [7] * 5


def test_windows_have_their_side_and_reach_every_place():
    draws = noise.hashed_uniform(per_image_seeds(3000), 0, [2])
    side = tf.fill([3000], 2)
    marks = square_windows.window(draws, side, 4, 5).numpy()[..., 0]
    assert (marks.sum((1, 2)) == 4).all()
    corners = {(m.any(1).argmax(), m.any(0).argmax()) for m in marks}
    assert corners == {(r, c) for r in range(3) for c in range(4)}
    counts = marks[:, 0].any(1).sum(), marks[:, 3].any(1).sum()
    assert all(abs(count / 3000 - 1 / 3) < 0.04 for count in counts)


@pytest.mark.parametrize(("norm", "power"), [("l2", 2), ("l1", 4)])
def test_a_bump_is_the_sum_of_the_paper(norm, power):
    for side in (3, 5, 6, 9):
        half, expected = side // 2, np.zeros([side, side])
        for top, rows, sign in ((0, half, 1), (half, side - half, -1)):
            n = side // 2  # the longer side of the rectangle, halved
            for r in range(1, rows + 1):
                for c in range(1, side + 1):
                    last = n - max(abs(r - rows // 2 - 1), abs(c - side // 2 - 1))
                    value = sum(1 / (n + 1 - k) ** power for k in range(0, last + 1))
                    expected[top + r - 1, c - 1] = sign * value
        if norm == "l2":
            expected /= np.linalg.norm(expected)
        else:  # both halves alike
            expected[:half] /= 2 * expected[:half].sum()
            expected[half:] /= -2 * expected[half:].sum()
        np.testing.assert_allclose(bump(side, norm), expected, atol=1e-6)


def test_placed_bumps_fill_the_window_and_have_norm_one():
    sides = tf.constant([7, 5, 3, 3])
    side = tf.tile(tf.constant([7, 5, 3]), [20])
    draws = noise.hashed_uniform(per_image_seeds(60), 1, [8])
    bumps = square_bumps.placed_bumps(draws, side, sides, (8, 9)).numpy()[..., 0]
    inside = square_windows.window(draws[:, :2], side, 8, 9).numpy()[..., 0]
    np.testing.assert_allclose(np.sqrt((bumps**2).sum((1, 2))), 1.0, atol=1e-5)
    assert (bumps[~inside] == 0).all()
    turned = 0
    for n, mark in enumerate(inside):
        rows, columns = mark.any(1).nonzero()[0], mark.any(0).nonzero()[0]
        cut = bumps[n][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        expected = bump(int(side[n]))
        turned += np.allclose(cut, expected.T, atol=1e-6)
        assert np.allclose(cut, expected, atol=1e-6) or np.allclose(cut, expected.T, atol=1e-6)
    assert 10 < turned < 50


@pytest.mark.parametrize("norm,radius", [("linf", 6.0), ("l2", 20.0), ("l1", 300.0)])
def test_every_query_stays_allowed_and_changes_one_window_at_most(norm, radius):
    network = linear_network.LinearNetwork(3, scale=1e-4)
    images = linear_network.images(8, low=0.0, high=255.0)
    labels = network.labels(images)
    attack = Square(epsilon=radius, norm=norm, queries=60)
    margins = []
    sides = square_windows.window_sides(60, 0.8, *linear_network.SHAPE[:2], norm)
    for step, state in enumerate(run(attack, network, images, labels)):
        point = state["iterate"].numpy()
        assert point.min() >= 0 and point.max() <= 255
        assert (linear_network.sizes(point - images, norm) <= radius * (1 + 1e-5) + 1e-4).all()
        if 0 < step < 60 and norm != "l1":  # whose projection may shorten all pixels
            changed = (np.abs(point - state["best"]) > 1e-4).any(-1).sum((1, 2))
            assert (changed <= sides[step] ** 2 * (1 if norm == "linf" else 2)).all()
        margins.append(state["margin"].numpy())
    margins = np.array(margins)
    assert (np.diff(margins[1:], axis=0) <= 0).all()
    assert (margins[-1] < margins[1]).all()


def test_the_first_query_is_vertical_stripes_at_the_corners_of_the_ball():
    images = linear_network.images(6)
    network = linear_network.LinearNetwork(3)
    state = next(run(Square(epsilon=6.0), network, images, network.labels(images)))
    moves = state["iterate"].numpy() - images
    np.testing.assert_allclose(np.abs(moves), 6.0, atol=2e-5)
    assert (np.ptp(np.sign(moves), axis=1) == 0).all()
    assert len({tuple(np.sign(m).ravel()) for m in moves}) > 1


@pytest.mark.parametrize("radius", [900.0, 60_000.0])
def test_the_first_query_in_l1_is_tiles_projected_on_the_ball(radius):
    # Grey, so that the range lies far from tiles of norm 255.
    images = np.full([4, 32, 32, 3], 128.0, np.float32)
    attack = Square(epsilon=radius, norm="l1")
    state = attack.start(images, np.zeros(4, np.int32), per_image_seeds(4), None)
    moves = state["iterate"].numpy().astype(np.float64) - images
    sizes = linear_network.sizes(moves, "l1")
    np.testing.assert_allclose(sizes, min(radius, 75 * 255.0), rtol=1e-4)
    tiles = moves[:, 1:31, 1:31].reshape(4, 5, 6, 5, 6, 3).transpose(0, 1, 3, 5, 2, 4)
    ways = [np.abs(255 * way) for way in (bump(6, "l1"), bump(6, "l1").T)]
    if radius < 1000:  # the same is taken from every pixel, as far as it goes
        threshold = scipy.optimize.brentq(
            lambda t: 75 * np.maximum(ways[0] - t, 0).sum() - radius, 0, 255
        )
        ways = [np.maximum(way - threshold, 0) for way in ways]
    far = [np.abs(np.abs(tiles) - way).max((-2, -1)) for way in ways]
    assert np.minimum(*far).max() < 0.01 and (far[0] != far[1]).any()


def test_a_query_in_l1_gathers_two_windows_and_what_the_ball_has_left():
    images = np.full([6, 9, 9, 2], 128.0, np.float32)
    attack, seeds = Square(epsilon=400.0, norm="l1", queries=50), per_image_seeds(6)
    rng = np.random.default_rng(0)
    best = images + rng.normal(size=images.shape).astype(np.float32)  # norm 130: 270 are left
    state = attack.start(images, np.zeros(6, np.int32), seeds, None)
    state |= {"best": tf.constant(best), "step": tf.fill([6], 30)}
    draws = noise.hashed_uniform(seeds, state["step"], [7])
    sides = attack.sides(9, 9)
    side = tf.gather(sides, state["step"])
    windows = [square_windows.window(draws[:, k : k + 2], side, 9, 9).numpy() for k in (0, 2)]
    bumps = square_bumps.placed_bumps(draws, side, sides, (9, 9), "l1").numpy().astype(float)
    signs = np.where(draws.numpy()[:, None, None, 5:] < 0.5, -1.0, 1.0)
    old = (best - images).astype(np.float64)
    left = 400 - np.abs(old).sum((1, 2, 3), keepdims=True)
    both = np.abs(np.where(windows[0] | windows[1], old, 0)).sum((1, 2), keepdims=True)
    new = np.where(windows[0], old, 0)
    new = new / np.abs(new).sum((1, 2), keepdims=True) + signs * bumps
    new *= (left + 2 * both) / np.abs(new).sum((1, 2), keepdims=True)
    moves = np.where(windows[0], new, np.where(windows[1], 0, old))
    found = attack.bump_change(state).numpy() - images
    for one, expected in zip(found, moves, strict=True):
        size = np.abs(expected)
        assert size.sum() > 400  # two channels get what is left each
        threshold = scipy.optimize.brentq(
            lambda t, size=size: np.clip(size - t, 0, 127).sum() - 400, 0, size.max()
        )
        np.testing.assert_allclose(
            one, np.sign(expected) * np.clip(size - threshold, 0, 127), atol=0.02
        )


def test_the_first_query_in_l2_uses_the_whole_radius():
    images = np.full([4, 32, 32, 3], 128.0, np.float32)
    attack = Square(epsilon=30.0, norm="l2")
    state = attack.start(images, np.zeros(4, np.int32), per_image_seeds(4), None)
    moves = state["iterate"].numpy() - images
    np.testing.assert_allclose(linear_network.sizes(moves, "l2"), 30.0, rtol=1e-4)
    used = np.abs(moves).max((0, 3)) > 1e-3
    rows, columns = used.any(1).nonzero()[0], used.any(0).nonzero()[0]
    assert rows.min() >= 1 and rows.max() <= 30 and columns.min() >= 1 and columns.max() <= 30
    grid, _, place = square_bumps.tiling(32, 32)
    assert place.max() == 24 and (np.bincount(place[grid != 0]) > 0).all()


def test_tiles_of_the_start_in_l2_stand_or_lie_as_often_in_every_image():
    images = np.full([40, 32, 32, 3], 128.0, np.float32)
    state = Square(epsilon=30.0, norm="l2").start(
        images, np.zeros(40, np.int32), per_image_seeds(40), None
    )
    moves = (state["iterate"].numpy() - images)[:, 1:31, 1:31]
    tiles = moves.reshape(40, 5, 6, 5, 6, 3).transpose(0, 1, 3, 5, 2, 4)
    tiles = tiles / np.linalg.norm(tiles, axis=(-2, -1), keepdims=True)
    likeness = [np.abs((tiles * way).sum((-2, -1))) for way in (bump(6), bump(6).T)]
    np.testing.assert_allclose(np.maximum(*likeness), 1.0, atol=1e-4)
    lies = likeness[1] > likeness[0]
    assert (lies == lies[..., :1]).all()  # all channels of a tile alike
    assert abs(lies.mean() - 0.5) < 0.05 and (lies.mean((1, 2, 3)) % 1 > 0).all()


@pytest.mark.parametrize("height, width", [(12, 7), (7, 12), (32, 21), (3, 9), (9, 3), (8, 8)])
def test_the_tiles_of_the_start_lie_in_the_middle_of_an_image_of_any_sides(height, width):
    upright, turned, place = square_bumps.tiling(height, width)
    side = max(min(height, width) // 5, 1)
    rows, columns = min(5, height // side), min(5, width // side)
    inside = np.zeros([height, width], int)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    block = bump(side) if side > 1 else np.ones([1, 1])
    for tile in range(rows * columns):
        where = np.s_[top + tile // columns * side :, left + tile % columns * side :]
        for found, expected in ((upright, block), (turned, block.T)):
            np.testing.assert_array_equal(found[where][:side, :side], expected)
        assert (place[where][:side, :side] == tile).all()
        inside[where][:side, :side] += 1
    assert inside.max() == 1 and not upright[inside == 0].any() and not turned[inside == 0].any()


def test_a_query_in_l2_keeps_the_norm_of_the_ball():
    images = np.full([5, 9, 9, 3], 128.0, np.float32)
    attack = Square(epsilon=25.0, norm="l2", queries=30)

    def network(x, training=False):
        return tf.reduce_sum(x * tf.random.stateless_normal([9, 9, 3], [1, 2]), [1, 2])

    for state in run(attack, network, images, np.zeros(5, np.int32)):
        moves = state["iterate"].numpy() - images
        np.testing.assert_allclose(linear_network.sizes(moves, "l2"), 25.0, rtol=1e-3)


def test_a_query_in_l2_fills_the_ball_and_leaves_all_but_two_windows_as_they_are():
    images, queries = np.full([6, 11, 9, 3], 128.0, np.float32), 1000
    attack = Square(epsilon=25.0, norm="l2", queries=queries)
    state = attack.start(images, np.zeros(6, np.int32), per_image_seeds(6), None)
    half = 0.5 * (state["iterate"] - images)
    state |= {"best": images + half, "step": tf.constant([20, 60, 100, 201, 501, 999])}
    moves = (attack.bump_change(state) - images).numpy()
    np.testing.assert_allclose(linear_network.sizes(moves, "l2"), 25.0, rtol=1e-4)
    sides = square_windows.window_sides(queries, 0.8, 11, 9, "l2")[state["step"]]
    changed = (np.abs(moves - half) > 1e-4).any(-1).sum((1, 2))
    assert (changed > 0).all() and (changed <= 2 * sides**2).all()


def test_in_linf_breaks_exactly_the_images_nearer_to_the_boundary_than_epsilon():
    # Two classes: with more, a search without gradients can settle on the wrong one.
    network = linear_network.LinearNetwork(2)
    images = linear_network.images(48, low=0.0, high=255.0)
    labels = network.labels(images)
    distances = linear_network.distances(network, images, labels, "linf")
    epsilon = float(np.median(distances))
    attack = tf.function(Square(epsilon=epsilon, queries=1500), autograph=False)
    broken = network.labels(attack(network, images, labels, SEED)) != labels
    certain = np.abs(distances / epsilon - 1) > 0.01
    assert broken.any() and not broken.all()
    np.testing.assert_array_equal(broken[certain], (distances < epsilon)[certain])


def test_in_l2_comes_near_the_boundary_of_a_smooth_network_and_never_lies():
    # Bumps can follow a smooth gradient, as those of trained networks are, not white noise.
    rows, columns = np.mgrid[:16, :16] / 16 * np.pi
    field = np.stack([np.cos(rows + phase) * np.cos(columns) for phase in (0, 1, 2)], -1)
    weights = field / np.linalg.norm(field)
    rng = np.random.default_rng(0)
    images = rng.uniform(100, 155, (24, 16, 16, 3)).astype(np.float32)
    margins = rng.uniform(5, 60, 24)
    offset = margins - np.sum(images * weights, (1, 2, 3))

    def network(x, training=False):
        lead = tf.reduce_sum(x * tf.constant(weights, tf.float32), [1, 2, 3])
        return tf.stack([lead + tf.constant(offset, tf.float32), tf.zeros_like(lead)], 1)

    attack = tf.function(Square(epsilon=40.0, norm="l2", queries=500), autograph=False)
    adversarial = attack(network, images, np.zeros(24, np.int32), SEED)
    broken = np.argmax(network(adversarial), 1) != 0
    assert not broken[margins > 40.05].any()  # the margin is the exact distance
    assert broken[margins < 0.5 * 40].all() and (margins < 20).sum() > 3


def test_no_gradient_is_asked_for():
    def network(images, training=False):
        rounded = tf.round(images / 16)  # its gradient is zero everywhere
        weights = tf.random.stateless_normal([linear_network.DIMENSION, 3], [1, 2])
        return tf.reshape(rounded, [-1, linear_network.DIMENSION]) @ weights

    images = linear_network.images(8)
    labels = np.argmax(network(images), 1).astype(np.int32)
    attack = tf.function(Square(epsilon=16.0, queries=300), autograph=False)
    adversarial = attack(network, images, labels, SEED)
    assert (np.argmax(network(adversarial), 1) != labels).sum() >= 6


def test_epsilon_zero_returns_the_image():
    network = linear_network.LinearNetwork(3)
    images = linear_network.images(4, low=0.0, high=255.0)
    for norm in ("linf", "l2", "l1"):
        attack = tf.function(Square(epsilon=0.0, norm=norm, queries=12), autograph=False)
        adversarial = attack(network, images, network.labels(images), SEED)
        np.testing.assert_allclose(adversarial, images, atol=2e-5)


def test_a_restart_begins_with_new_stripes():
    network = linear_network.LinearNetwork(3, scale=1e-5)
    images = linear_network.images(5)
    attack = Square(epsilon=5.0, queries=7, restarts=2)
    states = list(run(attack, network, images, network.labels(images)))
    first, second = (states[k]["iterate"].numpy() - images for k in (0, 7))
    np.testing.assert_allclose(np.abs(second), 5.0, atol=2e-5)
    assert (np.ptp(np.sign(second), axis=1) == 0).all()
    assert (np.sign(first) != np.sign(second)).any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_restart_has_the_windows_and_the_best_point_of_a_run_of_its_own(norm):
    images = np.full((6, 12, 12, 1), 127.0, np.float32)
    attack = Square(epsilon=9.0, norm=norm, queries=14, restarts=2)
    state = attack.start(images, tf.zeros([6], tf.int32), per_image_seeds(6), None)
    change = attack.linf_change if norm == "linf" else attack.bump_change
    sides = attack.sides(12, 12).numpy()
    assert sides[1] > sides[13]
    for query in (1, 12, 13):
        for run_of in (0, 1):
            step = tf.fill([6], query + 14 * run_of)
            moved = (change({**state, "step": step}) != images).numpy().any((0, 3))
            at_once = change({**state, "step": step}).numpy()[0, ..., 0] != 127.0
            assert moved.any() and at_once.any(1).sum() <= sides[query]
            assert query > 10 or at_once.any(1).sum() > sides[13]
            if norm == "linf":
                assert at_once.any(1).sum() == at_once.any(0).sum() == sides[query]

    margins = [5.0, 1.0, 4.0, 9.0, 8.0, 8.5, 7.0]  # the second run begins at 9

    def scripted(points, training=False):
        del training
        return tf.stack([margins[len(seen)] + 0 * points[:, 0, 0, 0], 0 * points[:, 0, 0, 0]], 1)

    attack, seen = Square(epsilon=9.0, norm=norm, queries=3, restarts=2), []
    state = attack.start(images, tf.zeros([6], tf.int32), per_image_seeds(6), None)
    for expected in (5.0, 1.0, 1.0, 9.0, 8.0, 8.0):
        point = state["iterate"].numpy()
        state = attack.step(scripted, state)
        seen.append(point)
        assert (state["margin"].numpy() == expected).all()
        np.testing.assert_array_equal(state["best"], seen[margins.index(expected)])


def test_wrong_arguments_are_refused_with_a_remedy():
    for arguments, message in (
        ({"norm": "l3"}, "use one of: linf, l2, l1"),
        ({"queries": 0}, "queries is 0"),
        ({"p_init": 0.0}, "p_init is 0.0"),
        ({"epsilon": -2}, "epsilon is -2"),
    ):
        with pytest.raises(ValueError, match=message):
            Square(**{"epsilon": 1.0, **arguments})


def test_hashed_numbers_are_uniform_independent_and_belong_to_seed_and_counter():
    seeds = per_image_seeds(64)
    u = noise.hashed_uniform(seeds, 3, [4096]).numpy().astype(np.float64)
    assert u.min() >= 0 and u.max() < 1
    counts = np.bincount((u.ravel() * 256).astype(int), minlength=256)
    expected = u.size / 256
    # chi-square of 255 degrees of freedom: mean 255, deviation 22.6
    assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * 22.6
    bits = (u * 2**24).astype(np.int64)
    for bit in range(24):
        assert abs(((bits >> bit) & 1).mean() - 0.5) < 5 * 0.5 / np.sqrt(u.size)
    centred = (u - 0.5) * np.sqrt(12)
    correlations = [
        (centred[:, 1:] * centred[:, :-1]).mean(),  # along an image
        (centred[1:] * centred[:-1]).mean(),  # between images
        (centred * (noise.hashed_uniform(seeds, 4, [4096]).numpy() - 0.5)).mean() * 3.46,
        (centred * (noise.hashed_uniform(seeds + [0, 1], 3, [4096]).numpy() - 0.5)).mean() * 3.46,
        (centred * (noise.hashed_uniform(seeds + [1, 0], 3, [4096]).numpy() - 0.5)).mean() * 3.46,
    ]
    assert np.abs(correlations).max() < 5 / np.sqrt(u.size)
    np.testing.assert_array_equal(noise.hashed_uniform(seeds[5:6], [3], [4096]), u[5:6])
    np.testing.assert_array_equal(
        noise.hashed_uniform(seeds, tf.fill([64], 3), [64, 64]).numpy().reshape(64, -1), u
    )


def test_hashed_draws_over_steps_are_uniform_for_one_image():
    # Square reads a few numbers at each of thousands of steps.
    steps = tf.range(20000)
    seeds = tf.tile([[7, 9]], [20000, 1])
    u = noise.hashed_uniform(seeds, steps, [3]).numpy().astype(np.float64)
    for column in u.T:
        counts = np.bincount((column * 50).astype(int), minlength=50)
        assert abs(((counts - 400) ** 2 / 400).sum() - 49) < 5 * 9.9
        lagged = (column[1:] - 0.5) * (column[:-1] - 0.5) * 12
        assert abs(lagged.mean()) < 5 / np.sqrt(20000)
    signs = noise.hashed_sign(seeds, steps, [1]).numpy()
    assert set(np.unique(signs)) == {-1.0, 1.0} and abs(signs.mean()) < 5 / np.sqrt(20000)


def test_hashed_normal_numbers_have_the_moments_of_a_normal():
    z = noise.hashed_normal(per_image_seeds(50), 0, [4000]).numpy().astype(np.float64)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / z.size)
    ball = noise.hashed_unit_ball(per_image_seeds(4000), 0, [2, 2, 1]).numpy()
    radius = np.sqrt((ball**2).sum((1, 2, 3)))
    # uniform in the ball of 4 dimensions: radius^4 is uniform in [0, 1]
    assert radius.max() <= 1 + 1e-6 and abs((radius**4).mean() - 0.5) < 5 * 0.29 / np.sqrt(4000)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_change_that_leaves_the_margin_as_it_is_is_not_kept(norm):
    def indifferent(images, training=False):
        return tf.tile([[2.0, 1.0]], [tf.shape(images)[0], 1])

    images = tf.fill([2, 8, 8, 1], 128.0)
    attack = Square(epsilon=4.0, norm=norm, queries=3)
    _, first, *_, last = run(attack, indifferent, images, tf.zeros([2], tf.int32))
    np.testing.assert_array_equal(last["best"], first["best"])
    assert np.abs(last["iterate"] - first["best"]).max() > 0
