"""What sweeps noted becomes what is reported: worst of the restarts, and only what is confirmed."""

import types

import numpy as np
import pytest

from sat_tf.attacks import PGD
from sat_tf.evaluation import outcome, plan
from sat_tf.evaluation.packing.packed import Verdict
from sat_tf.evaluation.store import Store


def stage_of(steps=(2, 4), restarts=2, num_images=4):
    attacks = [PGD(epsilon=8, step_size=2, steps=count) for count in steps]
    (stage,) = plan.stages(attacks, "main", num_images, restarts=restarts, last_iterate=True)
    return stage


def wrong(*columns):
    return np.isin(np.arange(5), columns)


def verdict(index, columns, confirmed=True, image=None):
    broken = bool(columns)
    found = Verdict(index, broken, 5, image, image, 0, {"wrong": wrong(*columns)})
    return found._replace(confirmed=broken and confirmed)


def note(sweep, index, columns, confirmed=True):
    sweep.note(verdict(index, columns, confirmed), 0.0)


def test_the_worst_restart_counts_for_each_image():
    stage = stage_of()
    first, second = stage.sweeps
    note(first, 0, [3])
    note(second, 0, [1, 2])
    note(second, 1, [4])
    note(first, 2, [0, 4])
    short, long = outcome.of_stage(stage, np.array([True, True, True, True]))
    assert short.plain_steps == long.plain_steps == 4 * 2 * 5  # one run of all images, twice
    assert (short.name, long.name) == ("pgd-2", "pgd-4")
    assert short.standing.tolist() == [False, True, False, True]
    assert long.standing.tolist() == [False, False, False, True]
    assert short.broken_step.tolist() == [1, -1, 0, -1]
    assert long.broken_step.tolist() == [1, 4, 0, -1]
    assert short.last_iterate.tolist() == [False, True, True, True]
    assert long.last_iterate.tolist() == [True, False, False, True]


@pytest.mark.parametrize("random_start, runs", [(True, 3), (0.2, 3), (False, 1), (0.0, 1)])
def test_pgd_from_the_image_itself_is_run_once_however_many_restarts_are_asked_for(
    random_start, runs
):
    attack = PGD(epsilon=8, step_size=2, steps=4, random_start=random_start)
    (whole,) = plan.stages([attack], "main", 5, restarts=3, last_iterate=True)
    assert len(whole.sweeps) == len({sweep.key for sweep in whole.sweeps}) == runs
    assert len({sweep.noise for sweep in whole.sweeps}) == runs
    (leaving,) = plan.stages([attack], "main", 5, restarts=3, last_iterate=False)
    (sweep,) = leaving.sweeps
    assert sweep.attack.num_steps == runs * 5


def test_a_break_that_was_not_confirmed_leaves_the_image_standing():
    stage = stage_of()
    first, second = stage.sweeps
    note(first, 0, [1], confirmed=False)
    note(first, 1, [1], confirmed=False)
    note(second, 1, [3])
    note(second, 2, [])  # nothing was called broken, so there is nothing to confirm
    short, long = outcome.of_stage(stage, np.ones(4, bool))
    assert short.standing.tolist() == [True, True, True, True]
    assert long.standing.tolist() == [True, False, True, True]
    assert long.broken_step.tolist() == [-1, 3, -1, -1]
    assert long.unconfirmed == 2


def test_of_several_restarts_the_largest_distance_and_every_doubt_are_reported():
    stage = stage_of()
    first, second = stage.sweeps
    note(first, 0, [1], confirmed=False)
    note(second, 2, [1], confirmed=False)
    first.distance[:], second.distance[:] = [1, 8, 3, 4], [5, 2, 7, 4]
    first.seconds, second.seconds = 2.0, 3.0
    first.slot_steps, second.slot_steps = 20, 30
    first.steps[:], second.steps[:] = 5, 4
    for one in outcome.of_stage(stage, np.ones(4, bool)):
        assert one.distance.tolist() == [5, 8, 7, 4]
        assert one.unconfirmed == 2
        assert (one.seconds, one.slot_steps, one.image_steps) == (5.0, 50, 36)
        assert one.attacked.all() and one.settings["restarts"] == 2


def test_an_image_that_did_not_stand_before_falls_to_nobody():
    stage = stage_of()
    note(stage.sweeps[0], 0, [0])
    (_, long) = outcome.of_stage(stage, np.array([False, True, True, True]))
    assert long.broken_step[0] == -1 and not long.standing[0]


def test_the_image_kept_is_that_of_the_earliest_confirmed_break():
    stage = stage_of(restarts=3)
    first, second, _ = stage.sweeps

    assert stage.falls_earliest(0, verdict(0, []))
    assert stage.falls_earliest(1, verdict(0, []))  # nothing broke it: the last one stays
    note(first, 0, [3, 4])
    assert not stage.falls_earliest(1, verdict(0, []))
    assert not stage.falls_earliest(1, verdict(0, [4]))
    assert not stage.falls_earliest(1, verdict(0, [1], confirmed=False))
    assert stage.falls_earliest(1, verdict(0, [2]))
    note(second, 0, [1], confirmed=False)
    assert stage.falls_earliest(2, verdict(0, [3]))
    note(second, 0, [2])
    assert not stage.falls_earliest(2, verdict(0, [3]))


def test_the_picture_is_that_of_a_break_or_else_of_the_first_try():
    store = types.SimpleNamespace(examples=np.zeros([1, 2, 2, 1]), images=None)

    def keep(broken, value):
        columns, image = [1] if broken else [], np.full([2, 2, 1], value)
        Store.keep(store, None, 0, None, verdict(0, columns, image=image))
        return store.examples[0, 0, 0, 0]

    assert [keep(False, 1), keep(False, 2), keep(True, 3), keep(False, 4)] == [1, 1, 3, 3]


def test_an_image_that_had_fallen_keeps_the_image_it_fell_to():
    put = []
    images = types.SimpleNamespace(put=lambda index, image: put.append((index, image)))
    store = types.SimpleNamespace(
        examples=np.zeros([0, 2, 2, 1]), images=images, _typed=lambda clean, image, attack: image
    )
    (stage,) = plan.stages([PGD(epsilon=8, step_size=2, steps=4)], "main", 3, restarts=1,
                           last_iterate=True)  # fmt: skip
    standing = np.array([True, False, True])
    for index in range(3):
        Store.keep(store, stage, 0, standing, verdict(index, [1], image=index))
    assert put == [(0, 0), (2, 2)]
