"""Learning rates against the formulae in plain Python."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_tf.training.schedules import NAMES, Schedule

SETTINGS = {"peak": 0.2, "num_steps": 100, "warmup_steps": 10, "boundaries": (40, 70),
            "decay_steps": 30}  # fmt: skip


def formula(name, t):
    if t < 10:
        return 0.2 * (t + 1) / 10
    q = (t - 10) / 90
    return {
        "constant": 0.2,
        "step": 0.2 * 0.1 ** ((t >= 40) + (t >= 70)),
        "cosine": 0.1 * (1 + math.cos(math.pi * q)),
        "one_cycle": 0.2 * (1 - q),
        "exponential": 0.2 * 0.1 ** (t // 30),
    }[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_step_follows_the_formula(name):
    schedule = Schedule(name, **SETTINGS)
    ours = [float(schedule(t)) for t in range(100)]
    np.testing.assert_allclose(ours, [formula(name, t) for t in range(100)], rtol=1e-5, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NAMES), st.floats(1e-4, 10), st.integers(1, 400), st.data(),
    st.floats(0.01, 0.9),
)  # fmt: skip
def test_any_schedule_follows_its_closed_form_in_float64(name, peak, num_steps, data, factor):
    warm = data.draw(st.integers(0, num_steps - 1))
    drops = data.draw(st.lists(st.integers(0, num_steps), max_size=4, unique=True).map(sorted))
    schedule = Schedule(
        name, peak=peak, num_steps=num_steps, warmup_steps=warm, boundaries=tuple(drops),
        factor=factor, decay_steps=(every := data.draw(st.integers(1, num_steps))),
    )  # fmt: skip
    t = data.draw(st.lists(st.integers(0, num_steps - 1), min_size=1, max_size=6))
    t = np.array([*t, 0, max(warm - 1, 0), warm, num_steps - 1], np.float64)
    q = (t - warm) / (num_steps - warm)
    passed = sum((t >= drop for drop in drops), np.zeros(len(t)))
    down = {
        "constant": np.ones(len(t)),
        "step": factor**passed,
        "cosine": np.cos(np.pi * q / 2) ** 2,
        "one_cycle": (num_steps - t) / (num_steps - warm),
        "exponential": factor ** (t // every),
    }[name]
    expected = peak * np.where(t < warm, (t + 1) / max(warm, 1), down)
    ours = [float(schedule(int(one))) for one in t]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6 * peak)


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_a_rate_never_rises_again_after_the_end(name):
    schedule = Schedule(name, **SETTINGS)
    assert [float(schedule(t)) for t in (100, 130, 10_000)] == [0, 0, 0]


def test_boundaries_without_warm_up_are_the_papers():
    steps_per_epoch = 5
    schedule = Schedule(
        "step", peak=0.1, num_steps=500, boundaries=tuple(e * steps_per_epoch for e in (30, 60, 90))
    )
    at_epochs = [float(schedule(e * steps_per_epoch)) for e in (0, 29, 30, 60, 90)]
    np.testing.assert_allclose(at_epochs, [0.1, 0.1, 0.01, 0.001, 0.0001], rtol=1e-5)


def test_configuration_makes_the_same_schedule():
    schedule = Schedule("step", **SETTINGS, factor=0.3)
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert [float(copy(t)) for t in (0, 50, 99)] == [float(schedule(t)) for t in (0, 50, 99)]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("linear", {}, "use one of: constant, step, cosine, one_cycle, exponential"),
        ("step", {"peak": 0}, "learning rate is 0"),
        ("step", {"warmup_steps": 100}, "shorter than the run"),
        ("exponential", {"decay_steps": 0}, "decay_steps is 0"),
        ("step", {"boundaries": (70, 40)}, "increasing"),
        ("step", {"boundaries": (40, 40)}, "different"),
    ],
)
def test_wrong_settings_say_what_is_expected(name, change, message):
    with pytest.raises(ValueError, match=message):
        Schedule(name, **SETTINGS | change)
