"""Records what the device does in some steps, for TensorBoard's profiler."""

import pathlib

import keras
import tensorflow as tf


class Profile(keras.callbacks.Callback):
    """Profiles the steps of a run from `first` to `last`, counted from 1.

    The trace goes to `<log_dir>/plugins/profile`, which TensorBoard shows where its profile plugin
    is installed. The first step of a process traces and builds the graph, so it says little of the
    others. Where the device does several steps at a time, all of those that hold `first` or `last`
    are profiled. It ends at the latest with the call of `fit`: that of an epoch that another
    process began, or that of all others.

    Args:
      log_dir: that of `TensorBoard`.
      first, last: steps, at least 1.
      initial_step: steps of the run before this call of `fit`.
    """

    def __init__(self, log_dir: pathlib.Path, first: int, last: int, initial_step: int = 0):
        super().__init__()
        self.log_dir, self.first, self.last = log_dir, first, last
        self._done = self._earlier = initial_step
        self._running = False

    def on_epoch_begin(self, epoch, logs=None):
        """Keeps count over epochs."""
        self._earlier = self._done

    def on_train_batch_begin(self, batch, logs=None):
        """Starts before the first step."""
        if self._done < self.first <= self._done + self.model.steps_per_execution:
            self._began = self._done + 1
            tf.profiler.experimental.start(str(self.log_dir))
            self._running = True

    def on_train_batch_end(self, batch, logs=None):
        """Stops after the last step."""
        self._done = self._earlier + batch + 1
        if self._running and self._done >= self.last:
            self._stop()

    def on_train_end(self, logs=None):
        """Stops where `fit` ends before the last step."""
        if self._running:
            self._stop()

    def _stop(self):
        tf.profiler.experimental.stop()
        self._running = False
        print(f"profile of steps {self._began} to {self._done}: {self.log_dir}/plugins/profile")
