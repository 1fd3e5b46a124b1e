"""Stops training that has diverged, and says where."""

import math

import keras
import numpy as np


def first_nonfinite(variables) -> str | None:
    """Returns the path of the first variable that holds NaN or infinity, or None.

    A checkpoint that holds such a variable cannot be resumed from: ask before writing one.
    """
    for variable in variables:
        # A sum is finite only if every term is; float64 keeps it from overflowing by itself.
        if not np.isfinite(np.sum(keras.ops.convert_to_numpy(variable), dtype=np.float64)):
            return variable.path
    return None


class StopOnNaN(keras.callbacks.Callback):
    """Raises as soon as a loss or a weight is NaN or infinite.

    The loss is looked at after every step (Keras has made it a Python float already), the
    validation loss and the weights at the end of every epoch: a step with a finite loss can still
    leave weights that are not. Put it BEFORE whatever writes checkpoints in the list of
    callbacks; what is on disk is then the last good state.

    `keras.callbacks.TerminateOnNaN` looks at the loss only, knows the batch but neither epoch nor
    optimiser step, and by default ends `fit` as if it had succeeded.

    Args:
      steps_per_epoch: for the message.
      initial_step: steps of the first epoch that were done before this process started.
    """

    def __init__(self, steps_per_epoch: int, initial_step: int = 0):
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self.initial_step = initial_step
        self._epoch = 0
        self._step = 0
        self._last_finite = None

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the epoch for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the loss.

        Raises:
          FloatingPointError: it is NaN or infinite; one line, with the step and what to try.
        """
        self._step = self.initial_step + batch + 1
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            self._stop(f"the training loss became {loss}")
        self._last_finite = loss

    def on_epoch_end(self, epoch, logs=None):
        """Looks at the validation loss and the weights.

        Raises:
          FloatingPointError: one of them is NaN or infinite.
        """
        loss = (logs or {}).get("val_loss", 0.0)
        path = first_nonfinite(self.model.network.variables)
        if path is not None:
            self._stop(f"the weight {path} became NaN or infinite")
        if not math.isfinite(loss):
            self._stop(f"the validation loss became {loss}")
        self.initial_step = 0

    def _stop(self, what):
        before = "" if self._last_finite is None else f" (last finite loss {self._last_finite:.4g})"
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        raise FloatingPointError(
            f"{what} in epoch {self._epoch + 1}, step {self._step} of {self.steps_per_epoch}, "
            f"optimiser step {step}{before}; nothing of it was "
            "saved. Lower the learning rate or lengthen its warm-up; with float16 use bfloat16 "
            "or float32"
        )
