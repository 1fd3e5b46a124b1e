"""What the benchmarks of training time: steps with and without an attack, and `fit`."""

import importlib.util
import os
import time

import keras
import tensorflow as tf

from benchmarks import pytorch_loop, timing
from sat_tf import attacks, models
from sat_tf.training import AdversarialTrainer
from sat_tf.training.objectives import cross_entropy

EPSILON = 8.0


def make_trainer(network: keras.Model, steps: int) -> AdversarialTrainer:
    """Makes a trainer with PGD of that many steps; none for 0."""
    attack = attacks.identity
    if steps:
        step_size = EPSILON if steps == 1 else EPSILON / 4
        attack = attacks.PGD(epsilon=EPSILON, step_size=step_size, steps=steps)
    trainer = AdversarialTrainer(network, attack)
    # A small rate: weights that explode would be timed with infinities in them.
    trainer.compile(keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True), weight_decay=5e-4)
    return trainer


def bare_step(trainer: AdversarialTrainer, batch):
    """Returns a function that does one step of the trainer on one batch, without `fit`."""
    function = tf.function(trainer.train_step, autograph=False)
    return lambda: function(batch)["loss"].numpy()


def bare_gradients(network: keras.Model, batch, repeats: int = 10):
    """Returns a function of that many forward passes and input gradients, in inference mode.

    They are one call, so that calling costs them no more than it costs the steps of an attack.
    """
    images, labels = batch

    def gradient(iterate):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(iterate)
            loss = tf.reduce_sum(cross_entropy(network(iterate, training=False), labels))
        return tape.gradient(loss, iterate)

    @tf.function(autograph=False)
    def loop():
        # Each pass needs the one before it; otherwise TensorFlow would do a single one.
        return tf.while_loop(
            lambda _: True,
            lambda iterate: (iterate + 1e-9 * gradient(iterate),),
            (images,),
            parallel_iterations=1,
            maximum_iterations=repeats,
        )

    return lambda: loop()[0].numpy()


class Clock(keras.callbacks.Callback):
    """Takes the seconds a step from the end of the first step to the end of the last."""

    def on_train_begin(self, logs=None):
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())

    def on_epoch_end(self, epoch, logs=None):
        # Keras has waited for the device here, which it does not do after each step.
        self.ends[-1] = time.perf_counter()

    def seconds(self) -> float:
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def fit_case(trainer: AdversarialTrainer, stream: tf.data.Dataset, steps: int) -> timing.Case:
    """Makes a case of `fit` with the real input pipeline."""

    def seconds() -> float:
        clock = Clock()
        trainer.fit(stream, steps_per_epoch=steps + 1, verbose=0, shuffle=False, callbacks=[clock])
        return clock.seconds()

    return seconds


def pytorch_case(given, network: keras.Model, batch, num_classes: int) -> timing.Case | None:
    """Makes a case of the hand-written PyTorch loop; None where it cannot be compared."""
    name, options = models.parse(given.model)
    comparable = (
        name == "resnet18"
        and set(options) <= {"width"}
        and given.activation in ("swish", "relu")
        and given.precision == "float32"
    )
    if not given.pytorch or not comparable or importlib.util.find_spec("torch") is None:
        return None
    step = pytorch_loop.pgd1_step(
        *(part.numpy() for part in batch),
        width=options.get("width", 64),
        activation=given.activation,
        num_classes=num_classes,
        num_parameters=models.num_parameters(network),
        epsilon=EPSILON,
        threads=given.threads or len(os.sched_getaffinity(0)),
    )
    return timing.of_step(step)
