"""Which steps of a run the profiler records."""

import types

import pytest
import tensorflow as tf

from sat_tf.callbacks import Profile


def profiled(first, last, *, start=0, steps=10, at_a_time=1, epochs=2):
    """Plays a call of `fit` from a step on; returns what was begun and ended, by the steps done."""
    seen, done = [], start
    profile = Profile("logs", first, last, start)
    profile.set_model(types.SimpleNamespace(steps_per_execution=at_a_time))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.profiler.experimental, "start", lambda place: seen.append(done))
        patch.setattr(tf.profiler.experimental, "stop", lambda: seen.append(done))
        for epoch in range(epochs):
            profile.on_epoch_begin(epoch)
            for batch in range(0, steps, at_a_time):
                profile.on_train_batch_begin(batch)
                done += at_a_time
                profile.on_train_batch_end(batch + at_a_time - 1)
        profile.on_train_end()
    return seen


@pytest.mark.parametrize(
    "first, last, options, seen",
    [
        (3, 5, {}, [2, 5]),
        (1, 1, {}, [0, 1]),
        (9, 12, {}, [8, 12]),  # over the end of an epoch
        (19, 30, {}, [18, 20]),  # over the end of the call
        (21, 22, {}, []),
        (27, 28, {"start": 20}, [26, 28]),
        (7, 8, {"start": 20}, []),
        (4, 7, {"at_a_time": 5}, [0, 10]),
        (6, 7, {"at_a_time": 5}, [5, 10]),
    ],
)
def test_the_steps_that_were_asked_for_are_recorded(first, last, options, seen, capsys):
    assert profiled(first, last, **options) == seen
    said = f"profile of steps {seen[0] + 1} to {seen[1]}: logs/plugins/profile\n" if seen else ""
    assert capsys.readouterr().out == said
