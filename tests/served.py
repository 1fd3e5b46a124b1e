"""A small network to be served, and pictures for it."""

import io

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from sat_tf import activations
from tests.telling import telling

HEIGHT, WIDTH = 12, 10
NAMES = ["cat", "dog", "großer Hund"]
ACTIVATIONS = ("swish", "smoothrelu", "relu:backward=parametric_softplus")


def make_network(channels=3, num_classes=3, dtype="float32"):
    inputs = keras.Input((HEIGHT, WIDTH, channels))
    x = keras.layers.Rescaling(1 / 64, offset=-2, dtype=dtype)(inputs)
    for spec in ACTIVATIONS:
        x = keras.layers.Conv2D(6, 3, padding="same", dtype=dtype)(x)
        x = keras.layers.BatchNormalization(dtype=dtype)(x)
        x = activations.make(spec)(x)
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    network = keras.Model(inputs, keras.layers.Dense(num_classes, dtype="float32")(x))
    rng = np.random.default_rng(1)
    for weight in network.weights:  # moving statistics that a mistaken training mode would show
        if weight.name == "moving_variance":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        if weight.name == "moving_mean":
            weight.assign(rng.uniform(-0.5, 0.5, weight.shape))
    head = network.layers[-1]  # so that no class wins everywhere
    head.kernel.assign(rng.normal(0, 0.2, head.kernel.shape))
    head.bias.assign(-logits_of(network, random_pixels(8, channels)).mean(axis=0))
    return telling(network)


def random_pixels(num_images, channels=3):
    rng = np.random.default_rng(2)
    return rng.integers(0, 256, (num_images, HEIGHT, WIDTH, channels), np.uint8)


def logits_of(network, pixels):
    return network(tf.constant(pixels, tf.float32), training=False).numpy()


def encode(pixels, kind="png"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def ending(units, end=None, activation=None):
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Dense(units, activation=activation, dtype="float32", name="head")(x)
    return keras.Model(inputs, x if end is None else end(x))
