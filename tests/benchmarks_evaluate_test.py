"""The evaluation benchmark: whoever computes the attack, the verdicts are the attack's."""

import types

import keras
import numpy as np
import pytest

from benchmarks import contenders, evaluate, pytorch_attack
from sat_tf import models

EPSILON = 4.0


def given(**changes):
    return types.SimpleNamespace(**{"steps": 12, "batch_size": 16, "threads": 1, **changes})


@pytest.fixture(scope="module")
def linear():
    """A linear network with two classes, and which of 50 images no perturbation can break."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(12, 1)) / 12
    images = random.uniform(50, 200, (50, 2, 2, 3)).astype(np.float32)
    bias = -np.median(images.reshape(50, 12) @ weights)
    network = keras.Sequential(
        [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    network.layers[-1].set_weights(
        [np.hstack([-weights, weights]).astype("f"), np.array([-bias, bias], "f")]
    )
    side = (images.reshape(50, 12).astype(float) @ weights + bias)[:, 0]
    labels = (side > 0).astype(np.int32)
    labels[:5] = 1 - labels[:5]  # misclassified when clean
    right = (side > 0) == (labels == 1)
    # The pixels are far from 0 and 255, so the ball is all that holds an attack.
    return network, images, labels, right & (np.abs(side) > EPSILON * np.abs(weights).sum())


@pytest.mark.parametrize("name", ["packed", "plain", "foolbox", "ART"])
def test_what_stands_is_what_no_perturbation_of_a_linear_network_breaks(linear, name):
    network, images, labels, standing = linear
    assert 10 < standing.sum() < 40
    run = evaluate.MAKERS[name](contenders.Problem(network, images, labels, EPSILON, given()))
    if run is None:
        pytest.skip(f"{name} is not installed")
    np.testing.assert_array_equal(run(), standing)


def test_pytorch_judges_the_same_weights(linear):
    pytest.importorskip("torch")
    network = models.build("resnet18", activation="swish", num_classes=3, image_size=8, width=4)
    images = np.random.default_rng(1).uniform(0, 255, (20, 8, 8, 3)).astype(np.float32)
    labels = np.arange(20, dtype=np.int32) % 3
    problem = contenders.Problem(network, images, labels, 1e-6, given(steps=1))
    right = np.asarray(network(images)).argmax(1) == labels
    np.testing.assert_array_equal(pytorch_attack.pytorch(problem)(), right)


def test_times_are_over_those_of_packed_and_other_verdicts_of_plain_are_refused():
    some, other = np.array([True, False]), np.array([True, True])
    table = evaluate.report({"packed": lambda: some, "plain": lambda: some, "ART": lambda: other})
    rows = [line.split() for line in table.splitlines()]
    assert [row[3] for row in rows if row[0] == "packed"] == ["1.00"]
    assert [row[4] for row in rows if row[0] in ("packed", "ART")] == ["50.0", "100.0"]
    with pytest.raises(ValueError, match="packed and plain evaluation give different verdicts"):
        evaluate.report({"packed": lambda: some, "plain": lambda: other})
