"""What watches a run while it trains."""

import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from sat_tf import callbacks
from sat_tf import data as datasets
from sat_tf.callbacks.overfitting import CatastrophicOverfitting
from sat_tf.runs import distribution
from sat_tf.training import AdversarialTrainer
from sat_tf.training.recipe import Recipe


def progress(recipe: Recipe, info: datasets.Info) -> callbacks.Progress:
    """Makes the line that shows how far the run is."""
    line = callbacks.Progress(
        epochs=recipe.epochs,
        steps_per_epoch=info.steps_per_epoch(recipe.batch_size),
        batch_size=recipe.batch_size,
        test_work=_test_work(recipe, info),
    )
    if recipe.attack == "none":
        line.training_images = "clean"
    return line


def pictures(
    recipe: Recipe, info: datasets.Info, trainer: AdversarialTrainer, validation: tf.data.Dataset
) -> callbacks.PictureGrid | None:
    """Takes the first validation images for TensorBoard's picture grid; None is no grid."""
    if not recipe.picture_grid:
        return None
    images, labels = next(iter(validation.unbatch().batch(recipe.picture_grid)))
    attack = trainer.validation_attack
    return callbacks.PictureGrid(images, labels, attack, class_names=info.class_names)


def watchers(
    recipe: Recipe,
    trainer: AdversarialTrainer,
    path: pathlib.Path,
    grid: callbacks.PictureGrid | None,
    line: callbacks.Progress,
    start: int,
    record: Mapping[str, Any],
) -> list[keras.callbacks.Callback]:
    """Makes the callbacks of one call of `fit`, in their order.

    Args:
      recipe, trainer: of the run.
      path: its workdir.
      grid: that of `pictures`.
      line: that of `progress`.
      start: optimiser steps that were done before this call.
      record: that of the run's `callbacks.Checkpoint`.
    """
    line.initial_step = start % line.steps_per_epoch
    # Every worker computes the same; one of them says so.
    shown = [line] if distribution.is_chief(trainer.distribute_strategy) else []
    if recipe.profile and shown:
        shown.append(callbacks.Profile(path / "logs", *recipe.profile, start))
    settings = {name: value for name, value in sorted(vars(recipe).items()) if value is not None}
    return [
        *shown,
        # Before what would show or keep the step that it stops at.
        callbacks.StopOnNaN(line.steps_per_epoch, line.initial_step),
        callbacks.TensorBoard(
            path / "logs", batch_size=recipe.batch_size, pictures=grid, settings=settings
        ),
        CatastrophicOverfitting(
            recipe.on_overfitting,
            history=record["history"],
            warmup_epochs=recipe.epsilon_warmup_epochs,
        ),
    ]


def _test_work(recipe, info):
    """Returns the work of the test over that of one validation: images times passes of each."""
    if not recipe.test_steps:
        return 0.0
    images = info.num_examples["test"] / info.num_examples["validation"]
    return images * (recipe.test_steps + 3) / (recipe.validation_steps + 2)
