"""What a person sees while training runs."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

import keras

from sat_tf.callbacks.throughput import Throughput
from sat_tf.runs.line import Line, duration

_MIN_BAR, _MAX_BAR = 8, 30
_BUILDING = "building the first step"


class Progress(keras.callbacks.Callback):
    """Shows how far training is, how fast it goes and when it ends; a summary line an epoch.

    The line is a `runs.line.Line`. The summary is broken where it would exceed the width.
    Time left in the epoch is `steps_left * seconds_per_step + c`, and in the run that plus
    `epochs_left * (steps_per_epoch * seconds_per_step + c) + test_work * v`, where `c` is what the
    end of the last epoch took (validation, checkpoint, pictures) and `v` what its validation took;
    before one epoch has ended they are 0, or what has passed of them. The first step of training
    and that of validation build their graphs: what they took longer than the steps after them is
    said in the summary and left out of `c` and `v`.

    `keras.utils.Progbar` is not used: it writes backspaces and colours into log files on every
    Linux, knows the time left of the epoch only, starts to count at 0 after a resume and is silent
    during validation. Use `fit(verbose=0)`.

    Args:
      epochs: epochs of the whole run, those done before a resume included.
      steps_per_epoch: optimiser steps of a whole epoch.
      batch_size: images of a step over all replicas.
      initial_step: steps of the first epoch that were done before this process started.
      test_work: work of the test that follows, over that of one validation.
      stream: where to write; default standard output.
      clock: returns seconds; only differences count.

    Attributes:
      training_images: what the log `adversarial_accuracy` of training is called: "clean" where
        the images are trained on as they are, without an attack.
    """

    def __init__(
        self,
        *,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int,
        initial_step: int = 0,
        test_work: float = 0.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.initial_step = initial_step
        self.test_work = test_work
        self.training_images = "adversarial"
        self._clock = clock
        self._line = Line(stream or sys.stdout, clock)
        self._throughput = Throughput(clock)
        self._seconds_per_step = None
        self._closing = 0.0  # seconds from an epoch's last step to the next epoch's begin
        self._validation_seconds, self._validation_began = 0.0, 0.0
        self._last_step_ended = None
        self._first_step = self._first_test_step = None  # their seconds
        self._building = 0.0  # seconds by which graphs made the last validation longer
        self._epoch = self._first_epoch = None
        self._epoch_began = clock()
        self._step = 0
        self._batches_seen = 0
        self._validation_batches = None

    def close(self) -> None:
        """Ends a line that is still being redrawn; call it before printing an error."""
        self._line.keep()

    def seconds_left(self) -> tuple[float, float] | None:
        """Returns the seconds left in the epoch and in the run, None before two steps ended."""
        if self._seconds_per_step is None or self._epoch is None:
            return None
        closing, passed = self._closing, 0.0
        if self._step == self.steps_per_epoch:
            passed = self._clock() - self._last_step_ended - self._building
            closing = max(closing, passed)
        epoch = (self.steps_per_epoch - self._step) * self._seconds_per_step + closing - passed
        whole = self.steps_per_epoch * self._seconds_per_step + closing
        test = self.test_work * self._validation_seconds
        return epoch, epoch + (self.epochs - self._epoch - 1) * whole + test

    def on_epoch_begin(self, epoch, logs=None):
        """Starts to measure an epoch."""
        if self._last_step_ended is not None:
            self._closing = self._clock() - self._last_step_ended - self._building
        self._last_step_ended, self._building = None, 0.0
        self._epoch = epoch
        self._epoch_began = self._clock()
        self._step = self.initial_step
        self._throughput.restart()
        if self._step:
            self._line.write(f"{self._name()} continues after step {self._step:,}")
        if self._line.terminal:  # the first step may be minutes away
            waited_for = [_BUILDING] if self._first_step is None else []
            self._draw(self._step, self.steps_per_epoch, "", waited_for)

    def on_train_batch_end(self, batch, logs=None):
        """Draws, if it is time to."""
        self._step = self.initial_step + batch + 1
        self._throughput.record(self._step)
        self._seconds_per_step = self._throughput.seconds_per_step() or self._seconds_per_step
        self._last_step_ended = self._clock()
        if self._first_step is None:
            self._first_step = self._last_step_ended - self._epoch_began
            self._first_epoch = self._epoch
        if self._line.is_due():
            figures = [*_figures(logs or {}, "", self.training_images), *self._speed()]
            self._draw(self._step, self.steps_per_epoch, "", figures)

    def on_test_begin(self, logs=None):
        """Starts to measure the validation."""
        self._validation_began, self._batches_seen = self._clock(), 0
        if self._epoch is not None and self._first_test_step is None and self._line.terminal:
            self._draw(0, None, "validation ", [_BUILDING])

    def on_test_batch_end(self, batch, logs=None):
        """Draws the validation inside `fit`, if it is time to."""
        if self._epoch is not None and self._line.is_due():
            self._draw(batch + 1, self._validation_batches, "validation ", [])
        if self._first_test_step is None:
            self._first_test_step = self._clock() - self._validation_began
        self._batches_seen = batch + 1

    def on_test_end(self, logs=None):
        """Remembers how many batches the validation has."""
        seconds = self._clock() - self._validation_began
        if self._validation_batches is None and self._batches_seen > 1:
            others = seconds - self._first_test_step
            usual = others / (self._batches_seen - 1)
            self._building = max(0.0, self._first_test_step - usual)
        self._validation_batches = self._batches_seen
        self._validation_seconds = seconds - self._building

    def on_epoch_end(self, epoch, logs=None):
        """Prints the epoch's summary."""
        logs = logs or {}
        parts = [f"{self._name()} in {duration(self._clock() - self._epoch_began)}"]
        if (built := self._seconds_of_graphs()) >= 1:
            parts[0] += f" ({duration(built)} to build its graphs)"
        parts += self._speed()
        parts += ["train: " + ", ".join(_figures(logs, "", self.training_images))]
        if any(name.startswith("val_") for name in logs):
            parts += ["validation: " + ", ".join(_figures(logs, "val_"))]
        left = self.seconds_left()
        if left is not None and (epoch + 1 < self.epochs or self.test_work):
            parts += [f"{duration(left[1])} left"]
        self._line.write(self._joined(parts))
        self.initial_step = 0

    def on_train_end(self, logs=None):
        """Leaves the cursor on a fresh line."""
        self.close()

    def _seconds_of_graphs(self):
        """Returns how much longer the process's first steps took than those after them."""
        if self._epoch != self._first_epoch or self._seconds_per_step is None:
            return self._building
        return self._building + max(0.0, self._first_step - self._seconds_per_step)

    def _joined(self, parts):
        lines = parts[:1]
        room = self._line.room()
        for part in parts[1:]:
            if len(lines[-1]) + len(part) + 3 > room:
                lines.append(" " * 6 + part)
            else:
                lines[-1] += f" | {part}"
        return "\n".join(lines)

    def _name(self):
        return f"epoch {self._epoch + 1:{len(str(self.epochs))}}/{self.epochs}"

    def _speed(self):
        speed = self._throughput.per_second(self.batch_size)
        return [] if speed is None else [f"{speed:,.0f} images/s"]

    def _draw(self, done, total, phase, figures):
        left = self.seconds_left()
        epoch, run = ("?", "?") if left is None else map(duration, left)
        count = f"{done:,}" if total is None else f"{done:{len(str(total))}}/{total}"
        head = f"{self._name()} {phase}{count}"
        columns = self._line.room()
        parts = [*figures, f"left: epoch {epoch}, run {run}"]
        while len(parts) > 1 and len("  ".join([head, *parts])) > columns:
            del parts[-2]  # the time left stays
        tail = "  ".join(parts)
        room = min(_MAX_BAR, columns - len(head) - len(tail) - 5)
        bar = ""
        if total and room >= _MIN_BAR and self._line.terminal:
            filled = min(room, room * done // total)
            bar = f" [{'#' * filled}{'.' * (room - filled)}]"
        self._line.draw(f"{head}{bar}  {tail}")


def _figures(logs, prefix, attacked="adversarial"):
    figures = [f"loss {logs[prefix + 'loss']:.4f}"] if prefix + "loss" in logs else []
    for kind, shown in (("clean", "clean"), ("adversarial", attacked)):
        name = f"{prefix}{kind}_accuracy"
        if name in logs:
            figures.append(f"{shown} {100 * logs[name]:.1f} %")
    return figures
