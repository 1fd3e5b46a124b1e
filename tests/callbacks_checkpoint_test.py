"""Which epoch becomes `network.keras`, who writes, and what is never written."""

import json
import signal
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.callbacks.checkpoint import Checkpoint
from sat_tf.callbacks.overfitting import CatastrophicOverfitting
from sat_tf.runs import Interrupted, distribution
from sat_tf.training import fitting

STEPS = 3
# (clean, robust) validation accuracy: epochs 2 and 4 are level in what counts, 3 is the best on
# clean images, 5 the last.
SCRIPT = [(0.5, 0.2), (0.6, 0.4), (0.9, 0.3), (0.7, 0.4), (0.8, 0.1)]


class Scripted:
    """A trainer whose weights are the number of the epoch, those of the average ten times it."""

    def __init__(self, script=SCRIPT, average=True):
        self.script, self.stop_training, self.epochs = script, False, []
        self.network, self.average = network_of(), network_of() if average else None
        self.moments = keras.Variable([0.0], name="moments")
        self.metrics, self.distribute_strategy = [], tf.distribute.get_strategy()
        self.steps_per_execution = 1

    @property
    def best_network(self):
        return self.average or self.network

    @property
    def state(self):
        return [*self.network.variables, self.moments]

    def fit(self, batches, *, callbacks, initial_epoch, epochs, steps_per_epoch, **options):
        self.stop_training = False
        for callback in callbacks:
            callback.set_model(self)
        for epoch in range(initial_epoch, epochs):
            self.epochs.append(epoch + 1)
            self.weigh(epoch + 1)
            clean, robust = self.script[epoch]
            logs = {
                "adversarial_accuracy": 0.9, "val_clean_accuracy": clean,
                "val_adversarial_accuracy": robust,
            }  # fmt: skip
            for callback in callbacks:
                callback.on_epoch_begin(epoch)
            for batch in range(steps_per_epoch):
                for callback in callbacks:
                    callback.on_train_batch_end(batch, {})
            for callback in callbacks:
                callback.on_epoch_end(epoch, {} if robust is None else logs)
            if self.stop_training:
                return

    def execute(self, num_steps):
        assert num_steps == 1

    def weigh(self, epoch):
        self.network.set_weights([np.full((1, 1), epoch, np.float32)])
        if self.average:
            self.average.set_weights([np.full((1, 1), 10 * epoch, np.float32)])


def network_of():
    inputs = keras.Input((1,))
    return keras.Model(inputs, keras.layers.Dense(1, use_bias=False, name="one")(inputs))


def run(workdir, trainer, others=lambda start, record: [], **options):
    """Goes on to the end of the script; returns the record and what `on_save` was told."""
    saved = []
    record = {"history": [], "best": None, "stopped": False}
    keeper = Checkpoint(
        workdir,
        record,
        steps_per_epoch=STEPS,
        on_save=lambda record: saved.append(json.loads(json.dumps(record))),
        **options,
    )
    fitting.fit(
        trainer,
        lambda start, shard: tf.data.Dataset.range(1),
        lambda shard: tf.data.Dataset.range(1),
        epochs=len(trainer.script),
        steps_per_epoch=STEPS,
        checkpoint=keeper,
        callbacks=others,
    )
    return record, saved


def kept(workdir):
    return float(keras.models.load_model(workdir / "network.keras").get_weights()[0][0, 0])


def steps_of(workdir):
    return sorted(int(path.stem[5:]) for path in (workdir / "checkpoints").iterdir())


def test_the_average_of_the_later_best_epoch_under_attack_is_kept(tmp_path):
    record, saved = run(tmp_path, Scripted())
    assert kept(tmp_path) == 40 and record["best"]["epoch"] == 4
    assert [entry["step"] for entry in record["history"]] == [3, 6, 9, 12, 15]
    assert [entry["val_adversarial_accuracy"] for entry in record["history"]] == [
        robust for _, robust in SCRIPT
    ]
    assert [one["best"]["epoch"] for one in saved] == [1, 2, 2, 4, 4]
    assert steps_of(tmp_path) == [12, 15]
    with zipfile.ZipFile(tmp_path / "network.keras") as archive:
        assert archive.comment.startswith(b"sha256 ")
    run(tmp_path / "plain", Scripted(average=False))
    assert kept(tmp_path / "plain") == 4


def test_without_validation_the_last_epoch_is_kept_even_if_no_image_is_right(tmp_path):
    run(tmp_path / "none", Scripted([(None, None)] * 3))
    run(tmp_path / "zero", Scripted([(0.0, 0.0)] * 2))
    assert (kept(tmp_path / "none"), kept(tmp_path / "zero")) == (30, 20)


def test_the_best_of_the_epochs_before_a_resume_stays(tmp_path):
    run(tmp_path, Scripted(SCRIPT[:4]))
    trainer = Scripted([*SCRIPT[:4], (0.9, 0.3)])
    record, saved = run(tmp_path, trainer)
    assert trainer.epochs == [5] and record["best"]["epoch"] == 4 and kept(tmp_path) == 40
    assert len(saved) == 2  # what the last process may have died before it could tell, and epoch 5
    assert [entry["epoch"] for entry in record["history"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("action, trained", [("stop", [1, 2]), ("warn", [1, 2, 3, 4, 5])])
def test_a_run_that_overfitting_has_stopped_stays_stopped(tmp_path, capsys, action, trained):
    script = [(0.5, 0.5), (0.5, 0.0), *SCRIPT[2:]]

    def watch(start, record):
        return [CatastrophicOverfitting(action, history=record["history"])]

    first, again = Scripted(script), Scripted(script)
    record, _ = run(tmp_path, first, watch)
    assert first.epochs == trained and record["stopped"] is (action == "stop")
    record, saved = run(tmp_path, again, watch)
    assert again.epochs == [] and len(record["history"]) == len(trained) and len(saved) == 1
    assert kept(tmp_path) == 10
    assert "catastrophic overfitting in epoch 2" in capsys.readouterr().err


def test_an_epoch_that_raises_leaves_no_trace(tmp_path):
    script = [(0.5, 0.5), (0.5, 0.0)]

    def watch(start, record):
        return [CatastrophicOverfitting("raise", history=record["history"])]

    trainer = Scripted(script)
    for _ in range(2):
        with pytest.raises(ValueError, match="catastrophic overfitting in epoch 2"):
            run(tmp_path, trainer, watch)
    assert trainer.epochs == [1, 2, 2] and steps_of(tmp_path) == [3]
    assert kept(tmp_path) == 10


def playing(workdir, every=0):
    """A keeper in the middle of nothing: its callbacks are called by hand."""
    trainer = Scripted()
    trainer.weigh(1)
    record = {"history": [], "best": None, "stopped": False}
    keeper = Checkpoint(workdir, record, steps_per_epoch=5, every=every)
    keeper.set_model(trainer)
    return keeper, trainer


def test_checkpoints_come_every_so_many_steps_but_an_epochs_last_with_its_validation(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for every, expected in ((0, []), (2, [2, 4, 6, 8]), (5, []), (3, [3, 6, 9])):
        keeper, _ = playing(tmp_path, every)
        seen = []
        for step in range(1, 11):
            if step % 5 == 1:
                keeper.on_epoch_begin(step // 5)
            keeper.on_train_batch_end((step - 1) % 5, {})
            if steps_of(tmp_path):
                seen.append(step)
                for path in (tmp_path / "checkpoints").iterdir():
                    path.unlink()
        assert seen == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_never_written(tmp_path, bad):
    keeper, trainer = playing(tmp_path, every=1)
    keeper.on_train_batch_end(0, {})
    trainer.network.set_weights([np.full((1, 1), bad, np.float32)])
    with pytest.raises(FloatingPointError, match="kernel is not finite after step 2"):
        keeper.on_train_batch_end(1, {})
    with pytest.raises(FloatingPointError, match="the state on disk is an earlier one"):
        keeper.on_epoch_end(0, {"val_adversarial_accuracy": 0.5})
    assert steps_of(tmp_path) == [1] and not (tmp_path / "network.keras").exists()
    trainer.weigh(1)
    trainer.moments.assign([bad])
    with pytest.raises(FloatingPointError, match="moments is not finite"):
        keeper.on_train_batch_end(2, {})


def test_only_the_chief_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(distribution, "is_chief", lambda strategy: False)
    record, saved = run(tmp_path, Scripted(), every=1)
    assert not saved and not list(tmp_path.iterdir())
    assert record["best"]["epoch"] == 4  # it knows as much as the chief
    with monkeypatch.context() as patch:
        patch.setattr(distribution, "is_chief", lambda strategy: True)
        run(tmp_path, Scripted(SCRIPT[:2]))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    record, saved = run(tmp_path, Scripted())
    assert len(record["history"]) == 5 and not saved
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_waits_for_the_step_and_a_second_one_does_not(tmp_path, number):
    keeper, _ = playing(tmp_path)
    heard = []
    before = signal.signal(number, lambda *_: heard.append("at once"))
    try:
        with keeper.handling_signals():
            signal.raise_signal(number)
            assert heard == []
            with pytest.raises(
                Interrupted, match=f"stopped by {number.name} after step 1;"
            ) as stop:
                keeper.on_train_batch_end(0, {})
            assert stop.value.signal_number == number and steps_of(tmp_path) == [1]
            signal.raise_signal(number)
        signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert heard == ["at once"] * 2


def test_the_step_to_go_on_from_is_agreed_by_all_workers(tmp_path, monkeypatch):
    run(tmp_path, Scripted(SCRIPT[:2]))
    agreed = []
    monkeypatch.setattr(distribution, "agree", lambda *arguments: agreed.append(arguments))
    trainer = Scripted()
    run(tmp_path, trainer)
    assert agreed == [(trainer.distribute_strategy, 6, "the step to go on from")]


def test_both_streams_are_shared_out_batch_by_batch(tmp_path):
    class Sees(Scripted):
        def fit(self, batches, *, validation_data, shuffle, verbose, **options):
            seen.append((batches, validation_data, shuffle, verbose))
            super().fit(batches, **options)

    seen = []
    run(tmp_path, Sees(SCRIPT[:1]))
    ((batches, validation, shuffle, verbose),) = seen
    data = tf.data.experimental.AutoShardPolicy.DATA
    for stream in (batches, validation):
        assert stream.options().experimental_distribute.auto_shard_policy == data
    assert shuffle is False and verbose == 0  # the progress line is the one that is shown
