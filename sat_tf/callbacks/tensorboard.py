"""What TensorBoard shows of a run."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from sat_tf.callbacks import curves
from sat_tf.callbacks.pictures import PictureGrid
from sat_tf.callbacks.throughput import Throughput
from sat_tf.runs import atomic, places


class TensorBoard(keras.callbacks.Callback):
    """Writes scalars and pictures, all over the optimiser's step, into `train` and `validation`.

    | run | tag | what |
    |---|---|---|
    | train | step/loss, step/adversarial_accuracy | mean since the epoch began |
    | train | step/learning_rate, step/images_per_second | of the next step; since the last point |
    | train | epoch/... | the same at the end of an epoch |
    | validation | epoch/... | loss, clean_accuracy, adversarial_accuracy, attack_gain |
    | validation | attack/pictures | clean image, perturbation, adversarial image |
    | train | activation/curve | f and f' of trained activations, at the start and every epoch |
    | train | trained_activation/<layer>/<weight> | the same |
    | (log_dir itself) | flags; HParams | the settings as a table, and for TensorBoard's own table |
    | test | epoch/... | see `write_test` |

    Training and validation share tags, so TensorBoard draws them into one chart. An activation
    that is not trained is the same curve in every run, which says nothing of this one: its name is
    among the settings, and `python -m sat_tf.activations --picture` draws it.

    After a resume the points that the killed process had written beyond the checkpoint are marked
    as void (a session start, which TensorBoard understands), and written again. Put it BEFORE
    whatever writes checkpoints: what a checkpoint stands for is then on disk already. Only the
    chief worker writes. Every group of points is on disk at
    once, as leaving a writer's context flushes it.

    `keras.callbacks.TensorBoard` is not used: it counts epochs on one axis and, from 0 after a
    resume, batches on another, and it has neither pictures nor a place for them.

    Args:
      log_dir: directory for the two runs.
      batch_size: images of a step over all replicas.
      every_steps: optimiser steps between two points of `step/...`.
      pictures: drawn at the end of every epoch, if given.
      settings: names and values by which runs are compared, if given.
      activations: layers to watch; default those of `curves.activation_layers` that are trained.
      clock: returns seconds; only differences count.
    """

    def __init__(
        self,
        log_dir: str | pathlib.Path,
        *,
        batch_size: int,
        every_steps: int = 50,
        pictures: PictureGrid | None = None,
        settings: Mapping[str, Any] | None = None,
        activations: Sequence[keras.layers.Layer] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        if every_steps < 1:
            raise ValueError(f"every_steps is {every_steps}; give a number of steps, at least 1")
        self.log_dir = places.of(log_dir)
        self.batch_size = batch_size
        self.every_steps = every_steps
        self.pictures = pictures
        self.settings = settings
        self.activations = activations
        self._recent, self._epoch_long = Throughput(clock), Throughput(clock)
        self._writers = {}
        self._epoch_start = 0

    def on_train_begin(self, logs=None):
        """Opens the event files."""
        strategy = self.model.distribute_strategy
        if not strategy.extended.should_save_summary:
            return
        step = self._step()
        resumed = [start_session(self.log_dir / run, step) for run in ("train", "validation")]
        for run in ("train", "validation"):
            self._writers[run] = tf.summary.create_file_writer(str(self.log_dir / run))
        self._next_point = step + self.every_steps - step % self.every_steps
        if self.settings and not (any(resumed) and step):
            write_settings(self.log_dir, self.settings)
        if self.activations is None:
            hidden = curves.activation_layers(self.model.network)
            self.activations = [layer for layer in hidden if layer.trainable_weights]
        if self.activations and not (any(resumed) and step):
            self._write_activations(step)

    def on_epoch_begin(self, epoch, logs=None):
        """Restarts the measurement of speed, so that validation does not count."""
        self._epoch_start = self._step()
        self._recent.restart()
        self._epoch_long.restart()

    def on_train_batch_end(self, batch, logs=None):
        """Writes a point every `every_steps` steps."""
        if not self._writers:
            return
        step = self._epoch_start + batch + 1  # asking the optimiser would wait for the device
        self._recent.record(step)
        self._epoch_long.record(step)
        if step >= self._next_point:
            self._next_point = step + self.every_steps - step % self.every_steps
            self._write("train", "step", step, (logs or {}) | self._pace(self._recent))
            self._recent.restart()
            self._recent.record(step)

    def on_epoch_end(self, epoch, logs=None):
        """Writes the epoch's figures and pictures."""
        if not self._writers:
            return
        step, logs = self._step(), logs or {}
        train = {name: v for name, v in logs.items() if not name.startswith("val_")}
        validation = {n.removeprefix("val_"): v for n, v in logs.items() if n.startswith("val_")}
        self._write("train", "epoch", step, train | self._pace(self._epoch_long))
        self._write("validation", "epoch", step, validation)
        if any(layer.trainable_weights for layer in self.activations):
            self._write_activations(step)
        if self.pictures is not None:
            network = getattr(self.model, "best_network", self.model.network)
            self._write_picture("validation", "attack/pictures", step, self.pictures(network))

    def on_train_end(self, logs=None):
        """Closes the event files."""
        with _named(self.log_dir):
            for writer in self._writers.values():
                writer.close()
        self._writers = {}

    def _step(self):
        return int(_number(self.model.optimizer.iterations))

    def _pace(self, throughput):
        pace = {"learning_rate": float(_number(self.model.optimizer.learning_rate))}
        speed = throughput.per_second(self.batch_size)
        return pace if speed is None else pace | {"images_per_second": speed}

    def _write(self, run, group, step, figures):
        with _named(self.log_dir), self._writers[run].as_default(step):
            for name, value in figures.items():
                tf.summary.scalar(f"{group}/{name}", value)

    def _write_picture(self, run, tag, step, picture):
        with _named(self.log_dir), self._writers[run].as_default(step):
            tf.summary.image(tag, picture[None])

    def _write_activations(self, step):
        self._write_picture("train", "activation/curve", step, curves.draw(self.activations))
        with _named(self.log_dir), self._writers["train"].as_default(step):
            for layer in self.activations:
                for weight in layer.trainable_weights:
                    value = keras.ops.convert_to_numpy(weight)
                    write = tf.summary.scalar if value.size == 1 else tf.summary.histogram
                    tag = f"trained_activation/{layer.name}/{weight.name}"
                    write(tag, np.squeeze(value) if value.size == 1 else value)


@contextlib.contextmanager
def _named(directory):
    """Turns TensorFlow's errors of the disk into ones that name the directory and the cause."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        reason = getattr(error, "message", None) or error.strerror or str(error)
        raise OSError(
            f"cannot write {directory}: {reason.rpartition('; ')[2]}{atomic.room(directory.parent)}"
            "; with that mended the same command goes on from the last checkpoint"
        ) from error


def _number(variable):
    return keras.ops.convert_to_numpy(variable)  # int() refuses a mirrored variable


def write_settings(log_dir: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Writes settings twice: for the table HParams, where runs are compared, and as a text.

    A row of the table is named after the directory that `log_dir` is in.
    """
    plain = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in settings.items()
    }
    rows = "".join(f"| {name} | `{value}` |\n" for name, value in plain.items())
    writer = tf.summary.create_file_writer(str(log_dir))
    with writer.as_default(0):
        hparams.hparams(plain, trial_id=str(log_dir.parent))  # a hash would be its name
        tf.summary.text("flags", f"| flag | value |\n|---|---|\n{rows}")
    writer.close()


def write_test(log_dir: pathlib.Path, step: int, figures: Mapping[str, float]) -> None:
    """Writes what the test found as the run `test`, in the charts of the validation.

    Args:
      log_dir: as of `TensorBoard`.
      step: of the network that was tested.
      figures: by name, such as "clean_accuracy".
    """
    writer = tf.summary.create_file_writer(str(log_dir / "test"))
    with writer.as_default(step):
        for name, value in figures.items():
            tf.summary.scalar(f"epoch/{name}", value)
    writer.close()


def start_session(directory: pathlib.Path, step: int) -> bool:
    """Tells TensorBoard to forget the points beyond `step` that earlier processes wrote.

    Writes a session start, which TensorBoard takes for a restart when it is not the first, into a
    file of its own, named so that it is read after the files that are there and before the ones to
    come. Returns whether there were any.

    Args:
      directory: of one run; made if it is missing.
      step: the last one that counts; 0 voids everything.
    """
    atomic.make_directory(directory, "--workdir")
    files = sorted(directory.glob("*tfevents*"))
    now, event = time.time(), tf.compat.v1.Event
    start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    events = [
        event(wall_time=now, file_version="brain.Event:2"),
        event(wall_time=now, step=step + 1 if step else 0, session_log=start),
    ]
    path = files[-1] if files else directory / "events.out.tfevents.0"
    with _named(directory), tf.io.TFRecordWriter(f"{path}.start") as writer:
        for record in events:
            writer.write(record.SerializeToString())
    return bool(files)
