"""What stepped attacks do from run to run and from step to step: starts, averages, what is kept."""

import numpy as np
import pytest
import tensorflow as tf

from sat_tf.attacks import PGD, autoattack, geometry, losses
from sat_tf.attacks.apgd import APGD
from sat_tf.attacks.fab import FAB
from sat_tf.attacks.own import OwnAttack
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.attacks.square import Square
from sat_tf.attacks.targeted import SteppedTargetedPGD
from sat_tf.attacks.trajectory import Trajectory
from tests import linear_network

COUNT, DIMENSION = 6, linear_network.DIMENSION
WEIGHTS = np.random.default_rng(0).normal(size=(DIMENSION, 4))


def images():
    return linear_network.images(COUNT, low=40.0, high=215.0)


def seeds():
    return tf.random.stateless_uniform([COUNT, 2], [5, 6], None, None, tf.int32)


def sure(points, training=False):
    """Never errs, with a loss that rises and falls on the way, so that the last is seldom worst."""
    del training
    waves = tf.sin(tf.reshape(points, [-1, DIMENSION]) @ tf.constant(WEIGHTS / 40, tf.float32))
    return waves + tf.constant([9.0, 0.0, 0.0, 0.0])


def states(attack, network=sure):
    pixels, labels = tf.constant(images()), tf.zeros([COUNT], tf.int32)
    state = attack.start(pixels, labels, seeds(), network(pixels))
    step = tf.function(lambda state: attack.step(network, state), autograph=False)
    for _ in range(attack.num_steps):
        yield state
        state = step(state)
    yield state


RUNS = {
    "pgd": (RestartedPGD(epsilon=8.0, step_size=2.0, steps=2, restarts=3), 3),
    "pgd-l2": (RestartedPGD(epsilon=20.0, step_size=5.0, steps=2, restarts=3, norm="l2"), 3),
    "apgd": (APGD(epsilon=8.0, iterations=2, restarts=3), 3),
    "apgd-l2": (APGD(epsilon=20.0, norm="l2", iterations=2, restarts=3), 3),
    "apgd-t": (APGD(epsilon=8.0, loss="dlr-targeted", num_targets=3, iterations=2), 3),
    "square": (Square(epsilon=8.0, queries=3, restarts=3), 3),
    "square-l2": (Square(epsilon=20.0, norm="l2", queries=3, restarts=3), 3),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_run_and_every_image_starts_somewhere_else(name):
    attack, length = RUNS[name]
    found = [state["iterate"].numpy() - images() for state in states(attack)]
    starts = np.stack([found[run * length] for run in range(3)])
    flat = starts.reshape(3 * COUNT, -1).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    if name == "square":  # eight signs decide its stripes, so some are alike by chance
        assert len(np.unique(np.sign(flat), axis=0)) > 0.7 * len(flat)
        return
    likeness = np.abs(flat @ flat.T - np.eye(len(flat)))
    assert likeness.max() < 0.85 + 0.1 * (name == "square-l2")
    assert np.median(likeness) < 0.5


def test_attacks_have_the_names_and_targets_of_their_settings():
    for restarts, name in ((1, "pgd-2"), (3, "pgd-2x3")):
        attack = RestartedPGD(epsilon=8.0, step_size=2.0, steps=2, restarts=restarts)
        assert (attack.name, attack.num_steps) == (name, 3 * restarts)
    assert APGD(epsilon=8.0, loss="dlr-targeted").num_targets == FAB(epsilon=8.0).num_targets == 9
    assert APGD(epsilon=8.0).num_targets == FAB(epsilon=8.0, targeted=False).num_targets == 0


def test_fab_s_later_runs_start_somewhere_else():
    attack = FAB(epsilon=8.0, num_targets=1, iterations=2, restarts=4)
    found = [state["iterate"].numpy() - images() for state in states(attack)]
    starts = np.stack([found[run * 2] for run in (1, 2, 3)]).reshape(3 * COUNT, -1)
    assert len(np.unique(np.sign(starts), axis=0)) == 3 * COUNT
    np.testing.assert_allclose(np.abs(starts).max(1), 4.0, atol=1e-4)


KEPT = {
    "pgd": RestartedPGD(epsilon=30.0, step_size=12.0, steps=4, restarts=3),
    "apgd-ce": APGD(epsilon=30.0, iterations=8, restarts=2),
    "apgd-l2": APGD(epsilon=60.0, norm="l2", iterations=8),
    "apgd-l1": APGD(epsilon=300.0, norm="l1", iterations=8),
    "square": Square(epsilon=30.0, queries=6, restarts=2),
}


@pytest.mark.parametrize("name", KEPT)
def test_where_nothing_breaks_the_worst_point_that_was_tried_is_kept(name):
    attack = KEPT[name]
    walked = list(states(attack))
    points = np.stack([state["iterate"].numpy() for state in walked[:-1]])
    if name == "pgd":
        length = len(points)  # the worst of all runs
    else:
        length = len(points) // attack.restarts  # the worst of the last run
    logits = np.stack([sure(point).numpy() for point in points]).astype(np.float64)
    if name == "square":
        badness = logits[:, :, 1:].max(2) - logits[:, :, 0]
    else:
        badness = np.log(np.exp(logits[:, :, 1:]).sum(2)) - logits[:, :, 0]
    worst = badness[-length:].argmax(0)
    assert (worst < length - 1).any(), "the last point must not always be the worst"
    expected = points[-length:][worst, np.arange(COUNT)]
    np.testing.assert_allclose(walked[-1]["adversarial"], expected, atol=1e-4)
    assert not walked[-1]["broken"].numpy().any()


def test_a_stage_of_the_wide_search_begins_at_the_best_point_so_far():
    attack = APGD(epsilon=200.0, norm="l1", iterations=20, wide=True)
    found = list(states(attack))
    begins = np.flatnonzero(attack.schedule["first"] & ~attack.schedule["fresh"])
    assert len(begins) == 2
    for step in begins:
        radius = 200.0 * attack.schedule["factor"][step]
        # What was evaluated last is not among the best that the state before it knew.
        best = found[step]["best"]
        expected = geometry.project(best, found[step]["images"], radius, "l1")
        np.testing.assert_allclose(found[step]["iterate"], expected, atol=1e-3)
        assert (np.abs(found[step - 1]["iterate"] - best).max((1, 2, 3)) > 1).any()


def test_every_point_of_the_wide_search_that_is_kept_lies_in_the_ball():
    attack = APGD(epsilon=60.0, norm="l1", wide=True, iterations=10, restarts=2)
    walked = list(states(attack))
    for state in walked:
        moves = linear_network.sizes(state["adversarial"] - images(), "l1")
        assert (moves <= 60 * (1 + 1e-5) + 1e-3).all()
    # Stages go on from the best point, drawn into the smaller ball.
    first, fresh = attack.schedule["first"], attack.schedule["fresh"]
    for row in np.flatnonzero(first & ~fresh):
        state = walked[row]
        radius = 60 * attack.schedule["factor"][row]
        allowed = attack.project(
            state["best"], state, tf.fill([COUNT], tf.cast(radius, tf.float32))
        )
        np.testing.assert_allclose(state["iterate"], allowed, atol=1e-4)
        assert (state["iterate"].numpy() != images()).any((1, 2, 3)).all()


@pytest.mark.parametrize("make", [RestartedPGD, APGD])
def test_averaged_gradients_take_as_many_evaluations_as_they_say(make):
    calls = []

    def counting(points, training=False):
        calls.append(1)
        return sure(points)

    steps = {"step_size": 1.0, "steps": 2} if make is RestartedPGD else {"iterations": 2}
    attack = make(epsilon=4.0, eot_steps=5, **steps)
    labels = tf.zeros([COUNT], tf.int32)
    state = attack.start(images(), labels, seeds(), None)
    attack.step(counting, state)
    assert len(calls) == 5


def test_the_ensembles_of_l1_have_the_restarts_and_targets_of_their_paper():
    ce, targeted, fab, square = autoattack.ensemble(epsilon=12.0, norm="l1", num_classes=10)
    assert (fab.num_targets, fab.num_steps, square.num_steps) == (9, 900, 5000)
    assert (ce.restarts, ce.num_targets, ce.wide) == (5, 0, True)
    assert (targeted.restarts, targeted.num_targets, targeted.wide) == (1, 5, True)
    for attack, runs in ((ce, 5), (targeted, 5)):
        assert attack.num_steps == runs * 103  # two more first points than iterations
        factors = attack.schedule["factor"][:103].tolist()
        assert factors == [3.0] * 31 + [2.0] * 31 + [1.0] * 41
    few = autoattack.ensemble(epsilon=12.0, norm="l1", num_classes=4)[1]
    assert few.num_targets == 3
    alone = autoattack.make("apgd-t", epsilon=1.0, num_classes=1000)
    assert (alone.num_targets, alone.num_steps) == (9, 9 * 101)


def test_a_dlr_of_close_logits_is_not_damped():
    logits = tf.constant([[3e-4, 1e-4, 0.0, -2e-4]])
    assert losses.dlr(logits, tf.constant([0])).numpy() == pytest.approx(-2 / 3, rel=1e-3)
    found = losses.targeted_dlr(logits, tf.constant([0]), tf.constant([2])).numpy()
    assert found == pytest.approx(-3 / 4, rel=1e-3)
    tied = losses.dlr(tf.zeros([1, 3]), tf.constant([0])).numpy()
    assert np.isfinite(tied).all()


EVERY = {
    **{name: attack for name, (attack, _) in RUNS.items()},
    "fab": FAB(epsilon=8.0, targeted=False, iterations=2),
    "fab-t": FAB(epsilon=8.0, num_targets=2, iterations=2),
    "towards": SteppedTargetedPGD("random", epsilon=8.0, step_size=2.0, steps=2),
    "trajectory": Trajectory(PGD(epsilon=8.0, step_size=2.0, steps=2)),
    "own": OwnAttack(PGD(epsilon=8.0, step_size=2.0, steps=2), name="x", epsilon=8.0, norm="linf"),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_attack_asks_the_network_as_it_predicts(name):
    """In training mode, which none of them may ask for, this one is wrong everywhere."""
    modes = []

    def network(points, training=False):
        modes.append(training)
        return sure(points) * (-1.0 if training else 1.0)

    attack, pixels = EVERY[name], tf.constant(images())
    labels = tf.zeros([COUNT], tf.int32)
    state = attack.start(pixels, labels, seeds(), sure(pixels))
    state = attack.step(network, state)
    assert modes and not any(modes) and not state["broken"].numpy().any()


@pytest.mark.parametrize(
    "attack",
    [
        APGD(epsilon=8.0, loss="dlr-targeted", num_targets=2, iterations=1, restarts=2),
        FAB(epsilon=8.0, num_targets=2, iterations=1, restarts=2),
    ],
)
def test_every_target_has_its_restarts_before_the_next(attack, monkeypatch):
    """From the second largest logit of the clean image downwards."""
    seen = []
    monkeypatch.setattr(
        losses, "logit", lambda logits, classes, plain=losses.logit: seen.append(classes.numpy())
        or plain(logits, classes),
    )  # fmt: skip
    pixels, labels = tf.constant(images()), tf.zeros([COUNT], tf.int32)
    logits = sure(pixels).numpy()
    state = attack.start(pixels, labels, seeds(), tf.constant(logits))
    targets = []
    for _ in range(attack.num_steps):
        seen.clear()
        state = attack.step(sure, state)
        targets += [found for found in seen if found.any()][:1]  # the label's are zeros
    order = np.argsort(-logits, axis=1)[:, 1:3]
    each = attack.num_steps // 2
    assert len(targets) == attack.num_steps
    for number, found in enumerate(targets):
        np.testing.assert_array_equal(found, order[:, number // each])
