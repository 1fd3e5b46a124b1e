"""What the benchmarks of training time: steps with and without an attack, and `fit`."""

import pathlib
import time
import types

import keras
import numpy as np
import tensorflow as tf

from benchmarks import machine, problems, timing
from sat_tf import attacks, data, models
from sat_tf.training import AdversarialTrainer
from sat_tf.training.objectives import cross_entropy

EPSILON = 8.0


def contender(name: str, folder: str, given: types.SimpleNamespace) -> dict[str, timing.Case]:
    """Makes our steps, a case each, and leaves network and batch in the folder for the others.

    The case "memory" is none to be timed: its result are the peaks of three steps in MiB, by name.

    Args:
      name: of the contender, the only one here.
      folder: where "network.npz" and "batch.npz" go.
      given: the flags of `train_step`.
    """
    del name
    tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(given.precision)
    tf.config.experimental.enable_tensor_float_32_execution(given.tf32)
    stream = data.load(
        given.dataset,
        "train",
        batch_size=given.batch_size,
        image_size=given.image_size,
        data_dir=given.data_dir,
        training=True,
    )
    batch = next(iter(stream))
    images, labels = (part.numpy() for part in batch)
    np.savez(pathlib.Path(folder, "batch.npz"), images=images, labels=labels)
    smooth, relu = (_network(given, activation) for activation in (given.activation, "relu"))
    problems.save_weights(smooth, folder)
    jit, more = given.jit, f"pgd{given.attack_steps}"
    trainer = make_trainer(smooth, 1, jit)
    steps = {
        "clean": bare_step(make_trainer(smooth, 0, jit), batch),
        "pgd1": bare_step(trainer, batch),
        more: bare_step(make_trainer(smooth, given.attack_steps, jit), batch),
        "10 gradients": bare_gradients(smooth, batch, jit),
        "convolutions": bare_convolutions(smooth, given.batch_size),
        "relu clean": bare_step(make_trainer(relu, 0, jit), batch),
        "relu pgd1": bare_step(make_trainer(relu, 1, jit), batch),
    }

    def memory():
        for one in ("clean", "pgd1", more):
            steps[one]()
        return {one: machine.peak_memory(steps[one]) for one in ("clean", "pgd1", more)}

    return {
        "memory": timing.of_call(memory),
        **{one: timing.of_step(step) for one, step in steps.items()},
        "fit": fit_case(trainer, stream, given.fit_steps),
    }


def _network(given, activation):
    info = data.describe(given.dataset, given.data_dir)
    name, options = models.parse(given.model)
    return models.build(
        name,
        activation=activation,
        num_classes=info.num_classes,
        image_size=given.image_size,
        num_channels=info.num_channels,
        **options,
    )


def make_trainer(network: keras.Model, steps: int, jit: bool = False) -> AdversarialTrainer:
    """Makes a trainer with PGD of that many steps; none for 0. `jit` compiles them with XLA."""
    attack = attacks.identity
    if steps:
        step_size = EPSILON if steps == 1 else EPSILON / 4
        attack = attacks.PGD(epsilon=EPSILON, step_size=step_size, steps=steps)
    trainer = AdversarialTrainer(network, attack)
    # A small rate: weights that explode would be timed with infinities in them.
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True)
    trainer.compile(optimizer, weight_decay=5e-4, jit_compile=jit)
    return trainer


def bare_step(trainer: AdversarialTrainer, batch):
    """Returns a function that does one step of the trainer on one batch, without `fit`."""
    function = tf.function(trainer.train_step, autograph=False, jit_compile=trainer.jit_compile)
    return lambda: function(batch)["loss"].numpy()


def bare_gradients(network: keras.Model, batch, jit: bool = False, repeats: int = 10):
    """Returns a function of that many forward passes and input gradients, in inference mode.

    They are one call, so that calling costs them no more than it costs the steps of an attack.
    """
    images, labels = batch

    def gradient(iterate):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(iterate)
            loss = tf.reduce_sum(cross_entropy(network(iterate, training=False), labels))
        return tape.gradient(loss, iterate)

    @tf.function(autograph=False, jit_compile=jit)
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


def bare_convolutions(network: keras.Model, batch_size: int):
    """Returns a function of the convolutions that a PGD-1 step asks for, and of nothing else.

    For each convolution that is twice the forward pass, twice the gradient with respect to its
    input (once for those that see the images, which are no weights) and once that with respect to
    its kernel; each on numbers of its own, in the type that the layer computes in.
    """
    layers = [one for one in network._flatten_layers() if type(one) is keras.layers.Conv2D]
    made = []
    for layer in layers:
        given = tf.random.stateless_normal((batch_size, *layer.input.shape[1:]), (0, 1))
        upward = tf.random.stateless_normal((batch_size, *layer.output.shape[1:]), (0, 2))
        of_images = layer.input.shape[1:] == network.input_shape[1:]
        parts = (tf.cast(one, layer.compute_dtype) for one in (given, upward, layer.kernel))
        made.append((layer, of_images, *parts))

    @tf.function(autograph=False)
    def once():
        found = []
        for layer, of_images, given, upward, kernel in made:
            ends = dict(strides=(1, *layer.strides, 1), padding=layer.padding.upper())
            for number in range(2):
                # Other numbers each time: equal operations on equal numbers are done once.
                found.append(tf.raw_ops.Conv2D(input=given + number, filter=kernel, **ends))
                if number == 0 or not of_images:
                    found.append(
                        tf.raw_ops.Conv2DBackpropInput(
                            input_sizes=given.shape,
                            filter=kernel,
                            out_backprop=upward + number,
                            **ends,
                        )
                    )
            found.append(
                tf.raw_ops.Conv2DBackpropFilter(
                    input=given, filter_sizes=kernel.shape, out_backprop=upward, **ends
                )
            )
        return [tf.reshape(one, [-1])[0] for one in found]

    return lambda: once()[0].numpy()


class Clock(keras.callbacks.Callback):
    """Takes the seconds a step from the end of the first step to the end of the last."""

    def on_train_begin(self, logs=None):
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append((time.perf_counter(), time.process_time()))

    def on_epoch_end(self, epoch, logs=None):
        # Keras has waited for the device here, which it does not do after each step.
        self.ends[-1] = time.perf_counter(), time.process_time()

    def seconds(self) -> timing.Seconds:
        taken = np.subtract(self.ends[-1], self.ends[0]) / (len(self.ends) - 1)
        return timing.Seconds(*map(float, taken))


def fit_case(trainer: AdversarialTrainer, stream: tf.data.Dataset, steps: int) -> timing.Case:
    """Makes a case of `fit` with the real input pipeline."""

    def seconds() -> timing.Seconds:
        clock = Clock()
        trainer.fit(stream, steps_per_epoch=steps + 1, verbose=0, shuffle=False, callbacks=[clock])
        return clock.seconds()

    return seconds
