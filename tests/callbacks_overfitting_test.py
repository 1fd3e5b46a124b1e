import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.callbacks import overfitting
from sat_tf.callbacks.checkpoint import Checkpoint
from sat_tf.runs import checkpoints
from sat_tf.training import fitting

HEALTHY = [(0.30, 0.25), (0.40, 0.38), (0.45, 0.41)]
COLLAPSED = (0.85, 0.02)


def judge(epochs, **options):
    """Feeds (training, validation) accuracies of epochs; returns the callback."""
    callback = overfitting.CatastrophicOverfitting(**options)
    callback.set_model(keras.Model())
    callback.model.stop_training = False
    for epoch, (training, robust) in enumerate(epochs):
        logs = {"adversarial_accuracy": training, "val_adversarial_accuracy": robust}
        callback.on_epoch_end(epoch, logs)
    return callback


def test_a_collapse_under_a_training_attack_that_keeps_losing_raises_with_the_numbers():
    with pytest.raises(overfitting.RobustnessCollapsed) as raised:
        judge([*HEALTHY, COLLAPSED], action="raise")
    for part in ("epoch 4", "2.0%", "41.0% in epoch 3", "85.0%", "more attack steps"):
        assert part in str(raised.value)


def test_of_equal_epochs_the_later_is_named_which_is_the_one_that_is_kept():
    with pytest.raises(overfitting.RobustnessCollapsed, match="after 41.0% in epoch 4"):
        judge([*HEALTHY, HEALTHY[-1], COLLAPSED], action="raise")


@pytest.mark.parametrize("action, stops", [("warn", False), ("stop", True)])
def test_the_action_decides_whether_training_goes_on(action, stops, capsys):
    callback = judge([*HEALTHY, COLLAPSED], action=action)
    assert callback.model.stop_training is stops
    assert "catastrophic overfitting in epoch 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    "last",
    [
        (0.50, 0.42),  # goes on well
        (0.60, 0.30),  # ordinary robust overfitting, a slow fall
        (0.10, 0.10),  # divergence: both fall
        (0.30, 0.15),  # both fall, the training attack's less
    ],
)
def test_nothing_else_is_called_so(last, capsys):
    judge([*HEALTHY, last], action="raise")
    assert capsys.readouterr().err == ""


def test_the_condition_is_relative_to_the_best_at_its_exact_threshold(capsys):
    judge([(0.5, 0.5), (1.0, 0.25)], tolerance=0.5)  # falls by exactly half: not yet
    assert capsys.readouterr().err == ""
    judge([(0.5, 0.5), (1.0, 0.25 - 1e-12)], tolerance=0.5)
    assert "catastrophic" in capsys.readouterr().err
    judge([(0.5, 0.5), (1.0, 0.41)], tolerance=0.2)
    assert capsys.readouterr().err == ""
    judge([(0.5, 0.5), (1.0, 0.39)], tolerance=0.2)
    assert "catastrophic" in capsys.readouterr().err


def test_a_resumed_run_remembers_the_best_of_its_history():
    history = [{"epoch": 1, "val_adversarial_accuracy": 0.41}, {"epoch": 2}]
    with pytest.raises(overfitting.RobustnessCollapsed, match="41.0% in epoch 1"):
        judge([COLLAPSED], action="raise", history=history)


@pytest.mark.parametrize("warmup_epochs, judged", [(3, True), (3.5, False), (4, False)])
def test_an_epoch_that_begins_while_epsilon_warms_up_is_not_judged(warmup_epochs, judged, capsys):
    judge([*HEALTHY, COLLAPSED], warmup_epochs=warmup_epochs)
    assert ("epoch 4" in capsys.readouterr().err) is judged
    judge([*HEALTHY, COLLAPSED, COLLAPSED], warmup_epochs=warmup_epochs)
    assert "in epoch 5: PGD leaves 2.0% of the validation images right, after 41.0%" in (
        capsys.readouterr().err
    )


def test_an_epoch_without_validation_is_not_judged():
    callback = judge(HEALTHY, action="raise")
    callback.on_epoch_end(3, {"adversarial_accuracy": 0.9})
    callback.on_epoch_end(4, None)


def test_stopping_ends_fit_after_the_epoch():
    class Falls(keras.Model):
        epoch = 0

        def train_step(self, data):
            return {"adversarial_accuracy": 0.9}

        def test_step(self, data):
            return {"adversarial_accuracy": 0.0 if self.epoch else 0.5}

    model = Falls()
    model.built = True
    model.compile(run_eagerly=True)
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "epoch", epoch + 1)
    )
    data = np.zeros((2, 1), np.float32)
    callbacks = [overfitting.CatastrophicOverfitting("stop"), count]
    model.fit(data, data, validation_data=(data, data), epochs=9, callbacks=callbacks, verbose=0)
    assert model.epoch == 2


def test_stopping_inside_a_resumed_epoch_ends_the_run(tmp_path):
    calls = []

    def stopping(batches, **options):
        calls.append(options["epochs"])
        trainer.stop_training = True

    trainer = types.SimpleNamespace(
        fit=stopping,
        network=None,
        steps_per_execution=1,
        execute=lambda steps: None,
        average=None,
        state=[keras.Variable(1.0, name="w")],
        distribute_strategy=tf.distribute.get_strategy(),
    )
    batches = tf.data.Dataset.range(1)
    checkpoints.save(tmp_path / "checkpoints", 5, trainer.state, {})
    fitting.fit(
        trainer,
        lambda step, shard: batches,
        lambda shard: batches,
        epochs=9,
        steps_per_epoch=4,
        checkpoint=Checkpoint(
            tmp_path, {"history": [], "best": None, "stopped": False}, steps_per_epoch=4
        ),
        callbacks=lambda start, record: [],
    )
    assert calls == [2]


@pytest.mark.parametrize("options", [{"action": "shout"}, {"tolerance": 0.0}, {"tolerance": 1.0}])
def test_unclear_settings_are_refused(options):
    with pytest.raises(ValueError, match="warn, stop, raise|tolerance is"):
        overfitting.CatastrophicOverfitting(**options)
