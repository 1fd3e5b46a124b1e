"""Trains a robust network.

    python -m sat_tf.train --activation=swish
    python -m sat_tf.train --flagfile=flags/recipes/cifar10_cpu.flags --download
    python -m sat_tf.train --dataset=folder:pictures --image_size=64 --epsilon=4

A run that was stopped goes on with the same command.
"""

import functools
import pathlib
import sys

import keras
import tensorflow as tf
from absl import flags

from flags import attack, data, method, model, run, training
from sat_tf import callbacks, cli, evaluate, loading, models, quiet
from sat_tf import data as datasets
from sat_tf.callbacks import tensorboard
from sat_tf.callbacks.checkpoint import Checkpoint
from sat_tf.callbacks.overfitting import CatastrophicOverfitting
from sat_tf.runs import checkpoints, distribution, workdir, workers
from sat_tf.training import AdversarialTrainer, fitting, recipe

FLAGS = flags.FLAGS


def train() -> AdversarialTrainer:
    """Reads the flags, builds the parts, fits them and tests the result."""
    _settle_compilation()
    set_up_process()
    strategy = workers.strategy(FLAGS.strategy, _settings(), FLAGS.worker_timeout)
    if FLAGS.download:
        datasets.download(FLAGS.dataset, FLAGS.data_dir)
    with quiet.waiting(f"reading {FLAGS.dataset} and building {FLAGS.model}"):
        info = datasets.describe(FLAGS.dataset, FLAGS.data_dir, None, FLAGS.max_pixels)
        if FLAGS.epsilon is None:
            FLAGS.epsilon = recipe.default_epsilon(FLAGS.dataset, FLAGS.norm)
        if FLAGS.workdir is None:
            FLAGS.workdir = f"runs/{pathlib.Path(FLAGS.dataset.removeprefix('folder:')).name}"
        with strategy.scope():
            trainer = recipe.trainer(FLAGS, info, strategy.num_replicas_in_sync)
        _check_data(info)
    claimed = FLAGS.workdir, _settings(), FLAGS.overwrite, _defaults()
    with workers.claim(strategy, *claimed) as path:
        # The data may be others since the run began.
        info.check_classes(info.num_classes, loading.class_names(str(path)))
        if distribution.is_chief(strategy):
            checkpoints.require_space(path, trainer.state)
            print(_headline(trainer, info, path), flush=True)
        fit(trainer, info, path)
        if FLAGS.test_steps and distribution.is_chief(strategy):
            test(info, path)
        workers.part(strategy, trainer.network)
    return trainer


def _settle_compilation():
    """Lets what was asked for win: op determinism is on by default, and XLA cannot have it."""
    if not (FLAGS.jit_compile and FLAGS.deterministic):
        return
    if FLAGS["deterministic"].present:
        raise ValueError(
            "--jit_compile and --deterministic exclude each other: TensorFlow compiles no step "
            "while operations are to be deterministic; leave one out"
        )
    FLAGS.deterministic = False
    print("note: --jit_compile is given, so --nodeterministic holds", file=sys.stderr)


def set_up_process() -> None:
    """Sets seeds, threads, precision and determinism, before TensorFlow starts."""
    if FLAGS.logical_cpus > 1:
        distribution.split_cpu(FLAGS.logical_cpus)
    if FLAGS.threads:
        tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
        tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
    if FLAGS.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(FLAGS.seed)
    keras.mixed_precision.set_global_policy(FLAGS.precision)


def fit(trainer: AdversarialTrainer, info: datasets.Info, path: pathlib.Path) -> None:
    """Continues the run in a workdir to its end."""
    steps_per_epoch = info.steps_per_epoch(FLAGS.batch_size)
    keeper = Checkpoint(
        path,
        {"history": [], "best": None, "stopped": False},
        steps_per_epoch=steps_per_epoch,
        every=FLAGS.checkpoint_every,
        on_save=lambda record: workdir.write_metrics(path, _metrics(trainer, info, record)),
    )
    validation = _load("validation")
    progress = callbacks.Progress(
        epochs=FLAGS.epochs,
        steps_per_epoch=steps_per_epoch,
        batch_size=FLAGS.batch_size,
        test_work=_test_work(info),
    )
    try:
        fitting.fit(
            trainer,
            functools.partial(recipe.method(FLAGS).batches, _training_stream),
            validation,
            epochs=FLAGS.epochs,
            steps_per_epoch=steps_per_epoch,
            keeper=keeper,
            callbacks=functools.partial(_watchers, trainer, info, path, validation, progress),
        )
    finally:
        progress.close()  # an error message then begins a line of its own


def test(info: datasets.Info, path: pathlib.Path) -> None:
    """Attacks the best network on all test images, once: a run that has ended stays as it is."""
    report_path = path / f"test_pgd_{FLAGS.test_steps}.json"
    if report_path.exists():
        print(f"already trained and tested: {report_path}")
        return
    num_images = info.num_examples["test"]
    print(f"testing with PGD-{FLAGS.test_steps} on {num_images:,} images", flush=True)
    network = loading.load(str(path / "network.keras"))
    info.check_classes(network.output_shape[-1])
    report = evaluate.evaluate(
        network,
        _load("test"),
        [recipe.strong_attack(FLAGS, FLAGS.test_steps)],
        evaluate.Options(batch_size=FLAGS.batch_size, seed=FLAGS.seed, show_progress=True),
        about={"network": {"source": str(path / "network.keras")}},
    )
    report.save(report_path)
    last = report.outcomes[-1].last_iterate.mean()
    figures = {"clean_accuracy": report.clean_accuracy, "adversarial_accuracy": last}
    tensorboard.write_test(path / "logs", workdir.read_metrics(path)["best"]["step"], figures)
    print(
        f"{report.table()}\n{info.num_examples['test']} test images, {FLAGS.norm} epsilon "
        f"{FLAGS.epsilon:g} pixels of 255, accuracies in percent:\n{report_path}"
    )


def _test_work(info):
    """Returns the work of the test over that of one validation: images times passes of each."""
    if not FLAGS.test_steps:
        return 0.0
    images = info.num_examples["test"] / info.num_examples["validation"]
    return images * (FLAGS.test_steps + 3) / (FLAGS.validation_steps + 2)


def _watchers(trainer, info, path, validation, progress, start, record):
    initial_step = start % progress.steps_per_epoch
    progress.initial_step = initial_step
    chief = distribution.is_chief(trainer.distribute_strategy)
    pictures = None
    if FLAGS.picture_grid:
        images, labels = next(iter(validation.unbatch().batch(FLAGS.picture_grid)))
        pictures = callbacks.PictureGrid(
            images, labels, trainer.validation_attack, class_names=info.class_names
        )
    return [
        *([progress] if chief else []),
        callbacks.StopOnNaN(progress.steps_per_epoch, initial_step),
        callbacks.TensorBoard(
            path / "logs",
            batch_size=FLAGS.batch_size,
            pictures=pictures,
            settings={flag.name: flag.value for flag in _given_flags()},
        ),
        CatastrophicOverfitting(FLAGS.on_overfitting, history=record["history"]),
    ]


def _check_data(info):
    """Refuses what cannot be read before there is a workdir."""
    if empty := [split for split, number in info.num_examples.items() if not number]:
        raise ValueError(
            f"{info.name} is too small: no image is left for {', '.join(empty)}; give it at least "
            "20 images"
        )
    _training_stream(0)
    _load("validation")


def _training_stream(start_step):
    return _load("train", training=True, start_step=start_step, augment=FLAGS.augment)


def _load(split, **options):
    return datasets.load(
        FLAGS.dataset,
        split,
        batch_size=FLAGS.batch_size,
        image_size=FLAGS.image_size,
        data_dir=FLAGS.data_dir,
        seed=FLAGS.seed,
        eval_resize=FLAGS.eval_resize,
        max_pixels=FLAGS.max_pixels,
        **options,
    )


def _settings():
    return [_line(flag) for flag in _given_flags()]


def _defaults():
    return [_line(flag) for flag in _given_flags() if flag.value == flag.default]


def _given_flags():
    themes = FLAGS.flags_by_module_dict().items()
    ours = [flag for module, theme in themes if module.startswith("flags.") for flag in theme]
    return [flag for flag in sorted(ours, key=lambda flag: flag.name) if flag.value is not None]


def _line(flag):
    if flag.boolean:  # "--nooverwrite" would hide the flag's name
        return f"--{flag.name}={str(flag.value).lower()}\n"
    text = flag.serialize()
    return f"{text}\n" if text else ""


def _headline(trainer, info, path):
    devices = trainer.distribute_strategy.extended.worker_devices
    num_parameters = models.num_parameters(trainer.network)
    return (
        f"{trainer.network.name} ({num_parameters:,} weights, {FLAGS.activation}) "
        f"on {info.num_examples['train']:,} images of {info.name}, {len(devices)} x "
        f"{tf.DeviceSpec.from_string(devices[0]).device_type}\n"
        f"{FLAGS.norm} epsilon {FLAGS.epsilon:g} pixels of 255, workdir {path}"
    )


def _metrics(trainer, info, record):
    return {
        "schema": 1,
        "unit": "pixels (0-255)",
        "model": FLAGS.model,
        "activation": FLAGS.activation,
        "num_parameters": models.num_parameters(trainer.network),
        "dataset": FLAGS.dataset,
        "num_examples": dict(info.num_examples),
        "num_classes": info.num_classes,
        "class_names": list(info.class_names),
        "image_size": recipe.image_size(FLAGS, info),
        "eval_resize": FLAGS.eval_resize or ("whole" if info.image_size else "center_crop"),
        "norm": FLAGS.norm,
        "epsilon": FLAGS.epsilon,
        "seed": FLAGS.seed,
        **workdir.provenance(),
        "best": record["best"],
        "history": record["history"],
    }


if __name__ == "__main__":
    cli.run(train, model, data, attack, method, training, run)
