"""Trains a robust network: `python -m sat_tf.train --activation=swish`."""

import math
import sys

import keras
import tensorflow as tf
from absl import flags

from flags import attack, data, model, run, training  # noqa: F401
from sat_tf import attacks, checkpoints, distribution, main, models, schedules, specs, workdir
from sat_tf import data as datasets
from sat_tf.callbacks import checkpoint
from sat_tf.objectives import adversarial_cross_entropy
from sat_tf.trainer import AdversarialTrainer

FLAGS = flags.FLAGS
for _theme in (attack, data, model, run, training):
    flags.adopt_module_key_flags(_theme)


def train() -> None:
    """Reads the flags, builds the parts, fits them and tests the result."""
    settings = _settings()
    set_up_process()
    info = datasets.describe(FLAGS.dataset, FLAGS.data_dir)
    strategy = distribution.strategy(FLAGS.strategy)
    _check_batch(strategy.num_replicas_in_sync)
    steps_per_epoch = info.steps_per_epoch(FLAGS.batch_size)
    with strategy.scope():
        trainer = AdversarialTrainer(
            build_network(info),
            training_attack(),
            validation_attack=validation_attack(),
            objective=adversarial_cross_entropy(FLAGS.label_smoothing),
            seed=FLAGS.seed,
        )
        trainer.compile(
            optimizer(steps_per_epoch),
            weight_decay=FLAGS.weight_decay,
            ema_decay=FLAGS.ema_decay,
            gradient_accumulation=FLAGS.gradient_accumulation,
            jit_compile=FLAGS.jit_compile,
        )
    with workdir.claim(FLAGS.workdir, settings, FLAGS.overwrite) as path:
        fit(trainer, info, path)


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


def build_network(info: datasets.Info) -> keras.Model:
    """Builds the network that the flags name, for the classes and images of the data."""
    name, options = specs.parse(FLAGS.model)
    return models.build(
        name,
        activation=FLAGS.activation,
        num_classes=info.num_classes,
        image_size=FLAGS.image_size or info.image_size,
        num_channels=info.num_channels,
        **options,
    )


def training_attack() -> attacks.Attack:
    """Makes the attack inside training."""
    if FLAGS.attack == "none":
        return attacks.identity
    if FLAGS.attack != "pgd":
        raise ValueError(f"attack {FLAGS.attack!r} is unknown; use one of: pgd, none")
    if 0 < FLAGS.epsilon < 1:
        print(
            f"warning: epsilon is {FLAGS.epsilon} pixels of 255, which no eye and hardly a "
            f"network notices; if {FLAGS.epsilon * 255:.3g} pixels are meant, write "
            f"--epsilon={FLAGS.epsilon * 255:.3g}",
            file=sys.stderr,
        )
    step_size = FLAGS.step_size
    if step_size is None:
        step_size = FLAGS.epsilon * (1 if FLAGS.attack_steps == 1 else 2.5 / FLAGS.attack_steps)
    return attacks.PGD(
        epsilon=FLAGS.epsilon,
        step_size=step_size,
        steps=FLAGS.attack_steps,
        random_start=FLAGS.random_start,
        norm=FLAGS.norm,
        batch_norm=FLAGS.attack_batch_norm,
    )


def validation_attack() -> attacks.Attack:
    """Makes the attack that chooses the best epoch: a quarter of epsilon a step."""
    return attacks.PGD(
        epsilon=FLAGS.epsilon,
        step_size=FLAGS.epsilon / 4,
        steps=FLAGS.validation_steps,
        norm=FLAGS.norm,
    )


def optimizer(steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Makes momentum SGD with the schedule of the flags."""
    schedule = schedules.Schedule(
        FLAGS.schedule,
        peak=FLAGS.learning_rate,
        num_steps=FLAGS.epochs * steps_per_epoch,
        warmup_steps=math.ceil(FLAGS.warmup_epochs * steps_per_epoch),
        boundaries=tuple(round(float(b) * steps_per_epoch) for b in FLAGS.boundaries),
        factor=FLAGS.factor,
    )
    return keras.optimizers.SGD(schedule, momentum=FLAGS.momentum, nesterov=FLAGS.nesterov)


def fit(trainer: AdversarialTrainer, info: datasets.Info, path) -> None:
    """Continues the run in a workdir to its end."""
    step, record = checkpoints.restore(path / "checkpoints", trainer.state) or (
        0,
        {"history": [], "best": None},
    )
    steps_per_epoch = info.steps_per_epoch(FLAGS.batch_size)
    keeper = checkpoint.Checkpoint(
        path,
        record,
        every=FLAGS.checkpoint_every,
        on_save=lambda record: workdir.write_metrics(path, _metrics(trainer, info, record)),
    )
    try:
        with keeper.handling_signals():
            for start, epochs in _segments(step, steps_per_epoch):
                trainer.fit(
                    _load("train", training=True, start_step=start),
                    initial_epoch=start // steps_per_epoch,
                    epochs=epochs,
                    steps_per_epoch=steps_per_epoch - start % steps_per_epoch,
                    validation_data=_load("validation"),
                    callbacks=[keeper],
                    shuffle=False,
                    verbose=2,
                )
    except checkpoint.Interrupted as stop:
        main.leave(stop, 128 + stop.signal_number)  # as shells do


def _segments(step, steps_per_epoch):
    """Splits the rest of the run into the rest of a begun epoch and the whole ones after it."""
    if step % steps_per_epoch:
        epoch = step // steps_per_epoch + 1
        yield step, epoch
        step = epoch * steps_per_epoch
    if step < FLAGS.epochs * steps_per_epoch:
        yield step, FLAGS.epochs


def _load(split, **options):
    return datasets.load(
        FLAGS.dataset,
        split,
        batch_size=FLAGS.batch_size,
        image_size=FLAGS.image_size,
        data_dir=FLAGS.data_dir,
        seed=FLAGS.seed,
        augment=FLAGS.augment if split == "train" else None,
        **options,
    )


def _check_batch(num_replicas):
    pieces = num_replicas * FLAGS.gradient_accumulation
    if FLAGS.gradient_accumulation < 1 or FLAGS.batch_size % pieces:
        raise ValueError(
            f"a batch of {FLAGS.batch_size} cannot be cut into {num_replicas} replicas times "
            f"{FLAGS.gradient_accumulation} accumulated pieces; make --batch_size a multiple of "
            f"{max(pieces, 1)}"
        )


def _settings():
    ours = {
        flag.name: flag.serialize()
        for module, theme in FLAGS.flags_by_module_dict().items()
        if module.startswith("flags.")
        for flag in theme
    }
    return dict(sorted(ours.items()))


def _metrics(trainer, info, record):
    return {
        "schema": 1,
        "unit": "pixels (0-255)",
        "model": FLAGS.model,
        "activation": FLAGS.activation,
        "dataset": FLAGS.dataset,
        "num_classes": info.num_classes,
        "class_names": list(info.class_names),
        "image_size": FLAGS.image_size or info.image_size,
        "norm": FLAGS.norm,
        "epsilon": FLAGS.epsilon,
        "seed": FLAGS.seed,
        "num_parameters": trainer.network.count_params(),
        **workdir.provenance(),
        "best": record["best"],
        "history": record["history"],
    }


if __name__ == "__main__":
    main.run(train)
