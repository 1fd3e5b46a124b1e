"""Trains a robust network.

    python -m sat_tf.train --activation=swish
    python -m sat_tf.train --flagfile=cifar10_cpu --download
    python -m sat_tf.train --dataset=folder:pictures --image_size=64 --epsilon=4

A run that was stopped goes on with the same command.
"""

import functools
import pathlib

import numpy as np
from absl.flags import FLAGS

from flags import attack, data, flagfile, method, model, run, training
from sat_tf import cli, evaluate, loading, quiet
from sat_tf import data as datasets
from sat_tf.callbacks import tensorboard
from sat_tf.callbacks.checkpoint import Checkpoint
from sat_tf.evaluation.report.union import Union
from sat_tf.runs import checkpoints, distribution, places, workdir, workers
from sat_tf.training import AdversarialTrainer, fitting, networks, parts, summary, watchers
from sat_tf.training.recipe import Recipe


def train() -> AdversarialTrainer:
    """Reads the flags, builds the parts, fits them and tests the result."""
    recipe = Recipe.of(FLAGS).settled(FLAGS["deterministic"].present)
    # First of all, as TensorFlow keeps the threads and devices that it starts with.
    parts.set_up_process(recipe)
    places.of(recipe.workdir or "")  # a store that cannot be reached is said at once
    # Before anything slow: workers whose flags differ, or one that is missing, are named at once.
    settings = flagfile.lines(vars(recipe))
    distribution.find_cluster(recipe.cluster, recipe.strategy)
    strategy = workers.strategy(recipe.strategy, settings, recipe.worker_timeout)
    if recipe.download:
        datasets.download(recipe.dataset, recipe.data_dir)
    network = recipe.initial_network or recipe.model or "the network"
    with quiet.waiting(f"reading {recipe.dataset} and building {network}"):
        info = datasets.describe(recipe.dataset, recipe.data_dir, None, recipe.max_pixels)
        # After the data: a name that is no data set's is refused as such, not for want of a radius.
        recipe = recipe.completed()
        with strategy.scope():
            trainer = parts.trainer(recipe, info, strategy.num_replicas_in_sync)
        recipe = networks.sized(recipe, info, trainer.network)
        # Before there is a workdir, which a run that cannot begin should not leave behind.
        parts.check_images(recipe, info)
    settings, defaults = map(flagfile.lines, (vars(recipe), flagfile.defaults(vars(recipe))))
    claim = workers.claim(strategy, recipe.workdir, settings, recipe.overwrite, defaults)
    with claim as path:
        # The data may be others since the run began.
        info.check_classes(info.num_classes, loading.class_names(str(path)))
        if distribution.is_chief(strategy):
            checkpoints.require_space(path, trainer.state)
            print(summary.headline(recipe, info, trainer, path), flush=True)
        fit(recipe, trainer, info, path)
        if recipe.test_steps and distribution.is_chief(strategy):
            test(recipe, info, path)
        # Last: a worker that ends takes the others with it while they still need it.
        workers.part(strategy, trainer.network)
    return trainer


def fit(
    recipe: Recipe, trainer: AdversarialTrainer, info: datasets.Info, path: pathlib.Path
) -> None:
    """Continues the run in a workdir to its end."""
    steps_per_epoch = info.steps_per_epoch(recipe.batch_size)

    def save(record: dict) -> None:
        # A run that had ended keeps the commit and the versions that it was trained with.
        if workdir.read_metrics(path).get("history") != record["history"]:
            metrics = summary.metrics(recipe, info, trainer.network, record)
            workdir.write_metrics(path, metrics)

    checkpoint = Checkpoint(
        path,
        {"history": [], "best": None, "stopped": False},
        steps_per_epoch=steps_per_epoch,
        every=recipe.checkpoint_every,
        on_save=save,
    )
    grid = watchers.pictures(recipe, info, trainer, parts.images(recipe, "validation"))
    progress = watchers.progress(recipe, info)
    try:
        fitting.fit(
            trainer,
            functools.partial(parts.training_stream, recipe),
            lambda shard: parts.images(recipe, "validation", shard=shard),
            epochs=recipe.epochs,
            steps_per_epoch=steps_per_epoch,
            checkpoint=checkpoint,
            callbacks=functools.partial(watchers.watchers, recipe, trainer, path, grid, progress),
        )
    finally:
        progress.close()  # an error message then begins a line of its own


def test(recipe: Recipe, info: datasets.Info, path: pathlib.Path) -> None:
    """Attacks the best network on all test images, once: a run that has ended stays as it is."""
    report_path = path / f"test_pgd_{recipe.test_steps}.json"
    if report_path.exists():
        print(f"already trained and tested: {report_path}")
        return
    num_images = info.num_examples["test"]
    print(f"testing with PGD-{recipe.test_steps} on {num_images:,} images", flush=True)
    # From the file: what is tested is what `evaluate` and `export` will read.
    network = loading.load(str(path / "network.keras"))
    info.check_classes(network.output_shape[-1])
    reports = _attacked(recipe, network, str(path / "network.keras"))
    last = np.logical_and.reduce([one.outcomes[-1].last_iterate for one in reports.values()])
    report = next(iter(reports.values()))
    if len(reports) > 1:
        files = {norm: report_path.with_suffix(f".{norm}.json") for norm in reports}
        for norm, one in reports.items():
            one.save(files[norm])
        report = Union(reports, {norm: file.name for norm, file in files.items()})
    report.save(report_path)  # before the rest: a second start repeats no attack
    figures = {"clean_accuracy": report.clean_accuracy, "adversarial_accuracy": last.mean()}
    tensorboard.write_test(path / "logs", workdir.read_metrics(path)["best"]["step"], figures)
    print(
        f"{report.table()}\n{num_images} test images, {summary.balls(recipe)} pixels of 255, "
        f"accuracies in percent:\n{report_path}"
    )


def _attacked(recipe, network, source):
    """Returns what the attack of each ball finds on all test images, by norm."""
    return {
        attack.norm: evaluate.evaluate(
            network,
            parts.images(recipe, "test"),
            [attack],
            evaluate.Options(batch_size=recipe.batch_size, seed=recipe.seed, show_progress=True),
            about={"network": {"source": source}},
        )
        for attack in parts.strong_attacks(recipe, recipe.test_steps)
    }


def command() -> None:
    """Runs the program with the flags of the command line."""
    cli.run(train, model, data, attack, method, training, run)  # in the order of --help


if __name__ == "__main__":
    command()
