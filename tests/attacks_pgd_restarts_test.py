"""PGD with restarts: the iterates of PGD, the worst of every image's own runs."""

import numpy as np
import pytest
import tensorflow as tf

from sat_tf.attacks import geometry
from sat_tf.attacks.pgd import PGD
from sat_tf.attacks.pgd_restarts import RestartedPGD
from tests import linear_network

SEED = tf.constant([3, 4])


def problem(norm, count=24):
    network = linear_network.LinearNetwork(3)
    images = linear_network.images(count, low=0.0, high=255.0)
    labels = network.labels(images)
    distances = linear_network.distances(network, images, labels, norm)
    return network, images, labels, distances


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_without_restarts_the_iterates_are_those_of_pgd(norm):
    network, images, labels, distances = problem(norm)
    epsilon = float(0.8 * distances.min())  # nothing breaks, so the best iterate comes back
    arguments = dict(epsilon=epsilon, step_size=epsilon / 7, random_start=False, norm=norm)
    state_machine = RestartedPGD(steps=5, **arguments)
    state = state_machine.start(images, labels, tf.zeros([24, 2], tf.int32), network(images))
    np.testing.assert_array_equal(state["iterate"], images)
    for steps in range(1, 6):
        state = state_machine.step(network, state)
        expected = PGD(steps=steps, **arguments)(network, images, labels)
        np.testing.assert_allclose(state["iterate"], expected, atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_breaks_exactly_the_images_nearer_to_the_boundary_than_epsilon(norm):
    network, images, labels, distances = problem(norm)
    epsilon = float(np.median(distances))
    attack = RestartedPGD(epsilon=epsilon, step_size=epsilon / 4, steps=40, norm=norm, restarts=2)
    adversarial = tf.function(attack)(network, images, labels, SEED).numpy()
    broken = network.labels(adversarial) != labels
    certain = np.abs(distances / epsilon - 1) > 0.02
    np.testing.assert_array_equal(broken[certain], (distances < epsilon)[certain])
    assert broken.any() and not broken.all()
    assert adversarial.min() >= 0 and adversarial.max() <= 255
    assert (linear_network.sizes(adversarial - images, norm) <= epsilon * (1 + 1e-5) + 2e-5).all()


def test_more_restarts_break_no_fewer_images_and_each_keeps_its_own_worst():
    network, images, labels, distances = problem("linf")
    epsilon = float(1.3 * distances.max())
    seeds = tf.range(48)[:, None] + [0, 7]
    seeds = tf.reshape(seeds, [48, 2])[:24]
    verdicts = []
    for restarts in (1, 3, 9):
        # One short step: whether an image breaks hangs on where its runs start.
        attack = RestartedPGD(epsilon=epsilon, step_size=0.2 * epsilon, steps=1, restarts=restarts)
        state = attack.start(images, labels, seeds, network(images))
        for _ in range(attack.num_steps):
            state = attack.step(network, state)
        verdicts.append(state["broken"].numpy())
        hit = network.labels(state["adversarial"]) != labels
        np.testing.assert_array_equal(hit, verdicts[-1])
    few, some, many = verdicts
    assert (few <= some).all() and (some <= many).all()
    assert few.sum() < many.sum()


def test_any_iterate_counts_and_the_first_that_breaks_is_returned():
    network, images, labels, distances = problem("linf")
    # So far out that the first step breaks every image.
    attack = RestartedPGD(epsilon=60.0, step_size=60.0, steps=3, random_start=False)
    state = attack.start(images, labels, tf.zeros([24, 2], tf.int32), network(images))
    state = attack.step(network, state)
    assert not state["broken"].numpy().any()
    second = state["iterate"].numpy()
    state = attack.step(network, state)
    assert (state["broken"].numpy() == (network.labels(second) != labels)).all()
    assert state["broken"].numpy().any()
    later = attack.step(network, state)
    where = state["broken"].numpy()
    np.testing.assert_array_equal(later["adversarial"].numpy()[where], second[where])


def test_restarts_of_the_same_start_are_refused():
    with pytest.raises(ValueError, match="all runs would be the same"):
        RestartedPGD(epsilon=1.0, step_size=1.0, steps=2, restarts=2, random_start=False)
    with pytest.raises(ValueError, match="restarts is 0"):
        RestartedPGD(epsilon=1.0, step_size=1.0, steps=2, restarts=0)
    with pytest.raises(ValueError, match="use one of: linf, l2, l1"):
        RestartedPGD(epsilon=1.0, step_size=1.0, steps=2, norm="l7")


def test_l2_projection_of_a_start_lies_in_the_ball():
    network, images, labels, _ = problem("l2")
    attack = RestartedPGD(epsilon=10.0, step_size=1.0, steps=1, norm="l2")
    seeds = tf.random.stateless_uniform([24, 2], [1, 2], None, None, tf.int32)
    state = attack.start(images, labels, seeds, network(images))
    moves = geometry.norms(state["iterate"] - images, "l2").numpy()
    assert (moves <= 10.001).all() and moves.max() > 5 and np.unique(moves).size == 24
