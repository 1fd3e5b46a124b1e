"""Fits a trainer inside a workdir: from wherever the last process stopped to the end."""

import functools
import pathlib
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from sat_tf import data
from sat_tf.callbacks.checkpoint import Checkpoint
from sat_tf.injection.layer_state import renew
from sat_tf.runs import checkpoints, distribution, places, sealed
from sat_tf.training import AdversarialTrainer


def fit(
    trainer: AdversarialTrainer,
    batches: Callable[[int, data.Shard], tf.data.Dataset],
    validation: Callable[[data.Shard], tf.data.Dataset],
    *,
    epochs: int,
    steps_per_epoch: int,
    checkpoint: Checkpoint,
    callbacks: Callable[[int, dict], list[keras.callbacks.Callback]],
) -> None:
    """Continues a run to its end; a run that has ended stays as it is.

    A process that died in the middle of an epoch left a checkpoint there: the rest of that epoch
    is one call of Keras' `fit`, the whole epochs after it another. Weights and logs are those of an
    uninterrupted run; with several workers the means of a begun epoch are so but for rounding.

    Args:
      trainer: compiled, with fresh weights.
      batches: makes a worker's part of the endless training stream that starts at a step.
      validation: makes a worker's part of the finite stream.
      epochs: of the whole run.
      steps_per_epoch: optimiser steps in each.
      checkpoint: saves the state; its `record`, what a run knows beside its variables, is filled
        from what is saved.
      callbacks: makes the other callbacks from the first step of a `fit` and the record; they run
        before `checkpoint`.

    Raises:
      runs.Interrupted: a signal arrived; the state is saved.
    """
    step = restore(trainer, checkpoint.workdir, checkpoint.record)
    distribution.agree(trainer.distribute_strategy, step, "the step to go on from")
    if checkpoint.record["history"] and distribution.is_chief(trainer.distribute_strategy):
        checkpoint.on_save(checkpoint.record)  # the last process may have died before it could
    if checkpoint.record["stopped"]:
        return
    # To drop a pipeline TensorFlow can take 40 seconds: they live as long as the trainer.
    trainer.hold = [].append
    steps_per_execution, strategy = trainer.steps_per_execution, trainer.distribute_strategy
    with checkpoint.handling_signals():
        for start, end in _calls_of_fit(step, epochs, steps_per_epoch):
            checkpoint.step = start
            steps = steps_per_epoch - start % steps_per_epoch
            # Keras would go on beyond the end of an epoch that they do not divide, as the rest of
            # one that was begun with another number of them may be.
            trainer.execute(1 if steps % steps_per_execution else steps_per_execution)
            trainer.fit(
                _feed(strategy, functools.partial(batches, start)),
                initial_epoch=start // steps_per_epoch,
                epochs=end,
                steps_per_epoch=steps,
                validation_data=_feed(strategy, validation),
                validation_steps=_num_batches(strategy, validation),
                callbacks=[*callbacks(start, checkpoint.record), checkpoint],
                shuffle=False,  # the stream has its own order
                verbose=0,
            )
            if trainer.stop_training:  # a callback's wish ends the run, not this call alone
                return


def restore(trainer: AdversarialTrainer, workdir: pathlib.Path, record: dict) -> int:
    """Restores the newest state of a workdir, if any, and returns its step.

    Raises:
      ValueError: as `checkpoints.restore`; or the best network so far is damaged or gone, which the
        end of the run would refuse.
    """
    found = checkpoints.restore(workdir / "checkpoints", trainer.state)
    if found is None:
        return 0
    for network in filter(None, (trainer.network, trainer.average)):
        renew(network)
    step, kept = found
    record |= kept
    if record.get("best") is not None:
        _require_intact(workdir / "network.keras")
    return step


def _feed(strategy, make):
    """Makes a stream for `fit`: of several workers each reads and decodes its own part alone."""
    if not distribution.has_workers(strategy):
        return data.shared_out(make(data.WHOLE))

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        index, count = context.input_pipeline_id, context.num_input_pipelines
        # Of one that may end all workers would ask each other at every step if it has.
        return make(data.Shard(index, count, context.num_replicas_in_sync // count)).repeat()

    return strategy.distribute_datasets_from_function(of_worker)


def _num_batches(strategy, make):
    """Tells how many batches `fit` is to take of what `_feed` repeats; None is all there are."""
    if not distribution.has_workers(strategy):
        return None
    return int(make(data.WHOLE).cardinality())


def _require_intact(best: pathlib.Path) -> None:
    try:
        with places.fetched(best) as local:
            sealed.check_archive(local)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{best}, the best network of this run so far, is damaged or gone ({error}); bring it "
            "back, or start again with --overwrite or in another --workdir"
        ) from error


def _calls_of_fit(step: int, epochs: int, steps_per_epoch: int) -> Iterator[tuple[int, int]]:
    """Yields the first step and the last epoch of each: a begun epoch, then the whole ones."""
    if step % steps_per_epoch:
        epoch = step // steps_per_epoch + 1
        yield step, epoch
        step = epoch * steps_per_epoch
    if step < epochs * steps_per_epoch:
        yield step, epochs
