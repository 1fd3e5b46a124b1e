"""How APGD sets its steps, against the papers' rules in NumPy, and when it looks."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_tf.attacks import apgd_schedule, apgd_steps

COUNT, SHAPE = 40, (2, 5, 2)


def test_the_share_of_l1_steps_and_their_length_follow_the_algorithm():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (COUNT, *SHAPE)).astype(np.float32)
    changed = rng.random((COUNT, *SHAPE)) < rng.uniform(0.1, 1, (COUNT, 1, 1, 1))
    support = changed.sum((1, 2, 3))
    radius = rng.uniform(1, 20, COUNT).astype(np.float32)
    # On either side of 95 % of the last support; steps near the smallest allowed and far from it.
    before = np.round(support / rng.choice([0.9, 0.94, 0.96, 1.0, 1.3], COUNT), 3)
    size = (radius * rng.choice([0.101, 0.12, 0.149, 0.151, 0.3, 0.7, 1.0], COUNT)).astype("f4")
    state = {
        "best": tf.constant(np.where(changed, images + 1, images)),
        "images": tf.constant(images),
        "support": tf.constant(before, tf.float32),
        "step_size": tf.constant(size),
    }
    blank = rng.random(COUNT) < 0.5
    back, changes = apgd_steps.sparsified(state, tf.constant(radius), tf.constant(blank))
    sparser = support < 0.95 * before.astype(np.float32)
    assert 3 < sparser.sum() < COUNT - 3
    np.testing.assert_array_equal(back, sparser)
    first, kept = changes["step_size"]
    np.testing.assert_allclose(first, radius)
    shorter = np.maximum(size / 1.5, 0.1 * radius)
    np.testing.assert_allclose(kept, np.where(sparser, radius, shorter), rtol=1e-6)
    first, kept = changes["share"]
    np.testing.assert_allclose(kept, support / 20 / 1.5, rtol=1e-6)
    np.testing.assert_allclose(first, np.where(blank, 0.2, support / 20 / 1.5), rtol=1e-6)
    first, kept = changes["support"]
    np.testing.assert_allclose(first, np.where(blank, 20, support))
    np.testing.assert_allclose(kept, support)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10000), share=st.floats(0.0, 1.0))
def test_a_sparse_direction_has_norm_one_on_the_largest_coordinates(seed, share):
    gradient = np.random.default_rng(seed).normal(size=(1, *SHAPE)).astype(np.float32)
    found = apgd_steps.sparse_direction(tf.constant(gradient), tf.constant([share], tf.float32))
    kept = max(int(np.ceil(np.float32(share) * np.float32(20))), 1)
    expected = np.zeros(20)
    largest = np.argsort(-np.abs(gradient.ravel()))[:kept]
    expected[largest] = np.sign(gradient.ravel()[largest]) / kept
    np.testing.assert_allclose(found.numpy().ravel(), expected, atol=1e-6)


@pytest.mark.parametrize("rises, halves", [(7.0, True), (7.5, True), (8.0, False)])
def test_a_step_is_halved_up_to_the_share_of_rises_and_where_nothing_moved(rises, halves):
    state = {
        "rises": tf.constant([rises, 10.0, 10.0, 10.0]),
        "halved": tf.constant([False, False, True, False]),
        "checked_loss": tf.constant([1.0, 2.0, 2.0, 2.0]),
        "best_loss": tf.constant([3.0, 2.0, 2.0, 2.5]),
        "step_size": tf.constant([4.0, 4.0, 4.0, 4.0]),
    }
    window, radius = tf.fill([4], 10), tf.fill([4], 3.0)
    back, changes = apgd_steps.halved(state, radius, window, 0.75)
    assert back.numpy().tolist() == [halves, True, False, False]
    first, kept = changes["step_size"]
    assert first.numpy().tolist() == [6.0] * 4
    assert kept.numpy().tolist() == [2.0 if halves else 4.0, 2.0, 4.0, 4.0]
    assert changes["halved"][1].numpy().tolist() == back.numpy().tolist()


@settings(max_examples=50, deadline=None)
@given(iterations=st.integers(1, 400))
def test_checkpoints_follow_the_rule_for_any_number_of_iterations(iterations):
    gap, found = max(int(0.22 * iterations), 1), []
    at = gap
    while at <= iterations:
        found.append((at, gap))
        gap = max(gap - max(int(0.03 * iterations), 1), max(int(0.06 * iterations), 1))
        at += gap
    windows = apgd_schedule.checkpoint_windows(iterations, "l2")
    assert [(k + 1, windows[k]) for k in np.flatnonzero(windows)] == found
    sparse = apgd_schedule.checkpoint_windows(iterations, "l1")
    every = max(int(0.04 * iterations), 1)
    assert (np.flatnonzero(sparse) + 1).tolist() == list(range(every, iterations + 1, every))
