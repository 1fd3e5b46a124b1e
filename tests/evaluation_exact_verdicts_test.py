"""Verdicts of whole evaluations against exact distances, image by image.

On a linear network the distance to another class is a closed form, on a hidden layer of ReLU it
is the least over the regions in which the network is linear: a linear program for L-inf and L1, a
quadratic one for L2. (Leaky: a dead unit has no gradient, and no attack need find what is behind.)
"""

import itertools

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from sat_tf.attacks import PGD
from sat_tf.attacks.apgd import APGD
from sat_tf.attacks.fab import FAB
from sat_tf.evaluate import Options, evaluate
from tests import linear_network

# Attacks come within a few percent of the boundary; nothing may be broken from beyond it.
NEAR, BEYOND = 0.95, 1.0005
LEAK = 0.25


def draw(shape, count, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, *shape)).astype(np.float32)


def network_of(first, bias, second=None):
    """Makes `x W + b`, or `leaky(x W + b) V`, of float64 weights, as the evaluation takes it."""

    def network(images, training=False):
        del training
        flat = tf.reshape(images, [-1, len(first)])
        out = flat @ tf.constant(first, tf.float32) + tf.constant(bias, tf.float32)
        return (
            out if second is None else tf.nn.leaky_relu(out, LEAK) @ tf.constant(second, tf.float32)
        )

    return network


def logits_of(images, first, bias, second=None):
    out = images.reshape(len(images), -1).astype(np.float64) @ first + bias
    return out if second is None else np.maximum(out, LEAK * out) @ second


def attacks_of(norm, epsilon, num_classes):
    if norm == "l1":
        return [APGD(epsilon=epsilon, norm=norm, iterations=60, restarts=2)]
    pgd = PGD(epsilon=epsilon, step_size=epsilon / 8, steps=40, norm=norm)
    if norm == "l2":
        return [pgd, APGD(epsilon=epsilon, norm=norm, iterations=30, restarts=2)]
    return [pgd, FAB(epsilon=epsilon, norm=norm, iterations=15, num_targets=num_classes - 1)]


def assert_exact(network, images, labels, distances, norm, *, near=NEAR, missed=0, **options):
    epsilon = float(np.median(distances))
    num_classes = int(network(images[:1]).shape[1])
    report = evaluate(
        network,
        (images, labels),
        attacks_of(norm, epsilon, num_classes),
        Options(restarts=2, **options),
    )
    assert report.clean.all()
    for outcome in report.outcomes:
        fallen = ~outcome.standing
        assert not fallen[distances > epsilon * BEYOND].any(), outcome.name
        if outcome.last_iterate is not None:
            assert outcome.last_iterate[distances > epsilon * BEYOND].all()
    assert report.standing[distances < epsilon * near].sum() <= missed
    assert 0 < report.standing.mean() < 1


@pytest.mark.parametrize(
    "shape, num_classes, norm, batch_size",
    [
        ((3, 5, 1), 2, "linf", 1),
        ((5, 3, 3), 10, "linf", 16),
        ((4, 2, 3), 10, "l2", 7),
        ((3, 5, 1), 3, "l1", 1),
        ((4, 3, 3), 10, "l1", 5),
    ],
)
def test_verdicts_on_a_linear_network_are_those_of_the_distances(
    shape, num_classes, norm, batch_size
):
    rng = np.random.default_rng(num_classes)
    weights = 0.01 * rng.normal(size=(int(np.prod(shape)), num_classes))
    bias = 0.1 * rng.normal(size=num_classes)
    count = 8 if batch_size == 1 else 16
    images = draw(shape, count)
    logits = logits_of(images, weights, bias)
    labels = logits.argmax(1).astype(np.int32)
    distances = np.array(
        [
            min(
                linear_network.distance(
                    weights[:, other] - weights[:, label],
                    image.ravel().astype(np.float64),
                    z[label] - z[other],
                    norm,
                )
                for other in range(num_classes)
                if other != label
            )
            for image, label, z in zip(images, labels, logits, strict=True)
        ]
    )
    # An L1 step moves two coordinates at least, which costs a part of what the best one gives.
    near = 0.8 if norm == "l1" else NEAR
    network = network_of(weights, bias)
    assert_exact(network, images, labels, distances, norm, near=near, batch_size=batch_size)


def relu_distance(image, label, first, bias, second, norm):
    """Computes the distance to the nearest point of another class over all linear regions."""
    size, best = len(image), np.inf
    for pattern in itertools.product((LEAK, 1.0), repeat=len(bias)):
        on = np.array(pattern)
        # Inside the region: every unit on its side. In it, z = (x W + b) * on V.
        signs = np.where(on == 1.0, -1.0, 1.0)
        rows, limits = (signs * first).T, -signs * bias
        inner, offset = first * on @ second, bias * on @ second
        for other in range(second.shape[1]):
            if other != label:
                gap = inner[:, label] - inner[:, other]
                all_rows = np.vstack([rows, gap])
                all_limits = np.append(limits, offset[other] - offset[label])
                best = min(best, _nearest(image, all_rows, all_limits, size, norm))
    return best


def _nearest(image, rows, limits, size, norm):
    if norm == "l2":
        return _nearest_l2(image, rows, limits)
    # Variables x and t (one for L-inf, one a pixel for L1), |x - image| <= t.
    eye = np.eye(size)
    bound = -np.ones((size, 1)) if norm == "linf" else -eye
    padded = np.hstack([rows, np.zeros((len(rows), bound.shape[1]))])
    found = scipy.optimize.linprog(
        np.r_[np.zeros(size), np.ones(bound.shape[1])],
        A_ub=np.vstack([padded, np.hstack([eye, bound]), np.hstack([-eye, bound])]),
        b_ub=np.r_[limits, image, -image],
        bounds=[(0, 255)] * size + [(0, None)] * bound.shape[1],
    )
    return found.fun if found.success else np.inf


def _nearest_l2(image, rows, limits):
    # min |d| with G d >= h is a problem of non-negative least squares (Lawson and Hanson, ch. 23).
    eye = np.eye(len(image))
    lower = np.vstack([-rows, eye, -eye])
    need = np.r_[rows @ image - limits, -image, image - 255]
    weights, _ = scipy.optimize.nnls(
        np.vstack([lower.T, need]), np.r_[np.zeros(len(image)), 1.0], maxiter=1000
    )
    residual = np.r_[lower.T @ weights, need @ weights - 1]
    if np.linalg.norm(residual) < 1e-6:
        return np.inf  # nothing fulfils all of them
    return float(np.linalg.norm(residual[:-1] / residual[-1]))


@pytest.mark.parametrize(
    "shape, num_classes, norm",
    [((2, 3, 1), 3, "linf"), ((2, 3, 1), 3, "l2"), ((1, 2, 3), 3, "l1")],
)
def test_verdicts_on_a_network_of_two_layers_are_those_of_the_distances(shape, num_classes, norm):
    rng = np.random.default_rng(4)
    size, hidden = int(np.prod(shape)), 4
    first = 0.02 * rng.normal(size=(size, hidden))
    bias = -128 * first.sum(0) + 0.3 * rng.normal(size=hidden)  # kinks in the middle of the range
    second = rng.normal(size=(hidden, num_classes))
    images = draw(shape, 14, seed=2)
    labels = logits_of(images, first, bias, second).argmax(1).astype(np.int32)
    exact = [
        relu_distance(image.ravel().astype(np.float64), label, first, bias, second, norm)
        for image, label in zip(images, labels, strict=True)
    ]
    near = 0.8 if norm == "l1" else NEAR
    network = network_of(first, bias, second)
    # A local optimum may hide one image from gradients, never the other way round.
    options = {"near": near, "missed": 1, "batch_size": 14}
    assert_exact(network, images, labels, np.array(exact), norm, **options)


def test_a_radius_of_the_curve_that_is_the_evaluations_own_counts_all_of_its_attacks():
    weights = 0.01 * np.random.default_rng(2).normal(size=(24, 2))
    network, images = network_of(weights, np.zeros(2)), draw((4, 2, 3), 12)
    logits = logits_of(images, weights, np.zeros(2))
    gap = np.abs(logits[:, 0] - logits[:, 1])
    epsilon = float(np.median(gap) / np.abs(weights[:, 0] - weights[:, 1]).sum())
    # The first attack cannot move; whatever falls, falls to the second.
    attacks = [
        PGD(epsilon=epsilon, step_size=size, steps=steps, random_start=False)
        for size, steps in ((1e-6, 1), (2 * epsilon, 2))
    ]
    labels = logits.argmax(1).astype(np.int32)
    options = Options(curve={epsilon: attacks}, batch_size=12)
    report = evaluate(network, (images, labels), attacks, options)
    weak, strong = (outcome.standing for outcome in report.outcomes)
    assert weak.all() and not strong.all()
    np.testing.assert_array_equal(report.curve[0].standing, strong)
