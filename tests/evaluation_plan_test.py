"""What an evaluation is going to run, before it runs anything; how its curve is put together."""

import types

import numpy as np
import pytest

from sat_tf.attacks import PGD
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.attacks.square import Square
from sat_tf.attacks.targeted import SteppedTargetedPGD
from sat_tf.attacks.trajectory import Trajectory
from sat_tf.evaluation import plan, store
from sat_tf.evaluation.options import Options
from sat_tf.evaluation.runner import Clean
from sat_tf.evaluation.session import Session
from sat_tf.evaluation.store import Store
from sat_tf.runs import distribution
from tests import linear_network

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

    def attack(stage, standing, share, reported):
        assert not reported
        seen.append(standing.tolist())
        return [types.SimpleNamespace(standing=standing & alone[stage.radius])]

    def stages(radius):
        sweeps = [types.SimpleNamespace(seconds=radius)]
        return [types.SimpleNamespace(radius=radius, sweeps=sweeps)]

    curve = {0.0: [], 1.0: stages(1.0), 2.0: [], 4.0: stages(4.0)}
    planned = types.SimpleNamespace(curve=curve, own_radii={2.0})
    outcomes = [types.SimpleNamespace(standing=bits(text)) for text in ("11111", "10110")]
    clean = types.SimpleNamespace(correct=bits("11110"))
    session = types.SimpleNamespace(_attack=attack, planned=planned, clean=clean)
    points = Session._curve(session, outcomes, bits("11111"))
    expected = ["11110", "11100", "10100", "10000"]
    assert [point.epsilon for point in points] == [0.0, 1.0, 2.0, 4.0]
    for point, text in zip(points, expected, strict=True):
        np.testing.assert_array_equal(point.standing, bits(text))
    assert [point.seconds for point in points] == [0, 1.0, 0, 4.0]
    assert seen == [bits(text).tolist() for text in (expected[0], expected[2])]


def test_an_image_is_settled_once_no_attack_is_left_for_it():
    attacks = [pgd(90.0), Square(epsilon=90.0, norm="l2", queries=2)]
    planned = plan.make(attacks, Options(last_iterate=False), 4, 10)
    first, second = planned.sweeps
    clean = types.SimpleNamespace(correct=bits("1101"))
    first.done[:], first.broken[:] = bits("1101"), bits("1000")
    second.done[:] = bits("0100")
    # Of the others one fell to the first, one was wrong when clean; the last has the second left.
    settled = Store.settled(types.SimpleNamespace(plan=planned, clean=clean))
    assert settled.tolist() == [True, True, True, False]
    second.done[3] = True
    assert Store.settled(types.SimpleNamespace(plan=planned, clean=clean)).all()


def test_every_option_reaches_the_part_that_it_is_for(tmp_path):
    network = linear_network.LinearNetwork(4)
    images = linear_network.images(9)
    mirrored = distribution.strategy("mirrored")
    options = Options(
        restarts=3, batch_size=6, num_images=7, fold_batch_norm=False, seed=5, strategy=mirrored,
        verdict_file=tmp_path / "v.npz", image_file=tmp_path / "i.npy", image_type="uint8",
        overwrite=True, save_every=4.5,
    )  # fmt: skip
    made = Session(network, (images, network.labels(images)), [pgd(9.0)], options)
    assert (made.stream.batch_size, made.stream.num_images) == (6, 7)
    assert (made.runner.seed, made.runner.strategy) == (5, mirrored)
    assert [one for one, _ in made.runner.attacked] == [network]
    next(iter(made.stream))  # by which the shape is known
    found = np.ones(7, bool)
    clean = Clean(np.arange(7), found, found, found, 4, "the images")
    planned = plan.make(made.attacks, options, 7, 4)
    assert len(planned.sweeps) == 3
    store = Store(planned, made.stream, clean, options, "the weights")
    assert store.save_every == 4.5 and len(store.examples) == 6
    shape = (7, *linear_network.SHAPE)
    assert (store.images.path, store.images.shape) == (tmp_path / "i.npy", shape)
    verdicts = store.verdicts
    assert (verdicts.path, verdicts.overwrite) == (tmp_path / "v.npz", True)
    assert store.images.image_type == verdicts.image_type == "uint8"
    told = {"network": "the weights", "images": "the images", "seed": 5, "batch_size": 6,
            "fold_batch_norm": False}  # fmt: skip
    identity = dict(verdicts.identity)
    assert [key for key, _ in identity.pop("attacks")] == [one.key for one in planned.sweeps]
    assert identity == told and verdicts.asked == "pgd-3"
    options = Options(batch_size=6, verdict_file=tmp_path / "v.npz")
    verdicts = Store(planned, made.stream, clean, options, "").verdicts
    assert verdicts.image_type is None and verdicts.overwrite is False


@pytest.mark.parametrize("shown", [True, False])
def test_progress_counts_the_steps_of_all_images_and_every_look_may_save(shown):
    saved = []
    session = types.SimpleNamespace(
        options=types.SimpleNamespace(show_progress=shown),
        store=types.SimpleNamespace(save_if_due=lambda: saved.append(1)),
    )
    sweep = types.SimpleNamespace(title="pgd-4", attack=types.SimpleNamespace(num_steps=5))
    made, flying = Session._countdown(session, sweep, 8), []
    told = made.label, made.total, made.quiet, made.note(14)
    assert told == ("pgd-4", 40, not shown, "2/8 images")
    watch = Session._watch(session, types.SimpleNamespace(in_flight=flying.append))
    watch(3)
    watch(0)
    assert flying == [3, 0] and len(saved) == 2


def test_verdicts_are_saved_once_the_time_between_two_saves_has_passed(monkeypatch):
    now, saved = [100.0], []
    monkeypatch.setattr(store, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    kept = object.__new__(Store)
    kept.plan, kept.examples, kept.images = types.SimpleNamespace(sweeps=[]), None, None
    kept.verdicts = types.SimpleNamespace(save=lambda *_: saved.append(now[0]))
    kept.save_every, kept.saved_at = 30.0, 100.0
    for moment in (110.0, 130.0, 131.0, 140.0, 161.0, 162.0):
        now[0] = moment
        kept.save_if_due()
    assert saved == [131.0, 162.0]
