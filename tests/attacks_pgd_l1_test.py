"""PGD in L1 against float64: its projection by a solver, its steps, its starts, its strength."""

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from sat_tf.attacks import PGD, geometry, noise
from sat_tf.attacks.pgd_restarts import RestartedPGD
from tests.linear_network import DIMENSION, SHAPE, LinearNetwork, images, largest_gain, sizes

COUNT = 2000


def solved(point, center, epsilon):
    """Solves `min |z - point|^2` over ball and range by SLSQP, with z = c + p - n, p, n >= 0."""
    delta, size = (point - center) / 255, len(center)

    def distance(split):
        away = split[:size] - split[size:] - delta
        return 0.5 * away @ away, np.concatenate([away, -away])

    room = [(0, 1 - c / 255) for c in center] + [(0, c / 255) for c in center]
    ball = {
        "type": "ineq",
        "fun": lambda s: epsilon / 255 - s.sum(),
        "jac": lambda s: -np.ones_like(s),
    }
    # Begins elsewhere than the answer, inside.
    begin = np.full(2 * size, epsilon / (4 * size * 255))
    found = scipy.optimize.minimize(
        distance, begin, jac=True, bounds=room, constraints=[ball], method="SLSQP",
        options={"ftol": 1e-10, "maxiter": 1000},
    )  # fmt: skip
    return center + 255 * (found.x[:size] - found.x[size:])


def projected(point, center, epsilon):
    """Finds the threshold of the projection in float64, by bisection."""
    size, room = np.abs(point - center), np.where(point > center, 255 - center, center)

    def excess(threshold):
        return np.clip(size - threshold, 0, room).sum() - epsilon

    threshold = scipy.optimize.brentq(excess, 0, size.max()) if excess(0) > 0 else 0
    return center + np.sign(point - center) * np.clip(size - threshold, 0, room)


@pytest.mark.parametrize("epsilon", [3.0, 60.0, 800.0])
def test_the_projection_is_that_of_a_solver(epsilon):
    rng = np.random.default_rng(int(epsilon))
    center = rng.choice([0.0, 255.0, 40.0, 200.0], (4, 6)) + rng.uniform(0, 1, (4, 6))
    center = np.clip(center, 0, 255)
    point = center + rng.normal(size=(4, 6)) * 120
    expected = [solved(p, c, epsilon) for p, c in zip(point, center, strict=True)]
    exact = [projected(p, c, epsilon) for p, c in zip(point, center, strict=True)]
    both = [tf.constant(x.reshape(4, 2, 3, 1), tf.float32) for x in (point, center)]
    found = geometry.project(*both, epsilon, "l1").numpy().reshape(4, 6)
    np.testing.assert_allclose(found, expected, atol=0.05)
    np.testing.assert_allclose(found, exact, atol=1e-3)
    assert np.abs(found - center).sum(1).max() <= epsilon * (1 + 1e-5)


def test_a_step_moves_the_largest_twentieth_alike_and_is_projected():
    network, x = LinearNetwork(2, seed=3), images(5, low=0.0, high=255.0)
    labels = network.labels(x)
    x = np.clip(x, 80, 175)  # far from the ends of the range, which are left aside
    attack = PGD(epsilon=40, step_size=30, steps=3, random_start=False, norm="l1")
    found = attack(network, tf.constant(x), tf.constant(labels)).numpy().reshape(5, DIMENSION)
    slope = network.weights[:, 1 - labels].T - network.weights[:, labels].T
    kept = int(np.ceil(DIMENSION / 20))
    largest = np.argsort(-np.abs(slope), 1)[:, :kept]
    direction = np.zeros_like(slope)
    np.put_along_axis(direction, largest, np.sign(np.take_along_axis(slope, largest, 1)), 1)
    expected = flat = x.reshape(5, DIMENSION).astype(np.float64)
    for _ in range(3):
        ahead = expected + 30 * direction / kept
        expected = np.array([projected(p, c, 40) for p, c in zip(ahead, flat, strict=True)])
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert (np.abs(found - flat) > 0.01).sum(1).max() == kept == 2


def test_many_steps_come_near_the_strongest_perturbation():
    network, x = LinearNetwork(2, seed=4), images(8, low=0.0, high=255.0)
    labels = network.labels(x)
    epsilon = 500.0  # more than the heaviest two coordinates have room for
    attack = PGD(epsilon=epsilon, step_size=epsilon / 4, steps=40, norm="l1")
    found = tf.function(attack)(network, tf.constant(x), tf.constant(labels), [1, 2]).numpy()
    assert (sizes(found - x, "l1") <= epsilon * (1 + 1e-5)).all()
    assert found.min() >= 0 and found.max() <= 255
    for before, after, label in zip(x, found, labels, strict=True):
        weights = network.weights[:, 1 - label] - network.weights[:, label]
        gain = weights @ (after - before).astype(np.float64).ravel()
        best = largest_gain(weights, before.ravel().astype(np.float64), epsilon, "l1")
        assert 0.85 * best < gain <= best * (1 + 1e-5)


@pytest.mark.parametrize("kind", ["one for the batch", "one an image", "hashed"])
def test_points_of_the_unit_ball_are_uniform(kind):
    seeds, shape = tf.random.stateless_uniform([COUNT, 2], [5, 6], None, None, tf.int32), [2, 1, 2]
    if kind == "hashed":
        points = noise.hashed_l1_unit_ball(seeds, 3, shape)
    else:
        seed = tf.constant([3, 4]) if kind == "one for the batch" else seeds
        points = tf.function(noise.l1_unit_ball, autograph=False)(seed, tf.zeros([COUNT, *shape]))
    flat = points.numpy().reshape(COUNT, 4).astype(np.float64)
    radius = np.abs(flat).sum(1)
    # Volume grows with the fourth power of the radius; a coordinate's size over it is Beta(1, 3).
    tests = [scipy.stats.kstest(radius**4, "uniform")]
    for column in flat.T:
        share = np.abs(column) / radius
        tests.append(scipy.stats.kstest(share, scipy.stats.beta(1, 3).cdf))
        tests.append(scipy.stats.spearmanr(radius, share))
        assert abs(np.sign(column).mean()) < 5 / np.sqrt(COUNT)
    assert min(one.pvalue for one in tests) > 1e-4


@pytest.mark.parametrize("attack", [PGD, RestartedPGD])
def test_starts_lie_in_the_ball_and_belong_to_the_image(attack):
    x = tf.constant(images(6))
    made = attack(epsilon=50.0, step_size=10.0, steps=1, norm="l1")
    seeds = tf.random.stateless_uniform([6, 2], [1, 2], None, None, tf.int32)

    def start(images, seeds):
        if attack is PGD:
            return made.start(images, seeds).numpy()
        state = made.start(images, tf.zeros([len(images)], tf.int32), seeds, None)
        return state["iterate"].numpy()

    found = start(x, seeds)
    moved = sizes(found - x, "l1")
    assert (moved <= 50.001).all() and moved.min() > 20 and np.unique(moved).size == 6
    np.testing.assert_array_equal(start(x[2:4], seeds[2:4]), found[2:4])
    assert SHAPE == found.shape[1:]
