"""What an evaluation is going to run, before it runs anything; how its curve is put together."""

import types

import numpy as np
import pytest

from sat_tf.attacks import PGD
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.attacks.targeted import SteppedTargetedPGD
from sat_tf.attacks.trajectory import Trajectory
from sat_tf.evaluation import plan
from sat_tf.evaluation.options import Options
from sat_tf.evaluation.session import Session

BALL = {"step_size": 21.0, "steps": 3, "norm": "l2"}


def pgd(epsilon, **options):
    return PGD(epsilon=epsilon, **BALL, **options)


def test_the_report_runs_to_the_end_and_the_curve_leaves_what_is_broken():
    radii = {40.0: [pgd(40.0)], 10.0: [pgd(10.0)], 0.0: [pgd(0.0)], 90.0: [pgd(90.0)]}
    attacks = radii[90.0]
    for last_iterate in (True, False):
        options = Options(restarts=2, last_iterate=last_iterate, curve=radii)
        planned = plan.make(attacks, options, 5, 10)
        (main,) = planned.stages
        kind = Trajectory if last_iterate else RestartedPGD
        assert main.last_iterate == last_iterate
        assert {type(sweep.attack) for sweep in main.sweeps} == {kind}
        assert list(planned.curve) == [0.0, 10.0, 40.0, 90.0] and planned.own_radii == {90.0}
        assert planned.curve[0.0] == planned.curve[90.0] == []
        for radius in (10.0, 40.0):
            ((sweep,),) = (stage.sweeps for stage in planned.curve[radius])
            assert type(sweep.attack) is RestartedPGD
            assert (sweep.attack.epsilon, sweep.attack.num_steps) == (radius, 2 * 4)
        keys = [sweep.key for sweep in planned.sweeps]
        assert len(keys) == len(set(keys)) == 2 + 1 + last_iterate


@pytest.mark.parametrize("random_start", [True, 0.3, False])
def test_restarts_change_no_setting_of_pgd(random_start):
    asked = pgd(90.0, random_start=random_start)
    ((made,),) = (
        stage.attacks for stage in plan.stages([asked], "x", 5, restarts=4, last_iterate=False)
    )
    assert vars(made.pgd) == vars(asked) and (made.epsilon, made.norm) == (90.0, "l2")
    assert (made.steps, made.num_steps) == (3, 4 * 4 if random_start else 4)


@pytest.mark.parametrize("target", ["random", "least_likely"])
def test_restarts_change_no_setting_of_pgd_towards_a_class(target):
    asked = SteppedTargetedPGD(target, epsilon=90.0, eot_steps=5, **BALL)
    ((made,),) = (
        stage.attacks for stage in plan.stages([asked], "x", 5, restarts=4, last_iterate=True)
    )
    assert vars(made.pgd) == vars(asked.pgd)
    assert (made.target, made.eot_steps, made.num_steps) == (target, 5, 16)


def bits(text):
    return np.array([one == "1" for one in text])


def test_what_a_smaller_ball_broke_stays_broken_on_the_curve():
    """Verdicts of one radius are not always those of a larger one; the curve never rises."""
    alone = {1.0: bits("11101"), 4.0: bits("11011")}
    seen = []

    def attack(stage, standing, store, reported):
        assert not reported
        seen.append(standing.tolist())
        return [types.SimpleNamespace(standing=standing & alone[stage.radius])]

    def stages(radius):
        sweeps = [types.SimpleNamespace(seconds=radius)]
        return [types.SimpleNamespace(radius=radius, sweeps=sweeps)]

    curve = {0.0: [], 1.0: stages(1.0), 2.0: [], 4.0: stages(4.0)}
    planned = types.SimpleNamespace(curve=curve, own_radii={2.0})
    outcomes = [types.SimpleNamespace(standing=bits(text)) for text in ("11111", "10110")]
    session = types.SimpleNamespace(_attack=attack)
    points = Session._curve(session, planned, bits("11110"), outcomes, None)
    expected = ["11110", "11100", "10100", "10000"]
    assert [point.epsilon for point in points] == [0.0, 1.0, 2.0, 4.0]
    for point, text in zip(points, expected, strict=True):
        np.testing.assert_array_equal(point.standing, bits(text))
    assert [point.seconds for point in points] == [0, 1.0, 0, 4.0]
    assert seen == [bits(text).tolist() for text in (expected[0], expected[2])]
