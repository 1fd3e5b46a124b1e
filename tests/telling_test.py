"""No test compares nothing: the networks of all tests tell apart what is put into them."""

import keras
import numpy as np
import pytest

from tests import (
    attacks_losses_test,
    attacks_pgd_test,
    evaluate_test,
    evaluation_resume_test,
    linear_network,
    loading_test,
    models_test,
    training_awp_test,
    training_free_test,
    training_gradient_quality_test,
    training_methods_test,
    training_trainer_test,
    watched,
)
from tests.telling import telling

# Those of evaluation_packed_test, evaluation_saved_images_test, export_test and the laws of
# models_test ask where they are made. Every image here has one colour, for which some linear
# networks have one answer.
ONE_WINNER = ("free", "losses, sure", "pgd, linear")
NETWORKS = {
    "awp": training_awp_test.deep_network,
    "callbacks": lambda: watched.Trainer().network,
    "evaluate": evaluate_test.small_network,
    "free": lambda: training_free_test.trainer().network,
    "gradient quality": training_gradient_quality_test.network,
    "losses": lambda: attacks_losses_test.network("float32"),
    "losses, sure": lambda: attacks_losses_test.network("float32", 30.0),
    "methods": training_methods_test.network,
    "networks": loading_test.network_of,
    "pgd, linear": lambda: attacks_pgd_test.linear()[0],
    "pgd, convolutional": attacks_pgd_test.convolutional,
    "resume": evaluation_resume_test.network_of,
    "trainer": training_trainer_test.network,
    "trainer, norms": lambda: training_trainer_test.network(batch_norm=True, dropout=True),
    "trainer, adapted": training_trainer_test.adapted_network,
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
