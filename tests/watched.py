"""A trainer that callbacks can watch, and a clock that stands still."""

import keras
import numpy as np
import tensorflow as tf

STEPS, BATCH = 4, 8


class Clock:
    """A clock that goes only when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@keras.saving.register_keras_serializable(package="watched")
class Scale(keras.layers.Layer):
    """A trained activation x -> w x."""

    __module__ = "somewhere.activations"

    def build(self, shape):
        self.factor = self.add_weight(shape=(1,), initializer="ones", name="factor")

    def call(self, x):
        return self.factor * x


class Trainer(keras.Model):
    """What the callbacks need of a trainer, and nothing else."""

    def __init__(self, activation=None):
        super().__init__()
        pixels = keras.Input([8, 8, 1])
        x = keras.layers.Flatten()(pixels)
        x = keras.layers.Dense(3, name="first")(x)
        x = (activation or keras.layers.Activation("swish", name="act"))(x)
        x = keras.layers.Dense(10)(x)
        self.network = keras.Model(pixels, keras.layers.Activation("linear")(x))

    def call(self, images, training=None):
        return self.network(images / 255, training=training)


def lower(network, images, labels, seed=None):
    """An attack that darkens the left half by 3 pixels."""
    step = np.zeros(images.shape[1:], np.float32)
    step[:, : images.shape[2] // 2] = 3
    return tf.maximum(images - step, 0.0)


def dataset():
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, [BATCH * STEPS, 8, 8, 1]).astype(np.float32)
    labels = random.integers(0, 10, BATCH * STEPS).astype(np.int32)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)


def compiled(activation=None, learning_rate=0.1):
    trainer = Trainer(activation)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(keras.optimizers.SGD(learning_rate), loss)
    return trainer


def fit(trainer, callbacks, epochs=2, initial_epoch=0, data=None):
    data = dataset() if data is None else data
    options = dict(initial_epoch=initial_epoch, shuffle=False, verbose=0)
    return trainer.fit(
        data.repeat(),
        steps_per_epoch=STEPS,
        epochs=epochs,
        validation_data=data,
        callbacks=callbacks,
        **options,
    )
