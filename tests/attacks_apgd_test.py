"""APGD equals its formulae and reaches what is reachable."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_tf.attacks import geometry, losses
from sat_tf.attacks.apgd import APGD
from sat_tf.attacks.apgd_schedule import checkpoint_windows, schedule
from tests import linear_network

NORMS = geometry.NORMS
# Radii of about the same strength on the linear networks of these tests.
RADII = {"linf": 4.0, "l2": 15.0, "l1": 60.0}
SEED = tf.constant([3, 4])


class ScriptedNetwork:
    """Answers the k-th call with given DLR losses and given directions of their gradients.

    Three logits of label 0, whose first and third are 1 apart, so that the ratio is the loss.
    """

    def __init__(self, losses, gradients):
        self.losses = tf.constant(losses, tf.float32)
        self.gradients = tf.constant(gradients, tf.float32)
        self.step = tf.Variable(0)

    def __call__(self, images, training=False):
        loss, gradient = self.losses[self.step], self.gradients[self.step]
        slope = tf.reduce_sum(gradient * (images - tf.stop_gradient(images)), [1, 2, 3])
        zeros = tf.zeros_like(loss)
        return tf.stack([-loss - slope, zeros, tf.maximum(-loss, 0.0) - 1.0], 1)


def oracle_run(losses, gradients, image, start, epsilon, norm, iterations=100):
    """Runs APGD on one flat image, as the paper writes it; returns the points it evaluates."""

    def project(point):
        delta = point - image
        if norm == "linf":
            delta = np.clip(delta, -epsilon, epsilon)
        else:
            delta = delta * min(1.0, epsilon / max(np.linalg.norm(delta), 1e-12))
        return np.clip(image + delta, 0, 255)

    def direction(gradient):
        return np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient)

    fraction, gap, checkpoints = 0.22, 0.22, [0, 22]
    while fraction < 1:
        gap = max(gap - 0.03, 0.06)
        fraction += gap
        checkpoints.append(round(fraction * iterations))  # exact for 100 iterations
    best_loss, best, best_gradient = losses[0], start, gradients[0]
    # The first comparison is with 0: a known quirk of the reference implementation.
    history, size, last_best, was_halved = [0.0], 2 * epsilon, losses[0], True
    point = before = start
    gradient, points = gradients[0], [start]
    for k in range(1, iterations + 1):
        ahead = project(point + size * direction(gradient))
        if k > 1:
            ahead = project(point + 0.75 * (ahead - point) + 0.25 * (point - before))
        before, point, gradient = point, ahead, gradients[k]
        points.append(point)
        history.append(losses[k])
        if losses[k] > best_loss:
            best_loss, best, best_gradient = losses[k], point, gradient
        if k in checkpoints:
            window = k - checkpoints[checkpoints.index(k) - 1]
            rises = sum(history[j] > history[j - 1] for j in range(k - window + 1, k + 1))
            halve = rises <= 0.75 * window or (not was_halved and best_loss == last_best)
            last_best, was_halved = best_loss, halve
            if halve:
                size, point, gradient = size / 2, best, best_gradient
    return np.array(points)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_iterates_are_those_of_the_paper_step_by_step(norm):
    # Losses and gradients are given, so rounding decides no comparison and no sign.
    count, epsilon, rng = 40, RADII[norm], np.random.default_rng(0)
    images = linear_network.images(count, low=0.0, high=255.0)
    # Walks that rise about three times in four, where halving is a close call, with ties.
    walks = np.cumsum(rng.choice([1, 0, -2], (101, count), p=[0.78, 0.07, 0.15]), 0)
    losses = np.clip((walks - rng.integers(5, 90, count)) / 128, -0.99, 0.99)
    losses[:, :4] = losses[:1, :4]  # constant: nothing but ties
    losses[:, 4] = [0.75, *np.linspace(-0.75, 0.5, 100)]  # rises, but never above the start
    gradients = rng.normal(size=(101, *images.shape))
    network = ScriptedNetwork(losses, gradients)
    attack = APGD(epsilon=epsilon, norm=norm, loss="dlr")
    seeds = tf.random.stateless_uniform([count, 2], [1, 2], None, None, tf.int32)
    state = attack.start(images, np.zeros(count, np.int32), seeds, None)
    step, points = tf.function(lambda state: attack.step(network, state), autograph=False), []
    for k in range(attack.num_steps):
        network.step.assign(k)
        points.append(state["iterate"].numpy())
        state = step(state)
    points = np.reshape(points, [101, count, -1])
    for n in range(count):
        arguments = losses[:, n], gradients[:, n].reshape(101, -1), images[n].ravel().astype(float)
        expected = oracle_run(*arguments, points[0, n].astype(float), epsilon, norm)
        np.testing.assert_allclose(points[:, n], expected, atol=2e-3, err_msg=str(n))
    halvings = np.log2(2 * epsilon / state["step_size"].numpy())
    assert len(np.unique(halvings)) >= 4  # the images differ in when they were halved


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


@pytest.mark.parametrize("wide", [False, True])
def test_the_first_l1_step_moves_a_fifth_or_with_wide_what_the_start_moved(wide):
    network = linear_network.LinearNetwork(3)
    images = linear_network.images(8)
    seeds = tf.random.stateless_uniform([8, 2], [1, 2], None, None, tf.int32)
    attack = APGD(epsilon=60.0, norm="l1", iterations=10, wide=wide)
    start = attack.start(images, network.labels(images), seeds, None)
    moved = (start["iterate"].numpy() != images).sum((1, 2, 3))
    assert len(set(moved)) > 1
    state = attack.step(network, start)
    expected = moved / linear_network.DIMENSION / 1.5 if wide else np.full(8, 0.2)
    np.testing.assert_allclose(state["share"], expected, rtol=1e-6)


class Compiled:
    """An attack that is traced once for all radii and all linear networks of so many classes."""

    def __init__(self, num_classes, **options):
        self.options = options
        attack, self.epsilon = APGD(epsilon=1.0, **options), tf.Variable(1.0)
        attack.epsilon = self.epsilon
        self.weights = tf.Variable(tf.zeros([linear_network.DIMENSION, num_classes]))
        self.bias = tf.Variable(tf.zeros([num_classes]))

        def network(images, training=False):
            return tf.reshape(images, [-1, linear_network.DIMENSION]) @ self.weights + self.bias

        # As evaluations run it: without AutoGraph.
        self.function = tf.function(
            lambda images, labels: attack(network, images, labels, SEED),
            input_signature=[
                tf.TensorSpec([None, *linear_network.SHAPE]), tf.TensorSpec([None], tf.int32)
            ],
            autograph=False,
        )  # fmt: skip

    def __call__(self, network, images, labels, epsilon):
        self.epsilon.assign(APGD(epsilon=epsilon, **self.options).epsilon)
        self.weights.assign(network.weights)
        self.bias.assign(network.bias)
        return self.function(images, labels).numpy()


compiled = functools.cache(Compiled)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss,num_classes", [("ce", 2), ("dlr", 3), ("dlr-targeted", 5)])
def test_breaks_exactly_the_images_nearer_to_the_boundary_than_epsilon(loss, num_classes, norm):
    network = linear_network.LinearNetwork(num_classes, seed=num_classes)
    images = linear_network.images(48, low=0.0, high=255.0)
    labels = network.labels(images)
    distances = linear_network.distances(network, images, labels, norm)
    epsilon = float(np.quantile(distances, 0.5))
    num_targets = num_classes - 1 if loss == "dlr-targeted" else None
    options = {"loss": loss, "num_targets": num_targets, "wide": norm == "l1"}
    attack = compiled(num_classes, norm=norm, **options)
    adversarial = attack(network, images, labels, epsilon)
    broken = network.labels(adversarial) != labels
    assert broken.any() and not broken.all()
    # Nothing beyond the radius can break; nothing well within it may stand. In L1 a step moves two
    # coordinates at least, which in 24 dimensions costs a part of what the best one would give.
    well_within = distances < epsilon * (0.75 if norm == "l1" else 0.98)
    assert not broken[distances > epsilon * 1.001].any()
    assert well_within.sum() > 3 and broken[well_within].all()


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_network_the_loss_reaches_its_optimum(norm):
    network = linear_network.LinearNetwork(2)
    images = linear_network.images(6, low=0.0, high=255.0)
    labels = network.labels(images)
    epsilon = 0.5 * linear_network.distances(network, images, labels, norm).min()
    attack = compiled(2, norm=norm, loss="ce", num_targets=None, wide=False)
    adversarial = attack(network, images, labels, epsilon)
    moved = network.logits(adversarial) - network.logits(images)
    for n, label in enumerate(labels):
        weights = network.weights[:, 1 - label] - network.weights[:, label]
        best = linear_network.largest_gain(weights, images[n].ravel(), epsilon, norm)
        gain = moved[n, 1 - label] - moved[n, label]
        assert best * (0.75 if norm == "l1" else 0.99) <= gain <= best * 1.001


def sample(network, seed=1):
    images = linear_network.images(16, seed=seed, low=0.0, high=255.0)
    return images, network.labels(images)


@functools.cache
def radius_of(norm, quantile):
    """Returns how far such a share of the images of one network is from the boundary."""
    network = linear_network.LinearNetwork(3)
    return float(np.quantile(linear_network.distances(network, *sample(network), norm), quantile))


def attacked(norm, quantile, seed):
    """Returns a random linear network, random images, their labels, epsilon and the result."""
    network = linear_network.LinearNetwork(3, seed=seed)
    network.bias[:] = 0
    images, labels = sample(network, seed)
    epsilon = radius_of(norm, quantile)
    attack = compiled(3, norm=norm, iterations=20, wide=norm == "l1")
    return network, images, labels, epsilon, attack(network, images, labels, epsilon)


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
    network = linear_network.LinearNetwork(3)
    images, labels = sample(network)
    attack = compiled(3, norm=norm, iterations=20, wide=norm == "l1")
    adversarial = attack(network, images, labels, 0.0)
    np.testing.assert_allclose(adversarial, images, atol=2e-5)


# With a radius that is a tensor it is traced once.
project = tf.function(functools.partial(geometry.project, norm="l1"), autograph=False)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10000), radius=st.floats(0.0, 3000.0), spread=st.floats(0.1, 400.0))
def test_l1_projection_is_the_nearest_point_of_ball_and_range(seed, radius, spread):
    rng = np.random.default_rng(seed)
    center = linear_network.images(1, seed=seed, low=0.0, high=255.0)
    point = (center + spread * rng.normal(size=center.shape)).astype(np.float32)
    nearest = project(point, center, tf.constant(radius)).numpy().astype(np.float64)
    assert nearest.min() >= -1e-4 and nearest.max() <= 255 + 1e-4
    assert linear_network.sizes(nearest - center, "l1")[0] <= radius * (1 + 1e-5) + 1e-3
    # A point of a convex set is the nearest one if no other lies further along the residual.
    residual = (point - nearest).ravel()
    furthest = linear_network.largest_gain(residual, center.ravel().astype(float), radius, "l1")
    reached = residual @ (nearest - center).ravel()
    assert reached >= furthest - 1e-4 * (1 + np.abs(residual).max()) * (1 + radius)


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


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_a_gradient_is_the_mean_of_as_many_draws_and_the_logits_are_the_last(draws):
    network, factors = linear_network.LinearNetwork(3), []

    def drawn(points, training=False):
        factors.append(len(factors) + 1.0)
        return factors[-1] * network(points)

    def evaluated(some, count):
        points = tf.constant(linear_network.images(4))
        labels = tf.zeros(4, tf.int32)
        return losses.loss_and_gradient(some, points, lambda z: losses.logit(z, labels), count)

    plain_logits, _, plain = evaluated(network, 1)
    logits, _, gradient = evaluated(drawn, draws)
    assert factors == [1.0, 2.0, 3.0][:draws]
    np.testing.assert_allclose(gradient, (draws + 1) / 2 * plain, rtol=1e-5)
    np.testing.assert_allclose(logits, draws * plain_logits, rtol=1e-5)


def test_gradients_of_a_random_network_are_averaged():
    class Noisy(linear_network.LinearNetwork):
        def __call__(self, images, training=False):
            factor = tf.random.uniform([], 0.0, 2.0)
            return factor * super().__call__(images)

    network = Noisy(3)
    images = tf.constant(linear_network.images(4))

    def loss(logits):
        return losses.logit(logits, tf.zeros(4, tf.int32))

    function = tf.function(
        lambda: losses.loss_and_gradient(network, images, loss, eot_steps=400), autograph=False
    )
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
