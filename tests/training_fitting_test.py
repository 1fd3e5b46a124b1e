"""A run stops anywhere and goes on to the same end, weights and logs."""

import signal
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_tf.attacks import PGD
from sat_tf.callbacks import checkpoint
from sat_tf.callbacks.checkpoint import Checkpoint
from sat_tf.runs import Interrupted, checkpoints, distribution
from sat_tf.training import AdversarialTrainer, fitting

STEPS, EPOCHS, BATCH = 4, 3, 6
ATTACK = PGD(epsilon=30, step_size=12, steps=1)
PIXELS = np.random.default_rng(0).uniform(0, 255, (STEPS * BATCH, 3, 3, 1)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, STEPS * BATCH).astype(np.int32)


def examples():
    return tf.data.Dataset.from_tensor_slices((PIXELS, LABELS)).batch(BATCH)


def trainer_of(strategy=None, by_replica=True):
    """Makes a trainer; what goes by replica is batch norm and where the attack starts.

    Without a strategy its streams need no graphs, of which OneDeviceStrategy traces some anew for
    each epoch.
    """
    keras.utils.set_random_seed(1)
    with (distribution.strategy(strategy) if strategy else tf.distribute.get_strategy()).scope():
        inputs = keras.Input((3, 3, 1))
        x = keras.layers.Rescaling(1 / 255)(keras.layers.Flatten()(inputs))
        x = keras.layers.Dense(5)(x)
        x = keras.layers.BatchNormalization()(x) if by_replica else x
        x = keras.layers.Activation("swish")(x)
        attack = PGD(epsilon=30, step_size=12, steps=1, random_start=by_replica)
        made = AdversarialTrainer(keras.Model(inputs, keras.layers.Dense(3)(x)), attack, seed=4)
        made.compile(keras.optimizers.SGD(0.5, momentum=0.9), ema_decay=0.7)
    return made


def keeper_of(workdir, every=0):
    record = {"history": [], "best": None, "stopped": False}
    return Checkpoint(workdir, record, steps_per_epoch=STEPS, every=every)


class SignalAt(keras.callbacks.Callback):
    """Sends this process Ctrl-C after some steps, or ends it as `kill -9` would."""

    class Killed(BaseException):
        pass

    def __init__(self, keeper, step, kill=False):
        super().__init__()
        self.keeper, self.step, self.kill = keeper, step, kill

    def on_train_batch_end(self, batch, logs=None):
        if self.keeper.step + 1 == self.step:  # the keeper comes last and counts this step then
            if self.kill:
                raise self.Killed
            signal.raise_signal(signal.SIGINT)


def go_on(made, workdir, stop=None, every=0, kill=False):
    """Continues the run in a workdir; returns its record and the first step of every `fit`."""
    keeper, starts = keeper_of(workdir, every), []

    def batches(start, shard):
        starts.append(start)
        return examples().repeat().skip(start)

    fitting.fit(
        made,
        batches,
        lambda shard: examples(),
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        checkpoint=keeper,
        callbacks=lambda start, record: [] if stop is None else [SignalAt(keeper, stop, kill)],
    )
    return keeper.record, starts


def values(state):
    return [keras.ops.convert_to_numpy(v.value) for v in state]


class Run:
    """A trainer that begins anew, its traced step kept: tracing takes longest here."""

    def __init__(self, strategy=None, by_replica=True):
        self.trainer = trainer_of(strategy, by_replica)
        self._first = values(self.trainer.state)

    def anew(self):
        for variable, value in zip(self.trainer.state, self._first, strict=True):
            variable.assign(value)
        return self.trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return uninterrupted(None, tmp_path_factory.mktemp("whole"))


def uninterrupted(strategy, workdir):
    run = Run(strategy)
    record, starts = go_on(run.anew(), workdir)
    assert starts == [0] and len({entry["loss"] for entry in record["history"]}) == EPOCHS
    return run, record, values(run.trainer.state)


def assert_same(record, whole):
    run, expected, state = whole
    assert record == expected
    for ours, theirs in zip(values(run.trainer.state), state, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("stop", [1, 4, 6, 11, 12])
def test_ctrl_c_after_any_step_changes_neither_weights_nor_logs(whole, tmp_path, stop):
    run = whole[0]
    with pytest.raises(Interrupted, match=f"after step {stop};"):
        go_on(run.anew(), tmp_path, stop)
    record, starts = go_on(run.anew(), tmp_path)
    assert starts == {1: [1, 4], 4: [4], 6: [6, 8], 11: [11], 12: []}[stop]
    assert_same(record, whole)


def test_a_run_that_has_ended_is_told_once_more(whole, tmp_path):
    run, saved = whole[0], []
    record, _ = go_on(run.anew(), tmp_path)
    keeper = keeper_of(tmp_path)  # the process before may have died before it could tell
    keeper.on_save = lambda told: saved.append(dict(told))
    fitting.fit(
        run.anew(),
        None,
        lambda shard: examples(),
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        checkpoint=keeper,
        callbacks=None,
    )
    assert saved == [record] and len(record["history"]) == EPOCHS


def test_two_replicas_go_on_with_the_means_of_each(tmp_path):
    both = uninterrupted("mirrored", tmp_path / "whole")
    with pytest.raises(Interrupted):
        go_on(both[0].anew(), tmp_path / "run", 10)
    record, _ = go_on(both[0].anew(), tmp_path / "run")
    assert_same(record, both)


@pytest.fixture(scope="module")
def alike():
    """Runs that learn the same on one device and on two, but for rounding."""
    return {name: Run(name, by_replica=False) for name in ("one_device", "mirrored")}


@pytest.mark.parametrize("first, then", [("one_device", "mirrored"), ("mirrored", "one_device")])
def test_a_run_goes_on_under_another_strategy_from_the_very_state(alike, first, then, tmp_path):
    whole, _ = go_on(alike["one_device"].anew(), tmp_path / "whole")
    expected = values(alike["one_device"].trainer.state)
    with pytest.raises(Interrupted):
        go_on(alike[first].anew(), tmp_path / "run", 6)
    with np.load(tmp_path / "run" / "checkpoints" / "step_000000006.npz") as file:
        saved = [file[name] for name in file.files if name != "record.json"]
    made = alike[then].anew()
    assert fitting.restore(made, tmp_path / "run", {}) == 6
    for variable, value in zip(made.state, saved, strict=True):
        for copy in made.distribute_strategy.experimental_local_results(variable.value):
            np.testing.assert_array_equal(copy, value)
    record, starts = go_on(alike[then].anew(), tmp_path / "run")
    assert starts == [6, 8]
    for found, theirs in zip(values(made.state), expected, strict=True):
        np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-6)
    for found, theirs in zip(record["history"], whole["history"], strict=True):
        assert found == pytest.approx(theirs, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("killed, first", [(2, 0), (7, 6)])
def test_a_kill_goes_back_to_the_last_checkpoint_and_to_its_means(whole, tmp_path, killed, first):
    run = whole[0]
    with pytest.raises(SignalAt.Killed):
        go_on(run.anew(), tmp_path, killed, every=3, kill=True)
    record, starts = go_on(run.anew(), tmp_path, every=3)
    assert starts[0] == first
    assert_same(record, whole)


def test_a_checkpoint_without_sums_is_restored_and_its_means_are_of_what_follows(whole, tmp_path):
    run, expected, state = whole
    with pytest.raises(Interrupted):
        go_on(run.anew(), tmp_path, 5)
    step, record = checkpoints.restore(tmp_path / "checkpoints", run.trainer.state)
    sums = record.pop("sums")
    assert {name: counts for name, (_, counts) in sums.items()} == {
        "loss": [6.0], "adversarial_accuracy": [6.0], "clean_accuracy": [0.0], "attack_gain": [0.0]
    }  # fmt: skip
    checkpoints.save(tmp_path / "checkpoints", step, run.trainer.state, record)
    record, _ = go_on(run.anew(), tmp_path)
    whole_epoch, ours = expected["history"][1]["loss"], record["history"][1]["loss"]
    total, _ = sums["loss"]
    assert ours * 3 + total[0] / BATCH == pytest.approx(whole_epoch * 4, rel=1e-5)
    for ours, theirs in zip(values(run.trainer.state), state, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class SignalAfter(keras.callbacks.Callback):
    """Sends this process Ctrl-C once so many steps are done, as soon as the host hears of it."""

    def __init__(self, keeper, step):
        super().__init__()
        self.keeper, self.step, self.heard = keeper, step, []

    def on_train_batch_end(self, batch, logs=None):
        self.heard.append(self.keeper._first + batch + 1)
        if self.heard[-1] == self.step:
            signal.raise_signal(signal.SIGINT)


def watched(made, keeper, signals):
    """Goes on to the end of the run or the signal."""
    fitting.fit(
        made,
        lambda start, shard: examples().repeat().skip(start),
        lambda shard: examples(),
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        checkpoint=keeper,
        callbacks=lambda start, record: [signals],
    )


def test_several_steps_at_a_time_on_several_replicas_are_refused():
    with distribution.strategy("mirrored").scope():
        inputs = keras.Input((2, 2, 1))
        outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
        made = AdversarialTrainer(keras.Model(inputs, outputs), ATTACK)
        with pytest.raises(ValueError, match="--steps_per_execution=2 with 2 replicas"):
            made.compile(keras.optimizers.SGD(), steps_per_execution=2)


def test_several_steps_at_a_time_are_the_same_steps(whole, tmp_path):
    run = Run()
    run.trainer.execute(2)
    for stop, heard in (6, [2, 4, 6]), (None, [8, 10, 12]):
        keeper = keeper_of(tmp_path / "run", every=3)
        signals = SignalAfter(keeper, stop)
        try:
            watched(run.anew(), keeper, signals)
        except Interrupted:
            assert stop == 6
        assert signals.heard == heard
    # The grouped validation may round the last bit of a mean otherwise; the weights are the same.
    for ours, theirs in zip(keeper.record["history"], whole[1]["history"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    for ours, theirs in zip(values(run.trainer.state), whole[2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_epoch_that_was_begun_one_step_at_a_time_is_ended_so(whole, tmp_path):
    run = whole[0]
    with pytest.raises(Interrupted):
        go_on(run.anew(), tmp_path, 5)
    made = run.anew()
    made.execute(4)
    try:
        keeper = keeper_of(tmp_path)
        signals = SignalAfter(keeper, None)
        watched(made, keeper, signals)
    finally:
        made.execute(1)
    assert signals.heard == [6, 7, 8, 12]
    for ours, theirs in zip(values(run.trainer.state), whole[2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "every, at_a_time, saved", [(3, 2, [4, 6]), (4, 2, [4]), (1, 2, [2, 4, 6])]
)
def test_a_checkpoint_is_due_once_the_device_has_passed_its_step(
    tmp_path, monkeypatch, every, at_a_time, saved
):
    keeper = Checkpoint(tmp_path, {}, steps_per_epoch=8, every=every)
    keeper.set_model(types.SimpleNamespace(distribute_strategy=tf.distribute.get_strategy()))
    steps = []
    monkeypatch.setattr(keeper, "_check", lambda: None)
    monkeypatch.setattr(keeper, "_save", lambda sums: steps.append(keeper.step))
    monkeypatch.setattr(checkpoint, "_sums", lambda trainer, logs: None)
    keeper.on_epoch_begin(0)
    for last in range(at_a_time - 1, 8, at_a_time):
        keeper.on_train_batch_end(last)
    assert steps == saved


def test_sums_of_two_workers_are_those_of_all_replicas_wherever_the_run_goes_on(monkeypatch):
    with distribution.strategy("one_device").scope():
        made = Sums()
    monkeypatch.setattr(distribution, "has_workers", lambda strategy: True)
    strategy = types.SimpleNamespace(
        num_replicas_in_sync=2, experimental_local_results=lambda value: (value,)
    )
    made.distribute_strategy = strategy
    checkpoint._resume_means(made, {"loss": [[1.0, 5.0], [3.0, 3.0]]})  # of mirrored
    sums = checkpoint._sums(made, {"loss": 2.0})  # the logs of all workers: 6 / 6 would be theirs
    assert sums == {"loss": [[6.0, 6.0], [3.0, 3.0]]}
    monkeypatch.undo()
    made.distribute_strategy = distribution.strategy("one_device")
    checkpoint._resume_means(made, sums)
    assert checkpoint._sums(made, {}) == {"loss": [[12.0], [6.0]]}


@pytest.mark.parametrize("replicas, shared", [(1, [[7.0], [9.0]]), (2, [[3.5] * 2, [4.5] * 2])])
def test_means_are_shared_out_over_as_many_replicas_as_there_are(replicas, shared):
    with distribution.strategy(["one_device", "mirrored"][replicas - 1]).scope():
        made = Sums()
    sums = {"loss": [[1.0, 2.0, 4.0], [3.0, 3.0, 3.0]], "gone": [[1.0], [1.0]]}
    checkpoint._resume_means(made, sums)
    assert checkpoint._sums(made, {})["loss"] == shared


class Sums:
    """A trainer that has one running mean."""

    def __init__(self):
        self.metrics = [keras.metrics.Mean("loss")]
        self.distribute_strategy = tf.distribute.get_strategy()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.data())
def test_the_calls_of_fit_of_a_run_are_its_steps_in_order_and_end_with_epochs(epochs, steps, data):
    step = data.draw(st.integers(0, epochs * steps))
    done = []
    for start, end in fitting._calls_of_fit(step, epochs, steps):
        initial_epoch, first = start // steps, start % steps
        assert first == 0 or end == initial_epoch + 1  # Keras takes every epoch for as long
        for epoch in range(initial_epoch, end):
            done += range(start if epoch == initial_epoch else epoch * steps, (epoch + 1) * steps)
    assert done == list(range(step, epochs * steps))


def test_an_epoch_is_validated_on_every_image(whole):
    run, record, state = whole
    for variable, value in zip(run.trainer.state, state, strict=True):
        variable.assign(value)
    found = run.trainer.evaluate(examples(), verbose=0, return_dict=True)
    last = record["history"][-1]
    assert {f"val_{name}": value for name, value in found.items()}.items() <= last.items()


def test_a_worker_reads_its_own_part_again_and_again_and_validates_on_all_batches(monkeypatch):
    asked = []

    def make(shard):
        asked.append(shard)
        return tf.data.Dataset.range(5 if shard == fitting.data.WHOLE else 2)

    context = tf.distribute.InputContext(
        num_input_pipelines=3, input_pipeline_id=2, num_replicas_in_sync=6
    )
    strategy = types.SimpleNamespace(
        distribute_datasets_from_function=lambda of_worker: of_worker(context)
    )
    for workers, count, first in ((True, 5, [0, 1, 0, 1]), (False, None, [0, 1, 2, 3])):
        monkeypatch.setattr(distribution, "has_workers", lambda _, workers=workers: workers)
        stream = fitting._feed(strategy, make)
        assert list(stream.take(4).as_numpy_iterator()) == first
        assert fitting._num_batches(strategy, make) == count
    assert asked == [fitting.data.Shard(2, 3, 2), fitting.data.WHOLE, fitting.data.WHOLE]
