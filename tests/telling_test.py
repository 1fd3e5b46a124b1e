"""No test compares nothing: the networks of all tests tell apart what is put into them."""

import keras
import numpy as np
import pytest

from tests import (
    awp_test,
    callbacks_test,
    evaluate_test,
    free_test,
    gradient_quality_test,
    linear_network,
    losses_test,
    methods_test,
    models_test,
    networks_test,
    pgd_test,
    resume_test,
    trainer_test,
)
from tests.telling import telling

# Those of packed_test, saved_images_test, export_test and the laws of models_test ask where they
# are made. Every image here has one colour, for which some linear networks have one answer.
ONE_WINNER = ("free", "losses, sure", "pgd, linear")
NETWORKS = {
    "awp": awp_test.deep_network,
    "callbacks": lambda: callbacks_test.Trainer().network,
    "evaluate": evaluate_test.small_network,
    "free": lambda: free_test.trainer().network,
    "gradient quality": gradient_quality_test.network,
    "losses": lambda: losses_test.network("float32"),
    "losses, sure": lambda: losses_test.network("float32", 30.0),
    "methods": methods_test.network,
    "networks": networks_test.network_of,
    "pgd, linear": lambda: pgd_test.linear()[0],
    "pgd, convolutional": pgd_test.convolutional,
    "resume": resume_test.network_of,
    "trainer": trainer_test.network,
    "trainer, norms": lambda: trainer_test.network(batch_norm=True, dropout=True),
    "trainer, adapted": trainer_test.adapted_network,
    "resnet8": lambda: models_test.build("resnet8"),
    "wrn-10-1": lambda: models_test.build("wrn-10-1"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_of_a_test_tells_apart(name):
    telling(NETWORKS[name](), winners=1 if name in ONE_WINNER else 2)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_the_linear_network_of_the_attacks_tells_apart(num_classes):
    telling(linear_network.LinearNetwork(num_classes), linear_network.SHAPE, winners=1)


def network(make=lambda x: x, weights=True):
    rng = np.random.default_rng(0)
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(make(keras.layers.Rescaling(1 / 64, -2)(inputs)))
    dense = keras.layers.Dense(3)
    made = keras.Model(inputs, dense(x))
    dense.kernel.assign(rng.normal(size=dense.kernel.shape) * weights)
    return made


def with_constant_class():
    made = network()
    kernel = made.layers[-1].kernel
    kernel.assign(kernel * np.array([1.0, 1.0, 0.0]))
    return made


def with_one_winner():
    made = network()
    made.layers[-1].bias.assign([1000.0, 0.0, 0.0])
    return made


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: network(weights=False), "same logit for all images"),
        (with_constant_class, "same logit for all images"),
        (with_one_winner, "all images are of one class"),
        (lambda: network(lambda x: keras.ops.mean(x, -1, keepdims=True)), "channels reversed"),
        (lambda: network(lambda x: keras.ops.sign(x + 2 - 100 / 64)), "no gradient"),
        (
            lambda: network(lambda x: x + keras.layers.BatchNormalization(
                gamma_initializer="zeros")(keras.layers.Conv2D(3, 1)(x))),
            "weights that change no answer: .*conv2d",
        ),
    ],
)  # fmt: skip
def test_a_blind_network_is_seen(make, said):
    telling(network())
    with pytest.raises(AssertionError, match=said):
        telling(make())
