"""Saves a run as it goes, so that it can continue from the workdir after any stop."""

import contextlib
import pathlib
import signal
from collections.abc import Callable, Iterator

import keras

from sat_tf.callbacks.nan import first_nonfinite
from sat_tf.runs import Interrupted, checkpoints, distribution, handling_stops, sealed


class Checkpoint(keras.callbacks.Callback):
    """Saves the training state and the best network.

    At the end of every epoch, and every `every` steps, the state goes to
    `<workdir>/checkpoints/step_<step>.npz`. `<workdir>/network.keras` is the network of the epoch
    with the highest robust validation accuracy, the later one among equals, as robust overfitting
    makes the last epoch a poor choice (Rice et al., arXiv 2002.11569); without validation images
    it is the last. Inside `handling_signals`, Ctrl-C and SIGTERM save after the current step; of
    several workers all save and stop there, whichever was told to.

    Put it last among the callbacks: whatever stops the run on a bad step must come before.

    Args:
      workdir: directory of the run.
      record: what a restored run knows beside its variables: "history", a list of the logs of
        every epoch; "best", the one that was chosen; "stopped", whether a callback ended the run;
        "sums", behind the running means of an epoch that is not over.
      steps_per_epoch: optimiser steps of an epoch.
      every: steps between checkpoints, where the device does one at a time, else as soon as it
        comes back; 0 saves at the end of epochs only.
      on_save: called with the record after the end of every epoch.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        record: dict,
        *,
        steps_per_epoch: int,
        every: int = 0,
        on_save: Callable[[dict], None] = lambda record: None,
    ):
        super().__init__()
        self.workdir, self.record, self.every, self.on_save = workdir, record, every, on_save
        self.steps_per_epoch = steps_per_epoch
        self.step = 0  # batches learnt from; the optimiser's own count leaves overflows out
        self._first = 0  # batches learnt from before this epoch, or before this call of `fit`
        self._signal: int | None = None

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Turns Ctrl-C and SIGTERM into a saved state; a second one stops at once."""

        def remember(number, frame):
            self._signal = number
            signal.signal(number, previous[number])

        with handling_stops(remember) as previous:
            yield

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Takes up the running means of an epoch that another process began."""
        self._first = self.step
        sums = self.record.pop("sums", None)
        if sums and self.step % self.steps_per_epoch:
            _resume_means(self.model, sums)

    def on_train_batch_end(self, batch, logs=None) -> None:
        """Saves where it is due, but an epoch's last step together with its validation."""
        before, self.step = self.step, self._first + batch + 1  # several steps at a time, maybe
        if self.step % self.steps_per_epoch == 0:
            return
        heard = self._heard()
        due = self.every and self.step // self.every > before // self.every
        if heard or due:
            self._check()
            self._save(_sums(self.model, logs or {}))
        if heard:
            raise self._interrupted(heard)

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Keeps the logs, the network if it is the best so far, and the state."""
        self._check()
        entry = {"epoch": epoch + 1, "step": self.step}
        entry |= {name: float(value) for name, value in (logs or {}).items()}
        history = [old for old in self.record["history"] if old["epoch"] <= epoch]
        self.record["history"] = [*history, entry]
        if _score(entry) >= _score(self.record["best"]):
            self.record["best"] = entry
            if self._writes():
                with sealed.replacing(self.workdir / "network.keras") as temporary:
                    self.model.best_network.save(temporary)
        self.record["stopped"] = self.model.stop_training
        self._save()
        if self._writes():
            self.on_save(self.record)
        if heard := self._heard():
            raise self._interrupted(heard)

    def _heard(self):
        """Returns {worker: signal}; all workers ask at the same steps, so all stop at the same."""
        numbers = distribution.of_all(self.model.distribute_strategy, self._signal or 0)
        return {worker: number for worker, number in enumerate(numbers) if number}

    def _interrupted(self, heard):
        strategy = self.model.distribute_strategy
        # Worker 0 alone writes: until it has, none may end, which would take it along.
        distribution.agree(strategy, self.step, "the step that they stop after")
        number = max(heard.values())
        by = signal.Signals(number).name
        if distribution.has_workers(strategy):
            by += f" to worker {', '.join(map(str, heard))}"
        state = "the state is saved, and the same command continues from there"
        return Interrupted(f"stopped by {by} after step {self.step}; {state}", number)

    def _save(self, sums=None):
        if self._writes():
            record = self.record if sums is None else self.record | {"sums": sums}
            checkpoints.save(self.workdir / "checkpoints", self.step, self.model.state, record)

    def _check(self):
        # A step with a finite loss can leave weights that are not, or moments: Adam's infinite
        # ones leave weights that never move again.
        if (broken := first_nonfinite(self.model.state)) is not None:
            raise FloatingPointError(
                f"{broken} is not finite after step {self.step}; the state on disk is an earlier "
                "one: lower --learning_rate or lengthen --warmup_epochs, and start again"
            )

    def _writes(self):
        return distribution.is_chief(self.model.distribute_strategy)


def _score(entry):
    return -1.0 if entry is None else entry.get("val_adversarial_accuracy", 0.0)


def _sums(trainer, logs):
    """Returns {metric: [total, count]}, each a list over the replicas of all processes."""
    replicas = trainer.distribute_strategy.experimental_local_results
    sums = {
        metric.name: [[float(copy) for copy in replicas(v.value)] for v in metric.variables]
        for metric in trainer.metrics
    }
    if distribution.has_workers(trainer.distribute_strategy):
        # The other workers' sums are not here, but Keras has averaged the logs over all of them.
        replicas = trainer.distribute_strategy.num_replicas_in_sync
        for name in sums.keys() & logs.keys():
            count = sum(sums[name][1]) / len(sums[name][1])
            sums[name] = [[float(logs[name]) * count] * replicas, [count] * replicas]
    return sums


def _resume_means(trainer, sums):
    strategy = trainer.distribute_strategy
    for metric in trainer.metrics:
        for variable, values in zip(metric.variables, sums.get(metric.name, ()), strict=False):
            copies = strategy.experimental_local_results(variable.value)
            if not len(values) == len(copies) == strategy.num_replicas_in_sync:
                values = [sum(values) / strategy.num_replicas_in_sync] * len(copies)
            for copy, value in zip(copies, values, strict=True):
                copy.assign(value)
