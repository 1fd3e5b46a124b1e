"""Random numbers belong to their seed: uniform where they say so, and independent of each other."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_tf.attacks import PGD, noise, starts, stepped
from sat_tf.attacks.divergence import DivergencePGD
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.attacks.several import Drawn
from sat_tf.attacks.square import Square
from sat_tf.attacks.targeted import TargetedPGD

COUNT = 1000


def per_image_seeds(count=COUNT):
    return tf.random.stateless_uniform([count, 2], [5, 6], None, None, tf.int32)


def assert_uniform(values):
    """Kolmogorov and Smirnov: beyond 2 / sqrt(N) with a chance of 7 in 10,000."""
    ordered = np.sort(np.asarray(values, np.float64))
    assert np.abs(ordered - (np.arange(len(ordered)) + 0.5) / len(ordered)).max() < 2 / np.sqrt(
        len(ordered)
    )


def assert_independent(one, other):
    """Ranks of squares and of values are uncorrelated, to five standard deviations."""
    for left in (one, np.abs(one - np.median(one))):
        for right in (other, np.abs(other - np.median(other))):
            ranks = [np.argsort(np.argsort(np.asarray(x))) for x in (left, right)]
            assert abs(np.corrcoef(*ranks)[0, 1]) < 5 / np.sqrt(len(one))


@pytest.mark.parametrize("kind", ["one a image", "hashed"])
def test_points_of_the_unit_ball_have_a_uniform_radius_that_no_direction_knows(kind):
    seeds, shape = per_image_seeds(), [2, 1, 2]
    if kind == "hashed":
        points = noise.hashed_unit_ball(seeds, 3, shape)
    else:
        points = tf.function(noise.unit_ball, autograph=False)(seeds, tf.zeros([COUNT, *shape]))
    flat = points.numpy().reshape(COUNT, -1).astype(np.float64)
    radius = np.linalg.norm(flat, axis=1)
    assert_uniform(radius**4)
    for column in (flat / radius[:, None]).T:
        assert_independent(radius, column)
        assert abs(column.mean()) < 5 * 0.5 / np.sqrt(COUNT)
        assert abs((column**2).mean() - 0.25) < 5 * 0.25 / np.sqrt(COUNT)


def test_one_seed_for_the_batch_gives_every_image_its_own_point():
    points = noise.unit_ball(tf.constant([3, 4]), tf.zeros([COUNT, 1, 1, 2])).numpy()
    flat = points.reshape(COUNT, 2).astype(np.float64)
    radius = np.linalg.norm(flat, axis=1)
    assert_uniform(radius**2)
    assert_uniform((np.arctan2(flat[:, 0], flat[:, 1]) + np.pi) / (2 * np.pi))
    assert_independent(radius, flat[:, 0] / radius)
    assert_independent(flat[1:, 0], flat[:-1, 0])


@settings(max_examples=8, deadline=None)
@given(
    seed=st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 2),
    more=st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=3, unique=True),
    low=st.floats(-100, 100, width=32),
    width=st.floats(0.5, 100, width=32),
)
def test_seeds_that_are_folded_differ_and_draw_alike_alone_and_in_a_batch(seed, more, low, width):
    seeds = tf.tile([seed], [len(more), 1])
    folded = noise.fold_in(seeds, more)
    alone = [noise.fold_in(tf.constant(seed), one).numpy() for one in more]
    np.testing.assert_array_equal(folded, alone)
    assert len({tuple(one) for one in [*alone, np.array(seed)]}) == len(more) + 1
    like = tf.zeros([len(more), 3, 2, 1])
    drawn = noise.uniform(folded, like, low, low + width).numpy()
    assert drawn.min() >= low and drawn.max() <= low + width
    assert len(np.unique(drawn)) > drawn.size // 2
    for row, one in enumerate(alone):
        single = noise.uniform(tf.constant(one[None]), like[:1], low, low + width)
        np.testing.assert_array_equal(single[0], drawn[row])


def test_whether_a_start_is_random_says_nothing_about_where():
    images = tf.fill([COUNT, 1, 1, 2], 127.5)
    attack = PGD(epsilon=10, step_size=1, steps=1, norm="l2", random_start=0.5)
    moves = tf.function(attack.start, autograph=False)(images, per_image_seeds()).numpy() - 127.5
    radius = np.linalg.norm(moves.reshape(COUNT, 2), axis=1) / 10
    assert 0.42 < (radius > 0).mean() < 0.58
    assert_uniform(radius[radius > 0] ** 2)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_direction_to_start_in_is_uniform_from_minus_1_to_1_or_normal(norm):
    count = 400
    state = {
        "images": tf.zeros([count, 5, 4, 3]),
        "seeds": tf.random.stateless_uniform([count, 2], [1, 2], None, None, tf.int32),
        "step": tf.range(count),
    }
    found = starts.random_direction(state, norm).numpy().ravel()
    law = scipy.stats.uniform(-1, 2) if norm == "linf" else scipy.stats.norm()
    # 24,000 draws: a true law exceeds this distance once in a million.
    assert scipy.stats.kstest(found, law.cdf).statistic < 2.8 / np.sqrt(len(found))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_lie_in_the_pixel_range_and_differ_from_image_to_image(norm):
    images = tf.tile([[[[0.0]], [[255.0]], [[128.0]]]], [40, 1, 1, 1])
    for attack in (
        PGD(epsilon=20, step_size=1, steps=1, norm=norm),
        DivergencePGD(epsilon=20, step_size=1, steps=1, norm=norm, start_deviation=5.0),
    ):
        for seed in (tf.constant([1, 2]), per_image_seeds(40)):
            start = attack.start(images, seed).numpy()
            assert start.min() >= 0 and start.max() <= 255
            assert (start[:, 0] == 0).any() and (
                start[:, 1] == 255
            ).any()  # projected, not left out
            assert len(np.unique(start[:, 2])) == 40


def test_a_stepped_attack_of_one_seed_gives_every_image_its_own_points():
    weights = tf.random.stateless_normal([12, 3], [7, 8], stddev=1e-5)
    images, labels = tf.fill([6, 2, 2, 3], 128.0), tf.zeros([6], tf.int32)

    def never_wrong(images, training=False):
        del training
        return tf.reshape(images, [-1, 12]) @ weights + [9.0, 0.0, 0.0]

    for attack in (
        RestartedPGD(epsilon=20, step_size=0.5, steps=1, restarts=2),
        Square(epsilon=20, queries=2),
    ):
        points = attack(never_wrong, images, labels, tf.constant([1, 2])).numpy()
        assert len(np.unique(points.reshape(6, -1), axis=0)) == 6, attack.name
        again = attack(never_wrong, images, labels, tf.constant([1, 2])).numpy()
        np.testing.assert_array_equal(points, again)


def test_every_number_of_a_seed_is_drawn_for_one_thing(monkeypatch):
    folded, fold = [], noise.fold_in
    monkeypatch.setattr(
        noise, "fold_in", lambda seed, data: folded.append(data) or fold(seed, data)
    )
    ball = {"epsilon": 8.0, "step_size": 1.0, "steps": 1, "norm": "l2", "random_start": 0.5}
    attack = Drawn([TargetedPGD("random", **ball)] * 2)
    images = tf.fill([2, 2, 2, 1], 128.0)
    attack(lambda x, training: tf.reshape(x, [-1, 4]), images, [0, 1], tf.constant([1, 2]))
    # Which attack, which class, how far the start is, and whether there is one.
    assert len(folded) == len(set(folded)) == 4


@pytest.mark.parametrize("seed", [(3, 4), (-(2**31), 5), (6, -1)])
def test_numbers_are_those_of_tensorflow_and_the_same_in_a_compiled_step(seed):
    shape = [1, 3, 3, 1]
    like, seed = tf.zeros(shape), tf.constant(seed)

    def draw():
        draws = [one(seed, like) for one in (noise.normal, noise.unit_ball, noise.l1_unit_ball)]
        return [noise.fold_in(seed, 7), noise.uniform(seed, like, -8.0, 8.0), *draws]

    found, compiled = draw(), tf.function(draw, jit_compile=True, autograph=False)()
    np.testing.assert_array_equal(
        found[0], tf.random.experimental.stateless_fold_in(seed, tf.constant(7))
    )
    np.testing.assert_array_equal(found[1], tf.random.stateless_uniform(shape, seed, -8.0, 8.0))
    kernel = tf.random.stateless_normal(shape, seed)
    np.testing.assert_allclose(found[2], kernel, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(compiled, found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", [(3, 4), (6, -1)])
def test_a_stepped_attack_gives_images_the_same_seeds_in_a_compiled_step(seed):
    class Seeds(stepped.Stepped):
        num_steps = 0

        def start(self, images, labels, seeds, logits):
            told = tf.cast(seeds, tf.float32)[:, :, None, None]
            return stepped.begin(images, labels, seeds, adversarial=told)

        def step(self, network, state):
            return state

    def draw():
        images = tf.zeros([3, 2, 1, 1])
        return Seeds()(lambda x, training: x[:, :, 0, 0], images, [0, 1, 0], tf.constant(seed))

    found = draw().numpy()
    compiled = tf.function(draw, jit_compile=True, autograph=False)()
    np.testing.assert_array_equal(compiled, found)
    expected = tf.random.stateless_uniform([3, 2], seed, None, None, tf.int32)
    np.testing.assert_array_equal(found[..., 0, 0], tf.cast(expected, tf.float32))
