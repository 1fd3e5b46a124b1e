"""APGD equals its formulae and reaches what is reachable."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_tf.attacks import geometry, losses
from sat_tf.attacks.apgd import APGD, checkpoint_windows, schedule
from tests import linear_network

NORMS = geometry.NORMS
# Radii of about the same strength on the linear networks of these tests.
RADII = {"linf": 4.0, "l2": 15.0, "l1": 60.0}
SEED = tf.constant([3, 4])


def smooth_network(seed=0, hidden=7, num_classes=4):
    """Returns a small tanh network, and its loss and gradient for one image in float64."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(linear_network.DIMENSION, hidden)) / 100
    second = rng.normal(size=(hidden, num_classes))

    def network(images, training=False):
        flat = tf.reshape(images, [-1, linear_network.DIMENSION])
        return tf.tanh(flat @ tf.constant(first, tf.float32)) @ tf.constant(second, tf.float32)

    def evaluate(image, label, loss):
        inner = np.tanh(image @ first)
        z = inner @ second
        order = np.argsort(-z)
        if loss == "ce":
            exp = np.exp(z - z.max())
            value = np.log(exp.sum()) - (z - z.max())[label]
            slope = exp / exp.sum() - np.eye(num_classes)[label]
        else:
            other = order[0] if order[0] != label else order[1]
            spread = z[order[0]] - z[order[2]] + 1e-12
            value = -(z[label] - z[other]) / spread
            eye = np.eye(num_classes)
            slope = (eye[other] - eye[label] - value * (eye[order[0]] - eye[order[2]])) / spread
        return value, first @ ((1 - inner**2) * (second @ slope)), order[0] != label

    return network, evaluate


def oracle_run(evaluate, image, start, label, epsilon, norm, loss, iterations):
    """Runs APGD on one flat image, as the paper writes it; yields the points it evaluates."""

    def project(point):
        delta = point - image
        if norm == "linf":
            delta = np.clip(delta, -epsilon, epsilon)
        else:
            delta = delta * min(1.0, epsilon / max(np.linalg.norm(delta), 1e-12))
        return np.clip(image + delta, 0, 255)

    def direction(gradient):
        return np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient)

    checkpoints, fraction, step = [0, 0.22], 0.22, 0.22
    while fraction < 1:
        step = max(step - 0.03, 0.06)
        fraction += step
        checkpoints.append(fraction)
    checkpoints = [int(round(f * iterations)) for f in checkpoints]  # exact for n = 100
    value, gradient, _ = evaluate(start, label, loss)
    best_value, best, best_gradient = value, start, gradient
    # The first comparison is with 0: a known quirk of the reference implementation.
    values, size, last_best, was_halved = [0.0], 2 * epsilon, value, True
    point = before = start
    yield start
    for k in range(1, iterations + 1):
        ahead = project(point + size * direction(gradient))
        if k > 1:
            ahead = project(point + 0.75 * (ahead - point) + 0.25 * (point - before))
        before, point = point, ahead
        yield point
        value, gradient, _ = evaluate(point, label, loss)
        values.append(value)
        if value > best_value:
            best_value, best, best_gradient = value, point, gradient
        if k in checkpoints:
            window = k - checkpoints[checkpoints.index(k) - 1]
            rises = sum(values[j] > values[j - 1] for j in range(k - window + 1, k + 1))
            halve = rises <= 0.75 * window or (not was_halved and best_value == last_best)
            last_best, was_halved = best_value, halve
            if halve:
                size, point, gradient = size / 2, best, best_gradient


def trajectory(attack, network, images, labels, seeds):
    """Returns the points that the attack evaluates, [steps, N, ...]."""
    state = attack.start(images, labels, seeds, network(images))
    step = tf.function(lambda state: attack.step(network, state))
    points = []
    for _ in range(attack.num_steps):
        points.append(state["iterate"].numpy())
        state = step(state)
    return np.stack(points), state


@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_iterates_are_those_of_the_paper_step_by_step(norm, loss):
    network, evaluate = smooth_network()
    images = linear_network.images(4, low=0.0, high=255.0)
    labels = np.argmax(network(images), 1).astype(np.int32)
    attack = APGD(epsilon=RADII[norm], norm=norm, loss=loss)
    seeds = tf.constant([[1, 2], [3, 4], [5, 6], [7, 8]])
    points, _ = trajectory(attack, network, images, labels, seeds)
    for n, label in enumerate(labels):
        image = images[n].ravel().astype(np.float64)
        start = points[0, n].ravel().astype(np.float64)
        expected = oracle_run(evaluate, image, start, label, RADII[norm], norm, loss, 100)
        for k, point in enumerate(expected):
            # float32 against float64 over 100 dependent steps; a wrong rule moves whole pixels
            np.testing.assert_allclose(points[k, n].ravel(), point, atol=0.1, err_msg=f"{n} {k}")


def test_checkpoints_of_a_hundred_iterations_are_those_of_the_paper():
    windows = checkpoint_windows(100, "linf")
    assert (np.nonzero(windows)[0] + 1).tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert windows[windows > 0].tolist() == [22, 19, 16, 13, 10, 7, 6, 6]
    sparse = checkpoint_windows(100, "l1")
    assert (np.nonzero(sparse)[0] + 1).tolist() == list(range(4, 101, 4))


def test_a_schedule_starts_every_run_afresh_and_counts_only_the_last_stage():
    columns = schedule(10, 2, "l1", ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4)))
    assert columns["factor"].tolist() == ([3.0] * 4 + [2.0] * 4 + [1.0] * 5) * 2
    assert columns["counts"].tolist() == ([False] * 8 + [True] * 5) * 2
    assert np.nonzero(columns["fresh"])[0].tolist() == [0, 13]
    assert np.nonzero(columns["first"])[0].tolist() == [0, 4, 8, 13, 17, 21]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss,num_classes", [("ce", 2), ("dlr", 3), ("dlr-targeted", 5)])
def test_breaks_exactly_the_images_nearer_to_the_boundary_than_epsilon(loss, num_classes, norm):
    network = linear_network.LinearNetwork(num_classes, seed=num_classes)
    images = linear_network.images(48, low=0.0, high=255.0)
    labels = network.labels(images)
    distances = linear_network.distances(network, images, labels, norm)
    epsilon = float(np.quantile(distances, 0.5))
    num_targets = num_classes - 1 if loss == "dlr-targeted" else None
    attack = APGD(epsilon=epsilon, norm=norm, loss=loss, num_targets=num_targets, wide=norm == "l1")
    adversarial = tf.function(attack)(network, images, labels, SEED)
    broken = network.labels(adversarial) != labels
    certain = np.abs(distances / epsilon - 1) > 0.02
    assert 10 < certain.sum() and broken[certain].any() and not broken[certain].all()
    near = distances < epsilon
    # Nothing beyond the radius can break; nothing within it may stand.
    np.testing.assert_array_equal(broken[certain], near[certain])


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_network_the_loss_reaches_its_optimum(norm):
    network = linear_network.LinearNetwork(2)
    images = linear_network.images(6, low=0.0, high=255.0)
    labels = network.labels(images)
    epsilon = 0.5 * linear_network.distances(network, images, labels, norm).min()
    attack = tf.function(APGD(epsilon=epsilon, norm=norm))
    adversarial = attack(network, images, labels, SEED)
    moved = network.logits(adversarial) - network.logits(images)
    for n, label in enumerate(labels):
        weights = network.weights[:, 1 - label] - network.weights[:, label]
        best = linear_network.largest_gain(weights, images[n].ravel(), epsilon, norm)
        assert moved[n, 1 - label] - moved[n, label] == pytest.approx(best, rel=0.01)


@functools.cache
def compiled(norm, quantile):
    """Returns a traced attack, and a network whose weights can be set between calls."""
    network = linear_network.LinearNetwork(3)
    epsilon = float(np.quantile(linear_network.distances(*sample(network), norm), quantile))
    attack = APGD(epsilon=epsilon, norm=norm, iterations=20, wide=norm == "l1")
    weights = tf.Variable(network.weights, dtype=tf.float32)

    def changing(images, training=False):
        return tf.reshape(images, [-1, linear_network.DIMENSION]) @ weights

    function = tf.function(lambda images, labels, seed: attack(changing, images, labels, seed))
    return epsilon, weights, function


def sample(network, seed=1):
    images = linear_network.images(16, seed=seed, low=0.0, high=255.0)
    return network, images, network.labels(images)


def attacked(norm, quantile, seed):
    """Returns a random linear network, random images, their labels, epsilon and the result."""
    network = linear_network.LinearNetwork(3, seed=seed)
    network.bias[:] = 0
    _, images, labels = sample(network, seed)
    epsilon, weights, function = compiled(norm, quantile)
    weights.assign(network.weights)
    return network, images, labels, epsilon, function(images, labels, SEED).numpy()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), norm=st.sampled_from(NORMS))
def test_result_stays_inside_the_ball_and_the_pixel_range(seed, norm):
    _, images, _, epsilon, adversarial = attacked(norm, 0.5, seed)
    assert adversarial.min() >= 0 and adversarial.max() <= 255
    moves = linear_network.sizes(adversarial - images, norm)
    # What float32 pixels can hold: half a unit in the last place of 255 a coordinate.
    assert (moves <= epsilon * (1 + 1e-6) + 1.6e-5 * (1 if norm == "linf" else 24)).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), norm=st.sampled_from(NORMS))
def test_a_larger_epsilon_breaks_no_fewer_images(seed, norm):
    broken = []
    for quantile in (0.25, 0.5, 0.75):
        network, _, labels, _, adversarial = attacked(norm, quantile, seed)
        broken.append((network.labels(adversarial) != labels).sum())
    assert broken == sorted(broken)


@pytest.mark.parametrize("norm", NORMS)
def test_epsilon_zero_returns_the_image(norm):
    network = linear_network.LinearNetwork(4)
    images = linear_network.images(4, low=0.0, high=255.0)
    attack = APGD(epsilon=0.0, norm=norm, iterations=10)
    adversarial = attack(network, images, network.labels(images), SEED)
    np.testing.assert_allclose(adversarial, images, atol=2e-5)


def test_targets_are_the_runners_up_of_the_clean_image_in_turn():
    network = linear_network.LinearNetwork(6)
    images = linear_network.images(5)
    labels = network.labels(images)
    attack = APGD(epsilon=0.5, loss="dlr-targeted", num_targets=5, iterations=3, restarts=2)
    seeds = tf.zeros([5, 2], tf.int32)
    state = attack.start(images, labels, seeds, network(tf.constant(images)))
    ranking = np.argsort(-network.logits(images), 1)
    np.testing.assert_array_equal(state["targets"], ranking[:, 1:])
    assert attack.num_steps == 5 * 2 * 4
    ranks = attack.schedule["run"] // attack.restarts
    assert ranks.tolist() == np.repeat(range(5), 8).tolist()


def test_gradients_of_a_random_network_are_averaged():
    class Noisy(linear_network.LinearNetwork):
        def __call__(self, images, training=False):
            factor = tf.random.uniform([], 0.0, 2.0)
            return factor * super().__call__(images)

    network = Noisy(3)
    images = tf.constant(linear_network.images(4))

    def loss(logits):
        return losses.logit(logits, tf.zeros(4, tf.int32))

    function = tf.function(lambda: losses.loss_and_gradient(network, images, loss, eot_steps=400))
    _, _, gradient = function()
    mean = gradient.numpy().reshape(4, -1)[0] / network.weights[:, 0]
    np.testing.assert_allclose(mean, 1.0, atol=0.12)  # a single draw is off by .58


def test_dlr_keeps_its_value_when_logits_are_shifted_and_scaled():
    logits = tf.random.stateless_normal([8, 5], [1, 2])
    labels, targets = tf.range(8) % 5, (tf.range(8) + 1) % 5
    for function in (losses.dlr, losses.targeted_dlr):
        value = function(logits, labels, targets)
        np.testing.assert_allclose(function(7 * logits + 3, labels, targets), value, atol=1e-5)
    z = np.sort(logits.numpy(), 1)[:, ::-1]
    own = logits.numpy()[np.arange(8), labels]
    other = np.where(own == z[:, 0], z[:, 1], z[:, 0])
    np.testing.assert_allclose(
        losses.dlr(logits, labels), (other - own) / (z[:, 0] - z[:, 2]), rtol=1e-5
    )
    aimed = logits.numpy()[np.arange(8), targets]
    np.testing.assert_allclose(
        losses.targeted_dlr(logits, labels, targets),
        (aimed - own) / (z[:, 0] - (z[:, 2] + z[:, 3]) / 2),
        rtol=1e-5,
    )


def test_too_few_classes_are_named():
    assert APGD(epsilon=1.0).unavailable(2) is None
    assert "at least 3 classes" in APGD(epsilon=1.0, loss="dlr").unavailable(2)
    targeted = APGD(epsilon=1.0, loss="dlr-targeted", num_targets=3)
    assert targeted.unavailable(4) is None
    assert "at least 4 classes" in targeted.unavailable(3)
    more = APGD(epsilon=1.0, loss="dlr-targeted")
    assert "9 targets need 10 classes" in more.unavailable(5)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"epsilon": -1.0}, "epsilon is -1.0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"norm": "l0"}, "linf, l2, l1"),
        ({"loss": "hinge"}, "ce, dlr, dlr-targeted"),
        ({"iterations": 0}, "iterations is 0"),
        ({"num_targets": 2}, "aims at no class"),
        ({"wide": True}, "norm='l1'"),
    ],
)
def test_wrong_arguments_are_refused_with_a_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        APGD(**{"epsilon": 1.0, **arguments})


def test_a_network_without_gradients_is_refused():
    def network(images, training=False):
        return tf.round(tf.reduce_mean(tf.stop_gradient(images), [1, 2]))

    with pytest.raises(ValueError, match="no gradient"):
        APGD(epsilon=1.0)(network, linear_network.images(2), np.zeros(2, np.int32), SEED)
