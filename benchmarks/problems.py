"""What contenders share, in a folder: the network, the images and the flags of an attack.

`network.keras` is for TensorFlow, `network.npz` (see `pytorch_network`) for PyTorch, `images.npz`
for both: images float32 [N, H, W, C] in pixels, labels int32 [N], epsilon in pixels.
"""

import pathlib
import types
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sat_tf import data, loading, models
from sat_tf.attacks import losses
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.evaluation.stream import Stream
from sat_tf.injection import hidden_activations


class Problem(NamedTuple):
    """A network, images and the radius in pixels."""

    network: keras.Model
    images: np.ndarray
    labels: np.ndarray
    epsilon: float

    @property
    def step_size(self) -> float:
        """Returns that of PGD, in pixels."""
        return self.epsilon / 4

    def batches(self, size: int) -> Iterator[slice]:
        """Yields which images are a batch; the last one may be shorter."""
        for start in range(0, len(self.labels), size):
            yield slice(start, start + size)


def digits(num_images: int) -> Problem:
    """Trains a small network on digits and chooses the epsilon at which about 40 % stand."""
    train, test = (data.load("digits", split, batch_size=128) for split in ("train", "test"))
    network = models.build(
        "resnet8", activation="swish", num_classes=10, image_size=8, num_channels=1
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    network.fit(train, epochs=12, verbose=0, shuffle=False)
    images, labels = next(iter(Stream(test, num_images, num_images)))[1:3]
    low, high = 0.0, 128.0
    for _ in range(7):
        epsilon = (low + high) / 2
        attack = RestartedPGD(epsilon=epsilon, step_size=epsilon / 4, steps=20)
        adversarial = attack(network, images, labels, tf.constant([0, 0]))
        standing = ~losses.misclassified(network(adversarial), labels).numpy()
        low, high = (epsilon, high) if standing.mean() > 0.4 else (low, epsilon)
    return Problem(network, images, labels, epsilon)


def of_run(given: types.SimpleNamespace) -> Problem:
    """Takes the network of a run and the first test images."""
    network = loading.load(given.workdir)
    test = data.load(
        given.dataset,
        "test",
        batch_size=given.batch_size,
        image_size=network.input_shape[1],
        data_dir=given.data_dir,
    )
    _, images, labels, _ = next(iter(Stream(test, given.num_images, given.num_images)))
    return Problem(network, images, labels, given.epsilon)


def save(problem: Problem, folder: str) -> None:
    """Writes the problem for every contender."""
    problem.network.save(pathlib.Path(folder, "network.keras"))
    save_weights(problem.network, folder)
    np.savez(
        pathlib.Path(folder, "images.npz"),
        images=problem.images,
        labels=problem.labels,
        epsilon=problem.epsilon,
    )


def load(folder: str) -> Problem:
    """Reads what `save` wrote."""
    network = loading.load(str(pathlib.Path(folder, "network.keras")))
    with np.load(pathlib.Path(folder, "images.npz")) as file:
        return Problem(network, file["images"], file["labels"], float(file["epsilon"]))


def save_weights(network: keras.Model, folder: str) -> None:
    """Writes a network's weights, its activation, and its answers by which a copy is checked."""
    kinds = set(hidden_activations(network).values())
    probe = np.random.default_rng(0).uniform(0, 255, (4, *network.input_shape[1:]))
    probe = probe.astype(np.float32)
    np.savez(
        pathlib.Path(folder, "network.npz"),
        **{f"{layer.name}/{v.name}": v.numpy() for layer in network.layers for v in layer.weights},
        activation=" and ".join(sorted(kinds)),
        probe=probe,
        logits=network(probe, training=False),
    )
