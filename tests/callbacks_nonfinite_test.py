"""What is not finite stops a run with one line, before it is saved."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.callbacks import StopOnNaN, nan
from tests.watched import STEPS, compiled, dataset, fit


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_stops_with_one_line_that_names_the_step(bad):
    stop = StopOnNaN(steps_per_epoch=10, initial_step=2)
    model = types.SimpleNamespace(optimizer=types.SimpleNamespace(iterations=34))
    stop.set_model(model)
    stop.on_epoch_begin(3)
    stop.on_train_batch_end(0, {"loss": 3.5})
    stop.on_train_batch_end(1, {"loss": 2.5})
    with pytest.raises(FloatingPointError) as raised:
        stop.on_train_batch_end(2, {"loss": bad})
    message = str(raised.value)
    assert f"loss became {bad} in epoch 4, step 5 of 10, optimiser step 34" in message
    assert "last finite loss 2.5)" in message and "learning rate" in message and "\n" not in message


class Saves(keras.callbacks.Callback):
    """Stands for whatever writes checkpoints."""

    def __init__(self):
        super().__init__()
        self.saved = []

    def on_train_batch_end(self, batch, logs=None):
        self.saved.append(all(np.isfinite(w).all() for w in self.model.network.get_weights()))

    on_epoch_end = on_train_batch_end


def test_divergence_in_fit_is_stopped_before_a_bad_state_is_saved():
    def poison(index, batch):
        images, labels = batch
        return tf.where(index == 2, np.nan, images), labels

    saves = Saves()
    with pytest.raises(FloatingPointError, match="epoch 1, step 3 of 4, optimiser step 3"):
        fit(compiled(), [StopOnNaN(STEPS), saves], data=dataset().enumerate().map(poison))
    assert saves.saved == [True, True]


def test_weights_that_are_not_finite_are_named_at_the_end_of_the_epoch():
    trainer = compiled()
    stop = StopOnNaN(STEPS)
    stop.set_model(trainer)
    stop.on_epoch_end(0, {"loss": 1.0})
    kernel = trainer.network.get_layer("first").kernel
    kernel.assign(tf.tensor_scatter_nd_update(kernel.value, [[5, 1]], [np.inf]))
    with pytest.raises(FloatingPointError, match="first/kernel"):
        stop.on_epoch_end(0, {"loss": 1.0})
    kernel.assign(tf.zeros_like(kernel.value))
    with pytest.raises(FloatingPointError, match="validation loss became nan"):
        stop.on_epoch_end(0, {"loss": 1.0, "val_loss": float("nan")})
    normed = compiled(keras.layers.BatchNormalization(name="norm"))
    normed.network.get_layer("norm").moving_mean.assign([0.0, np.inf, 0.0])  # no trained weight
    stop.set_model(normed)
    with pytest.raises(FloatingPointError, match="the weight norm/moving_mean became"):
        stop.on_epoch_end(0, {"loss": 1.0})


def test_after_a_resume_only_the_first_epoch_is_begun():
    stop = StopOnNaN(STEPS, initial_step=2)
    stop.set_model(compiled())
    stop.on_epoch_begin(4)
    stop.on_train_batch_end(0, {"loss": 1.0})
    stop.on_epoch_end(4, {"loss": 1.0})
    stop.on_epoch_begin(5)
    with pytest.raises(FloatingPointError, match=f"in epoch 6, step 1 of {STEPS},"):
        stop.on_train_batch_end(0, {"loss": np.nan})


@pytest.mark.parametrize("dtype, large", [("float32", 3e38), ("float16", 6e4), ("bfloat16", 3e38)])
def test_weights_that_are_large_are_finite_though_their_sum_is_not(dtype, large):
    weights = [keras.Variable(np.full(50, large), dtype=dtype, name="large")]
    assert nan.first_nonfinite(weights) is None
    weights.append(keras.Variable(np.full(50, np.inf), dtype=dtype, name="infinite"))
    assert nan.first_nonfinite(weights).endswith("infinite")
