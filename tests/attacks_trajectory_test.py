"""An evaluation's PGD is PGD: its iterates, however sure the network is, and the exact verdicts."""

import numpy as np
import pytest
import tensorflow as tf

from sat_tf.attacks import PGD
from sat_tf.attacks.apgd import APGD
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.attacks.trajectory import Trajectory
from sat_tf.evaluate import Options, evaluate
from tests import linear_network

LEADS = (0.0, 8.0, 17.0, 40.0, 90.0, 120.0, 200.0)


def curved(dtype, lead):
    """Makes a network of one hidden layer in which class 1 leads by about `lead`."""
    rng = np.random.default_rng(0)
    first = tf.constant(rng.normal(size=(linear_network.DIMENSION, 8)) / 200, dtype)
    second = tf.constant(rng.normal(size=(8, 4)), dtype)
    bias = tf.constant([0.0, lead, 0.0, 0.0], dtype)

    def network(images, training=False):
        del training
        flat = tf.reshape(tf.cast(images, dtype), [-1, linear_network.DIMENSION])
        return tf.tanh(flat @ first) @ second + bias

    return network


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_iterates_are_those_of_pgd_however_sure_the_network_is(norm, dtype):
    images = tf.constant(linear_network.images(6, low=0.0, high=255.0))
    labels = tf.ones([6], tf.int32)
    seeds = tf.stack([tf.range(6), tf.range(6) + 9], 1)
    options = dict(epsilon=8.0, step_size=2.5, norm=norm)
    for lead in LEADS:
        network = curved(dtype, lead)
        trajectory = Trajectory(PGD(steps=3, **options))
        state = trajectory.start(images, labels, seeds, None)
        start = state["iterate"]
        for steps in (1, 2, 3):
            state = trajectory.step(network, state)
            expected = PGD(steps=steps, **options)(network, images, labels, seeds)
            np.testing.assert_array_equal(state["iterate"], expected)
        moved = linear_network.sizes(state["iterate"] - start, norm)
        assert (moved > 2.4).all(), f"a lead of {lead} stopped it"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_restarted_pgd_takes_the_steps_of_pgd_however_sure_the_network_is(norm):
    images = tf.constant(linear_network.images(6))
    labels = tf.ones([6], tf.int32)
    options = dict(epsilon=8.0, step_size=2.5, norm=norm, random_start=False)
    for lead in LEADS:
        network = curved(tf.float32, lead)
        attack = RestartedPGD(steps=2, **options)
        state = attack.start(images, labels, tf.zeros([6, 2], tf.int32), None)
        losses = []
        for steps in (1, 2):
            state = attack.step(network, state)
            losses.append(state["best_loss"].numpy())
            expected = PGD(steps=steps, **options)(network, images, labels)
            np.testing.assert_allclose(state["iterate"], expected, atol=2e-3)
        assert (losses[1] > losses[0]).all(), f"a lead of {lead} has no order"


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("last_iterate", [True, False])
def test_verdicts_on_a_sure_network_are_those_of_the_exact_distances(norm, last_iterate):
    network = linear_network.LinearNetwork(3)
    images = linear_network.images(30)
    labels = network.labels(images)
    distances = linear_network.distances(network, images, labels, norm)
    lead = np.sort(network.logits(images), 1)
    factor = 200 / (lead[:, -1] - lead[:, -2]).max()
    network.weights, network.bias = network.weights * factor, network.bias * factor
    epsilon = 2.0 * float(np.median(distances))
    attacks = [
        PGD(epsilon=epsilon, step_size=epsilon / 4, steps=20, norm=norm),
        APGD(epsilon=epsilon, norm=norm, iterations=30),
    ]
    certain = np.abs(distances / epsilon - 1) > 0.02
    for attack in attacks:
        report = evaluate(
            network, (images, labels), [attack], Options(batch_size=10, last_iterate=last_iterate)
        )
        (outcome,) = report.outcomes
        expected = distances > epsilon
        np.testing.assert_array_equal(outcome.standing[certain], expected[certain])
        if outcome.last_iterate is not None:
            np.testing.assert_array_equal(outcome.last_iterate[certain], expected[certain])
    (check,) = [check for check in report.checks if check["name"] == "gradients"]
    assert check["passed"], "there is a direction, however small the loss"


def test_what_a_script_of_verdicts_leaves_behind():
    # Rows: is the iterate after k steps misclassified? Columns: images.
    script = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]], bool)
    images = tf.constant(linear_network.images(4))
    labels = tf.zeros([4], tf.int32)
    weights = tf.constant(np.random.default_rng(0).normal(size=(24, 1)), tf.float32)
    calls = []

    def network(points, training=False):
        del training
        sign = np.where(script[len(calls)], -1.0, 1.0).astype(np.float32)
        slope = tf.reshape(points - tf.stop_gradient(points), [4, -1]) @ weights
        calls.append(1)
        return tf.concat([sign[:, None] + slope, 0 * slope], 1)

    trajectory = Trajectory(PGD(epsilon=8, step_size=1, steps=3))
    seeds = tf.stack([tf.range(4), tf.range(4)], 1)
    state, iterates = trajectory.start(images, labels, seeds, None), []
    for k in range(4):
        iterates.append(state["iterate"].numpy())
        state = trajectory.step(network, state)
        assert state["broken"].numpy().tolist() == (
            [False] * 4 if k < 3 else [True, False, True, True]
        )
    np.testing.assert_array_equal(state["wrong"], script.T)
    expected = [iterates[k][n] for n, k in enumerate([1, 3, 0, 3])]  # first wrong, else the last
    np.testing.assert_array_equal(state["adversarial"], np.stack(expected))
    np.testing.assert_array_equal(state["iterate"], iterates[3])
    assert (np.ptp(np.stack(iterates), axis=0) > 0).any((1, 2, 3)).all()
