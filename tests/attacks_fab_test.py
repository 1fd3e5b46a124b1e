"""FAB finds the exact distance on linear networks, and its projections are the nearest points."""

import functools

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_tf.attacks import planes
from sat_tf.attacks.fab import FAB, nearest_boundary
from tests import linear_network

SEED = tf.constant([3, 4])
D = linear_network.DIMENSION


def final_state(attack, network, images, labels):
    logits = network(tf.constant(images))
    seeds = tf.random.stateless_uniform([len(images), 2], [5, 6], None, None, tf.int32)
    state = attack.start(images, labels, seeds, logits)
    step = tf.function(lambda state: attack.step(network, state), autograph=False)
    for _ in range(attack.num_steps):
        state = step(state)
    return {key: value.numpy() for key, value in state.items()}


def problem(count=24, num_classes=4):
    network = linear_network.LinearNetwork(num_classes)
    images = linear_network.images(count, low=0.0, high=255.0)
    return network, images, network.labels(images)


@functools.cache
def traced_once(norm, targeted):
    """Returns an attack of the problem's network whose step is traced once for all radii."""
    network, *_ = problem()
    targets = 3 if targeted else None
    attack = FAB(epsilon=1.0, norm=norm, targeted=targeted, num_targets=targets, iterations=40)
    attack.epsilon, step = tf.Variable(1.0), attack.step
    traced = tf.function(lambda state: step(network, state), autograph=False)
    attack.step = lambda network, state: traced(state)
    return attack


def attack_of(norm, epsilon, targeted=True):
    attack = traced_once(norm, targeted)
    attack.epsilon.assign(FAB(epsilon=epsilon, norm=norm).epsilon)
    return attack


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("targeted", [True, False])
def test_the_distance_found_is_the_exact_distance_to_the_boundary(norm, targeted):
    network, images, labels = problem()
    exact = linear_network.distances(network, images, labels, norm)
    # An epsilon of 0 counts no hit, so every image is searched to the end.
    state = final_state(attack_of(norm, 0.0, targeted), network, images, labels)
    assert (state["distance"] >= exact * (1 - 1e-4)).all()
    # Overshooting by eta leaves the hits within a percent of the boundary.
    np.testing.assert_allclose(state["distance"], exact, rtol=0.01)
    assert not state["broken"].any()
    np.testing.assert_array_equal(state["adversarial"], images)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_breaks_exactly_the_images_nearer_to_the_boundary_than_epsilon(norm):
    network, images, labels = problem()
    distances = linear_network.distances(network, images, labels, norm)
    epsilon = float(np.median(distances))
    attack = tf.function(attack_of(norm, epsilon), autograph=False)
    adversarial = attack(network, images, labels, SEED).numpy()
    broken = network.labels(adversarial) != labels
    certain = np.abs(distances / epsilon - 1) > 0.01
    np.testing.assert_array_equal(broken[certain], (distances < epsilon)[certain])
    assert broken.any() and not broken.all()
    assert adversarial.min() >= 0 and adversarial.max() <= 255
    assert (linear_network.sizes(adversarial - images, norm) <= epsilon * (1 + 1e-5) + 1e-4).all()


@pytest.mark.parametrize("alpha_max", [0.1, 0.9])  # the lengths decide beneath the second
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_is_the_formula_of_the_paper(norm, alpha_max):
    network, images, labels = problem(6, 2)
    attack = FAB(epsilon=0.0, norm=norm, num_targets=1, iterations=3, alpha_max=alpha_max)
    state = attack.start(images, labels, tf.zeros([6, 2], tf.int32), network(images))
    rng = np.random.default_rng(0)
    here = np.clip(images + rng.normal(size=images.shape) * 5, 0, 255).astype(np.float32)
    state = attack.step(network, {**state, "iterate": tf.constant(here)})
    for n, label in enumerate(labels):
        x, x0 = here[n].ravel().astype(float), images[n].ravel().astype(float)
        weights = network.weights[:, 1 - label] - network.weights[:, label]
        bias = network.bias[1 - label] - network.bias[label]
        moves, lengths = [], []
        for start in (x, x0):
            gap = weights @ start + bias
            sign = -np.sign(gap)
            length = linear_network.distance(sign * weights, start, abs(gap), norm)
            room = np.where(sign * weights > 0, 255 - start, start)
            speed = np.ones(D) if norm == "linf" else np.abs(weights)
            # the same t for all coordinates, found from the length of the move
            low, high = 0.0, 255 / speed.min()
            for _ in range(80):
                middle = (low + high) / 2
                size = np.linalg.norm(np.minimum(middle * speed, room), attack_order(norm))
                low, high = (middle, high) if size < length else (low, middle)
            moves.append(sign * np.sign(weights) * np.minimum(low * speed, room))
            lengths.append(length)
        alpha = min(lengths[0] / sum(lengths), alpha_max)
        point = (1 - alpha) * (x + 1.05 * moves[0]) + alpha * (x0 + 1.05 * moves[1])
        point = np.clip(point, 0, 255)
        if (weights @ point + bias) > 0:
            point = x0 + 0.9 * (point - x0)
        np.testing.assert_allclose(state["iterate"][n].numpy().ravel(), point, atol=2e-2)


def attack_order(norm):
    return np.inf if norm == "linf" else 2


def test_an_untargeted_step_takes_the_nearest_plane():
    network, images, labels = problem(12, 5)
    for norm, order in (("linf", 1), ("l2", 2), ("l1", np.inf)):
        gap, gradient = nearest_boundary(network, tf.constant(images), tf.constant(labels), norm)
        for n, label in enumerate(labels):
            z = network.logits(images[n])[0]
            planes = [
                (abs(z[c] - z[label]) / np.linalg.norm(w, order), z[c] - z[label], w)
                for c in range(5)
                if c != label
                for w in [network.weights[:, c] - network.weights[:, label]]
            ]
            _, expected_gap, weights = min(planes, key=lambda plane: plane[0])
            assert gap[n].numpy() == pytest.approx(expected_gap, abs=1e-4)
            np.testing.assert_allclose(gradient[n].numpy().ravel(), weights, atol=1e-6)


def test_later_restarts_begin_at_random_points_at_half_of_epsilon():
    network, images, labels = problem(5, 3)
    attack = FAB(epsilon=4.0, norm="l2", num_targets=2, iterations=2, restarts=2)
    seeds = tf.reshape(tf.range(10), [5, 2])
    state = attack.start(images, labels, seeds, network(tf.constant(images)))
    network.weights *= 1e-6  # nothing breaks
    offsets = []
    for _ in range(attack.num_steps):
        offsets.append(linear_network.sizes(state["iterate"] - images, "l2"))
        state = attack.step(network, state)
    assert (offsets[0] == 0).all() and (offsets[4] == 0).all()
    for restart in (2, 6):
        # the range may cut a start, never lengthen it
        assert (offsets[restart] <= 2.0 + 1e-4).all() and (offsets[restart] > 1.0).all()


def test_every_target_has_its_turn():
    # The runner-up's boundary is 8 pixels away; that of the third class, along other pixels, 4.
    network = linear_network.LinearNetwork(3)
    network.weights = np.zeros([D, 3])
    network.weights[:12, 1], network.weights[12:, 2] = 0.001, 0.01
    image = np.full([1, *linear_network.SHAPE], 128, np.float32)
    network.bias = np.array([0.0, -0.096, -0.48]) - network.weights.sum(0) * 128
    for restarts in (1, 2):
        attack = FAB(epsilon=0.0, num_targets=2, restarts=restarts, iterations=10)
        state = final_state(attack, network, image, np.zeros(1, np.int32))
        assert state["targets"].tolist() == [[1, 2]]
        np.testing.assert_allclose(state["distance"], 4, rtol=0.01)
    attack = FAB(epsilon=0.0, num_targets=1, iterations=10)
    state = final_state(attack, network, image, np.zeros(1, np.int32))
    np.testing.assert_allclose(state["distance"], 8, rtol=0.01)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10000),
    share=st.floats(0.0, 0.995) | st.floats(1.005, 1.3),
    power=st.integers(-6, 2),
)
def test_plane_projection_is_the_linear_program_in_linf(seed, share, power):
    points, weights, excess, reachable = plane_problem(seed, share, power)
    move = planes.plane_projection(points, weights, excess, "linf").numpy().ravel()
    x, w = points.ravel().astype(float), weights.ravel().astype(float)
    assert (x + move >= -1e-4).all() and (x + move <= 255 + 1e-4).all()
    if not reachable:
        end = np.where(w * np.sign(excess[0]) > 0, 255.0, 0.0)
        np.testing.assert_allclose(x + move, np.where(w == 0, x, end), atol=1e-3)
        return
    assert w @ move == pytest.approx(excess[0], abs=2e-5 * (np.abs(w) @ np.full(D, 255.0)))
    # minimise s over (d, s) with <w, d> = b, |d_i| <= s, x + d in the range
    ones = np.ones([D, 1])
    program = scipy.optimize.linprog(
        np.r_[np.zeros(D), 1],
        A_ub=np.block([[np.eye(D), -ones], [-np.eye(D), -ones]]),
        b_ub=np.zeros(2 * D),
        A_eq=np.r_[w, 0][None] / np.abs(w).max(),
        b_eq=[excess[0] / np.abs(w).max()],
        bounds=[*zip(-x, 255 - x, strict=True), (0, None)],
    )
    assert program.status == 0
    assert np.abs(move).max() == pytest.approx(program.fun, rel=1e-3, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10000), share=st.floats(0.01, 0.98))
def test_plane_projection_is_the_nearest_point_in_l2(seed, share):
    points, weights, excess, _ = plane_problem(seed, share, 0)
    move = planes.plane_projection(points, weights, excess, "l2").numpy().ravel()
    x, w = points.ravel().astype(float), weights.ravel().astype(float)
    assert w @ move == pytest.approx(excess[0], abs=2e-5 * (np.abs(w) @ np.full(D, 255.0)))
    # Optimality: there is a t with d = t w wherever the range does not stop the move.
    free = (x + move > 1e-3) & (x + move < 255 - 1e-3)
    factor = move[free] @ w[free] / (w[free] @ w[free])
    np.testing.assert_allclose(move[free], factor * w[free], atol=1e-2)
    wanted = x + factor * w
    assert ((wanted[~free] >= 255 - 0.1) | (wanted[~free] <= 0.1)).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10000), share=st.floats(0.0, 0.995) | st.floats(1.005, 1.3))
def test_plane_projection_is_the_linear_program_in_l1(seed, share):
    points, weights, excess, reachable = plane_problem(seed, share, 0)
    move = planes.plane_projection(points, weights, excess, "l1").numpy().ravel()
    x, w = points.ravel().astype(float), weights.ravel().astype(float)
    assert (x + move >= -1e-4).all() and (x + move <= 255 + 1e-4).all()
    if not reachable:
        end = np.where(w * np.sign(excess[0]) > 0, 255.0, 0.0)
        np.testing.assert_allclose(x + move, np.where(w == 0, x, end), atol=1e-3)
        return
    assert w @ move == pytest.approx(excess[0], abs=2e-5 * (np.abs(w) @ np.full(D, 255.0)))
    # minimise sum p + sum n over d = p - n with <w, d> = b and x + d in the range
    program = scipy.optimize.linprog(
        np.ones(2 * D),
        A_eq=np.r_[w, -w][None],
        b_eq=[excess[0]],
        bounds=[*zip(np.zeros(D), 255 - x, strict=True), *zip(np.zeros(D), x, strict=True)],
    )
    assert program.status == 0
    assert np.abs(move).sum() == pytest.approx(program.fun, rel=1e-3, abs=1e-3)


def plane_problem(seed, share, power):
    """Returns one point, weights and an excess that is a share of the most the range allows."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 255, (1, *linear_network.SHAPE)).astype(np.float32)
    points[rng.random(points.shape) < 0.2] = 0.0
    weights = (rng.normal(size=points.shape) * 10.0**power).astype(np.float32)
    weights[rng.random(points.shape) < 0.1] = 0.0
    sign = rng.choice([-1.0, 1.0])
    room = np.where(sign * weights > 0, 255.0 - points, points)
    most = np.sum(np.abs(weights.astype(float)) * room)
    return points, weights, np.array([sign * share * most], np.float32), share < 1


def test_a_flat_network_keeps_the_image_and_stays_finite():
    def network(images, training=False):
        return tf.stack(
            [tf.reduce_sum(0.0 * images, [1, 2, 3]) + 1.0, tf.zeros(tf.shape(images)[0])], 1
        )

    images = linear_network.images(3)
    labels = np.zeros(3, np.int32)
    for norm in ("linf", "l2"):
        state = final_state(FAB(epsilon=8.0, norm=norm, num_targets=1), network, images, labels)
        np.testing.assert_allclose(state["iterate"], images, atol=1e-4)
        assert not state["broken"].any() and np.isinf(state["distance"]).all()


def test_wrong_arguments_are_refused_with_a_remedy():
    for arguments, message in (
        ({"norm": "l3"}, "use one of: linf, l2, l1"),
        ({"iterations": 0}, "iterations is 0"),
        ({"targeted": False, "num_targets": 3}, "aims at no class"),
    ):
        with pytest.raises(ValueError, match=message):
            FAB(**{"epsilon": 1.0, **arguments})
    assert "10 classes" in FAB(epsilon=1.0).unavailable(6)
    assert FAB(epsilon=1.0, targeted=False).unavailable(2) is None
