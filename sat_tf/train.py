"""Trains a robust network: `python -m sat_tf.train --activation=swish`."""

import functools
import math
import pathlib
import sys

import keras
import tensorflow as tf
from absl import flags

from flags import attack, data, method, model, run, training
from sat_tf import (
    attacks,
    callbacks,
    distribution,
    evaluate,
    fitting,
    main,
    methods,
    models,
    schedules,
    specs,
    workdir,
)
from sat_tf import data as datasets
from sat_tf.callbacks.checkpoint import Checkpoint, Interrupted
from sat_tf.callbacks.overfitting import CatastrophicOverfitting
from sat_tf.trainer import AdversarialTrainer

FLAGS = flags.FLAGS
_EPSILONS = {"digits": 32.0, "cifar10": 8.0, "cifar100": 8.0, "imagenet2012": 4.0}
for _theme in (attack, data, method, model, run, training):
    flags.adopt_module_key_flags(_theme)


def train() -> None:
    """Reads the flags, builds the parts, fits them and tests the result."""
    set_up_process()
    if FLAGS.epsilon is None:
        FLAGS.epsilon = default_epsilon(FLAGS.dataset)
    if FLAGS.download:
        datasets.download(FLAGS.dataset, FLAGS.data_dir)
    info = datasets.describe(FLAGS.dataset, FLAGS.data_dir)
    trainer = build_trainer(info)
    with workdir.claim(FLAGS.workdir, _settings(), FLAGS.overwrite) as path:
        print(_headline(trainer, info, path), flush=True)
        fit(trainer, info, path)
        if FLAGS.test_steps:
            test(info, path)


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


def default_epsilon(dataset: str) -> float:
    """Returns the radius in pixels that the literature uses for a data set.

    8 of 255 for CIFAR and 4 for ImageNet, as RobustBench; 32 for the digits is ours, as eight by
    eight pixels can bear more.

    Raises:
      ValueError: no custom for this data set.
    """
    try:
        return _EPSILONS[dataset]
    except KeyError:
        raise ValueError(
            f"there is no usual epsilon for {dataset}; give one in pixels, such as --epsilon=8"
        ) from None


def build_trainer(info: datasets.Info) -> AdversarialTrainer:
    """Builds network, attacks, objective and optimiser under the strategy of the flags."""
    strategy = distribution.strategy(FLAGS.strategy)
    _check_batch(strategy.num_replicas_in_sync)
    with strategy.scope():
        trainer = training_method().trainer(
            build_network(info),
            training_attack(),
            batch_size=FLAGS.batch_size,
            label_smoothing=FLAGS.label_smoothing,
            validation_attack=strong_attack(FLAGS.validation_steps),
            seed=FLAGS.seed,
        )
        trainer.compile(
            optimizer(info.steps_per_epoch(FLAGS.batch_size)),
            weight_decay=FLAGS.weight_decay,
            ema_decay=FLAGS.ema_decay,
            gradient_accumulation=FLAGS.gradient_accumulation,
            jit_compile=FLAGS.jit_compile,
        )
    return trainer


def build_network(info: datasets.Info) -> keras.Model:
    """Builds the network that the flags name, for the classes and images of the data."""
    name, options = specs.parse(FLAGS.model)
    return models.build(
        name,
        activation=FLAGS.activation,
        num_classes=info.num_classes,
        image_size=_image_size(info),
        num_channels=info.num_channels,
        **options,
    )


def training_method() -> methods.Method:
    """Makes the choice of objective, trainer and gradients."""
    return methods.Method(
        FLAGS.method,
        beta=FLAGS.beta,
        num_replays=FLAGS.replays,
        awp_gamma=FLAGS.awp_gamma,
        attack_gradient=FLAGS.attack_gradient,
        update_gradient=FLAGS.update_gradient,
    )


def training_attack() -> attacks.Attack:
    """Makes the attack inside training."""
    if FLAGS.attack == "none":
        return attacks.identity
    if FLAGS.attack != "pgd":
        raise ValueError(f"attack {FLAGS.attack!r} is unknown; use one of: pgd, none")
    if 0 < FLAGS.epsilon < 1:
        print(
            f"warning: epsilon is {FLAGS.epsilon:g} pixels of 255, which is next to nothing; if "
            f"{FLAGS.epsilon * 255:.3g}/255 is meant, write --epsilon={FLAGS.epsilon * 255:.3g}",
            file=sys.stderr,
        )
    step_size = FLAGS.step_size
    if step_size is None:
        step_size = FLAGS.epsilon * min(1, 2.5 / max(FLAGS.attack_steps, 1))
    return attacks.PGD(
        epsilon=FLAGS.epsilon,
        step_size=step_size,
        steps=FLAGS.attack_steps,
        random_start=FLAGS.random_start,
        norm=FLAGS.norm,
        batch_norm=FLAGS.attack_batch_norm,
    )


def strong_attack(steps: int) -> attacks.PGD:
    """Makes the attack of validation and test: a quarter of epsilon a step."""
    epsilon = FLAGS.epsilon
    return attacks.PGD(epsilon=epsilon, step_size=epsilon / 4, steps=steps, norm=FLAGS.norm)


def optimizer(steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Makes momentum SGD with the schedule of the flags."""
    schedule = schedules.Schedule(
        FLAGS.schedule,
        peak=FLAGS.learning_rate,
        num_steps=FLAGS.epochs * steps_per_epoch,
        warmup_steps=math.ceil(FLAGS.warmup_epochs * steps_per_epoch),
        boundaries=tuple(round(epoch * steps_per_epoch) for epoch in FLAGS.boundary),
        factor=FLAGS.factor,
    )
    return keras.optimizers.SGD(schedule, momentum=FLAGS.momentum, nesterov=FLAGS.nesterov)


def fit(trainer: AdversarialTrainer, info: datasets.Info, path: pathlib.Path) -> None:
    """Continues the run in a workdir to its end."""
    steps_per_epoch = info.steps_per_epoch(FLAGS.batch_size)
    keeper = Checkpoint(
        path,
        {"history": [], "best": None},
        every=FLAGS.checkpoint_every,
        on_save=lambda record: workdir.write_metrics(path, _metrics(trainer, info, record)),
    )
    validation = _load("validation")
    progress = callbacks.Progress(
        epochs=FLAGS.epochs, steps_per_epoch=steps_per_epoch, batch_size=FLAGS.batch_size
    )
    try:
        fitting.fit(
            trainer,
            functools.partial(training_method().batches, _training_stream),
            validation,
            epochs=FLAGS.epochs,
            steps_per_epoch=steps_per_epoch,
            keeper=keeper,
            callbacks=functools.partial(_watchers, trainer, info, path, validation, progress),
        )
    except Interrupted as stop:
        progress.close()
        raise main.Interrupted(str(stop), stop.signal_number) from stop


def test(info: datasets.Info, path: pathlib.Path) -> None:
    """Attacks the best network on all test images, once: a run that has ended stays as it is."""
    report_path = path / "test.json"
    if report_path.exists():
        print(f"already trained and tested: {report_path}")
        return
    network = keras.models.load_model(path / "network.keras")
    report = evaluate.evaluate(
        network,
        _load("test"),
        [strong_attack(FLAGS.test_steps)],
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
        show_progress=True,
    )
    report.facts |= {"network": {"source": str(path / "network.keras")}}
    report.save(report_path)
    print(
        f"{report.table()}\n{info.num_examples['test']} test images, {FLAGS.norm} epsilon "
        f"{FLAGS.epsilon:g} pixels of 255, accuracies in percent: {report_path}"
    )


def _watchers(trainer, info, path, validation, progress, start, record):
    progress.initial_step = start % progress.steps_per_epoch
    pictures = None
    if FLAGS.picture_grid:
        images, labels = next(iter(validation.unbatch().batch(FLAGS.picture_grid)))
        pictures = callbacks.PictureGrid(
            images, labels, trainer.validation_attack, class_names=info.class_names
        )
    return [
        progress,
        callbacks.StopOnNaN(progress.steps_per_epoch, progress.initial_step),
        callbacks.TensorBoard(path / "logs", batch_size=FLAGS.batch_size, pictures=pictures),
        CatastrophicOverfitting(FLAGS.on_overfitting, history=record["history"]),
    ]


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
        **options,
    )


def _image_size(info):
    size = FLAGS.image_size or info.image_size
    if size is None:
        raise ValueError(
            f"the images of {info.name} differ in size; give the side they are cut to, such as "
            "--image_size=224"
        )
    return size


def _check_batch(num_replicas):
    pieces = num_replicas * FLAGS.gradient_accumulation
    if pieces < 1 or FLAGS.batch_size % pieces:
        raise ValueError(
            f"a batch of {FLAGS.batch_size} cannot be cut into {num_replicas} replicas times "
            f"{FLAGS.gradient_accumulation} accumulated pieces; make --batch_size a multiple of "
            f"{max(pieces, 1)}"
        )


def _settings():
    themes = FLAGS.flags_by_module_dict().items()
    ours = [flag for module, theme in themes if module.startswith("flags.") for flag in theme]
    return [
        _line(flag) for flag in sorted(ours, key=lambda flag: flag.name) if flag.value is not None
    ]


def _line(flag):
    if flag.boolean:  # "--nooverwrite" would hide the flag's name
        return f"--{flag.name}={str(flag.value).lower()}\n"
    text = flag.serialize()
    return f"{text}\n" if text else ""


def _headline(trainer, info, path):
    devices = trainer.distribute_strategy.extended.worker_devices
    return (
        f"{trainer.network.name} ({trainer.network.count_params():,} weights, {FLAGS.activation}) "
        f"on {info.num_examples['train']:,} images of {info.name}, {FLAGS.norm} epsilon "
        f"{FLAGS.epsilon:g} pixels of 255, {len(devices)} x "
        f"{tf.DeviceSpec.from_string(devices[0]).device_type}, workdir {path}"
    )


def _metrics(trainer, info, record):
    return {
        "schema": 1,
        "unit": "pixels (0-255)",
        "model": FLAGS.model,
        "activation": FLAGS.activation,
        "num_parameters": trainer.network.count_params(),
        "dataset": FLAGS.dataset,
        "num_examples": dict(info.num_examples),
        "num_classes": info.num_classes,
        "class_names": list(info.class_names),
        "image_size": _image_size(info),
        "eval_resize": FLAGS.eval_resize or ("whole" if info.image_size else "center_crop"),
        "norm": FLAGS.norm,
        "epsilon": FLAGS.epsilon,
        "seed": FLAGS.seed,
        **workdir.provenance(),
        "best": record["best"],
        "history": record["history"],
    }


if __name__ == "__main__":
    main.run(train)
