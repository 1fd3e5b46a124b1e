"""PGD against closed forms, NumPy and foolbox."""

import foolbox
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_tf.attacks import PGD, identity, noise
from sat_tf.attacks.divergence import DivergencePGD

SHAPE = (6, 6, 2)


def linear(seed=0, num_classes=2):
    """A linear network and its weights, in float64 too."""
    rng = np.random.default_rng(seed)
    pixels = keras.Input(SHAPE)
    head = keras.layers.Dense(num_classes)
    network = keras.Model(pixels, head(keras.layers.Flatten()(pixels)))
    weights = rng.normal(size=(int(np.prod(SHAPE)), num_classes)) / 255
    network.set_weights([weights, np.zeros(num_classes)])
    return network, weights


def convolutional(seed=0):
    keras.utils.set_random_seed(seed)
    pixels = keras.Input(SHAPE)
    x = keras.layers.Rescaling(2 / 255, -1)(pixels)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Activation("tanh")(x)
    x = keras.layers.Dropout(0.5)(x)
    return keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def batch(num_images=5, low=0.0, high=255.0, num_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.uniform(low, high, (num_images, *SHAPE)).astype(np.float32)
    return images, rng.integers(0, num_classes, num_images).astype(np.int32)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_on_a_linear_network_follows_the_dual_of_its_weights(norm):
    network, weights = linear()
    images, labels = batch(low=100, high=150)
    attack = PGD(epsilon=8, step_size=8, steps=1, random_start=False, norm=norm)
    # For two classes the gradient of the cross-entropy is a positive multiple of w_other - w_y.
    ascent = (weights[:, 1 - labels] - weights[:, labels]).T.reshape(images.shape)
    if norm == "linf":
        direction = np.sign(ascent)
    else:
        direction = ascent / np.linalg.norm(ascent.reshape(5, -1), axis=1).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(attack(network, images, labels), images + 8 * direction, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    epsilon=st.floats(0, 64),
    step_size=st.floats(0.1, 100),
    steps=st.integers(1, 4),
    norm=st.sampled_from(["linf", "l2"]),
    random_start=st.booleans(),
)
def test_result_stays_inside_the_ball_and_the_pixel_range(
    epsilon, step_size, steps, norm, random_start
):
    network, _ = linear()
    images, labels = batch()
    images[0], images[1] = 0, 255  # corners of the pixel range
    attack = PGD(
        epsilon=epsilon, step_size=step_size, steps=steps, norm=norm, random_start=random_start
    )
    result = attack(network, images, labels, tf.constant([1, 2])).numpy()
    delta = (result.astype(np.float64) - images).reshape(len(images), -1)
    distance = np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)
    assert result.min() >= 0 and result.max() <= 255
    assert (distance <= epsilon * (1 + 1e-5) + 1e-4).all()


def test_epsilon_zero_is_the_identity():
    network, _ = linear()
    images, labels = batch()
    attack = PGD(epsilon=0, step_size=1, steps=3)
    np.testing.assert_array_equal(attack(network, images, labels), images)
    np.testing.assert_array_equal(identity(network, images, labels), images)


def test_iterates_equal_a_float64_loop_on_a_smooth_network():
    pixels = keras.Input(SHAPE)
    hidden = keras.layers.Dense(7, activation="tanh")
    head = keras.layers.Dense(3)
    network = keras.Model(pixels, head(hidden(keras.layers.Flatten()(pixels / 255))))
    w1, b1, w2, b2 = (w.astype(np.float64) for w in network.get_weights())
    images, labels = batch(num_classes=3)

    x = images.astype(np.float64)
    for _ in range(4):
        h = np.tanh(x.reshape(5, -1) / 255 @ w1 + b1)
        z = h @ w2 + b2
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True) - np.eye(3)[labels]
        gradient = ((p @ w2.T) * (1 - h**2)) @ w1.T / 255
        x = np.clip(x + 3 * np.sign(gradient.reshape(x.shape)), images - 8.0, images + 8.0)
        x = np.clip(x, 0, 255)

    attack = PGD(epsilon=8, step_size=3, steps=4, random_start=False)
    np.testing.assert_allclose(attack(network, images, labels), x, atol=1e-3)


@pytest.mark.parametrize(
    ("norm", "theirs", "factor"),
    [
        ("linf", foolbox.attacks.LinfProjectedGradientDescentAttack, 1.0),
        ("l2", foolbox.attacks.L2ProjectedGradientDescentAttack, 1.0),
    ],
)
def test_result_equals_foolbox(norm, theirs, factor):
    network = convolutional()
    images, labels = batch(num_classes=3)
    ours = PGD(epsilon=20, step_size=4, steps=7, random_start=False, norm=norm)
    model = foolbox.TensorFlowModel(network, bounds=(0, 255))
    reference = theirs(abs_stepsize=4, steps=7, random_start=False).run(
        model, tf.constant(images), foolbox.Misclassification(tf.constant(labels)), epsilon=20
    )
    np.testing.assert_allclose(ours(network, images, labels), reference, atol=1e-2)


@pytest.mark.parametrize("mode", ["inference", "batch"])
@pytest.mark.parametrize("steps", [1, 3])
def test_neither_weights_nor_statistics_change(mode, steps):
    network = convolutional()
    images, labels = batch(num_classes=3)
    before = [v.numpy() for v in network.variables]
    attack = PGD(epsilon=8, step_size=2, steps=steps, batch_norm=mode)
    tf.function(attack, autograph=False)(network, tf.constant(images), tf.constant(labels))
    for old, variable in zip(before, network.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_batch_mode_uses_the_statistics_of_the_batch():
    network = convolutional()
    images, labels = batch(num_classes=3)
    options = {"epsilon": 8, "step_size": 2, "steps": 1, "random_start": False}
    same = PGD(**options)(network, images, labels)
    other = PGD(**options, batch_norm="batch")(network, images, labels)
    assert np.abs(same - other).max() > 1


class Normalised:
    """A hidden layer with batch norm, in any dtype; images touch each other in training mode."""

    def __init__(self, dtype, spread):
        rng = np.random.default_rng(3)
        self.dtype = dtype
        self.first = rng.normal(size=(int(np.prod(SHAPE)), 5)) / 300
        # Rows of very different length make some images far surer than others.
        self.second = spread * rng.normal(size=(5, 3))

    def __call__(self, images, training=False):
        flat = tf.reshape(tf.cast(images, self.dtype), [len(images), -1])
        hidden = flat @ tf.constant(self.first, self.dtype)
        if training:
            mean, variance = tf.nn.moments(hidden, [0])
        else:
            mean, variance = tf.zeros(5, self.dtype), tf.ones(5, self.dtype)
        hidden = tf.tanh((hidden - mean) / tf.sqrt(variance + 0.01))
        return hidden @ tf.constant(self.second, self.dtype)


def batch_gradient(network, loss, images, labels):
    """Differentiates the sum over the batch in float64, statistics included."""
    exact = Normalised(tf.float64, 1.0)
    exact.second = network.second
    points = tf.constant(images, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(points)
        total = tf.reduce_sum(loss(exact(points, training=True), labels))
    return tape.gradient(total, points).numpy()


@pytest.mark.parametrize("dtype, agree", [(tf.float32, 1e-4), (tf.float16, 0.05)])
@pytest.mark.parametrize("spread", [1.0, 12.0, 60.0])
def test_in_batch_mode_the_gradient_is_that_of_the_sum_over_the_batch(dtype, agree, spread):
    network = Normalised(dtype, spread)
    images, labels = batch(num_images=6, num_classes=3)
    labels = tf.argmax(network(images, training=True), 1).numpy()
    labels[:2] = (labels[:2] + 1) % 3  # the rest are sure, these are far from it

    def loss(logits, labels):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    attack = PGD(epsilon=8, step_size=2, steps=1, batch_norm="batch")
    found = attack.evaluated(network, tf.constant(images), labels)[1].numpy().astype(np.float64)
    expected = batch_gradient(network, loss, images, labels)
    # One factor for the whole batch.
    found, expected = found / np.linalg.norm(found), expected / np.linalg.norm(expected)
    assert np.linalg.norm(found - expected) < agree


@pytest.mark.parametrize("spread", [1.0, 12.0])
def test_in_batch_mode_trades_ascends_the_divergence_from_p_in_the_same_mode(spread):
    network = Normalised(tf.float32, spread)
    images, _ = batch(num_images=6, num_classes=3)
    ball = {"epsilon": 60, "norm": "l2", "start_deviation": 3.0}
    attack = DivergencePGD(step_size=2, steps=1, batch_norm="batch", **ball)
    seed = tf.constant([1, 2])
    start = attack.start(tf.constant(images), seed).numpy()
    exact = Normalised(tf.float64, spread)
    p = tf.nn.softmax(exact(images, training=True))

    def loss(logits, p):
        return tf.reduce_sum(p * (tf.math.log(p) - tf.nn.log_softmax(logits)), 1)

    slope = batch_gradient(network, loss, start, p)
    length = np.linalg.norm(slope.reshape(6, -1), axis=1).reshape(-1, 1, 1, 1)
    expected = np.clip(start + 2 * slope / length, 0, 255)
    np.testing.assert_allclose(attack(network, images, None, seed), expected, atol=5e-3)


def test_in_batch_mode_a_batch_of_sure_images_has_a_direction():
    network = Normalised(tf.float32, 300.0)
    images, _ = batch(num_images=6, num_classes=3)
    labels = tf.argmax(network(images, training=True), 1).numpy()
    attack = PGD(epsilon=8, step_size=2, steps=1, random_start=False, batch_norm="batch")
    moved = np.abs(attack(network, images, labels) - images)
    assert moved.reshape(6, -1).max(1).max() > 1.9


def test_in_batch_mode_an_image_without_finite_logits_takes_no_slope_from_the_others():
    attack = PGD(epsilon=8, step_size=2, steps=1, batch_norm="batch")
    logits, labels = tf.constant([[np.nan, 0, 1], [2, -1, 0.5], [0, 3, 1]]), tf.constant([0, 1, 2])
    alone = attack.ascent(logits[1:], labels[1:]).numpy()
    assert np.abs(alone).max(1).min() > 0.1
    # An exponential of another row may be a vector's or its rest's, which round apart.
    np.testing.assert_allclose(attack.ascent(logits, labels)[1:], alone, rtol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", [[3, 4], [[3, i] for i in range(5)]])
def test_eager_equals_graph(norm, seed):
    network = convolutional()
    images, labels = map(tf.constant, batch(num_classes=3))
    attack = PGD(epsilon=8, step_size=2, steps=3, norm=norm)
    eager = attack(network, images, labels, tf.constant(seed))
    graph = tf.function(attack)(network, images, labels, tf.constant(seed))
    np.testing.assert_allclose(eager, graph, atol=1e-3)


def test_same_seed_same_result_and_another_seed_another():
    network = convolutional()
    images, labels = batch(num_classes=3)
    attack = PGD(epsilon=8, step_size=2, steps=2)
    first, again, other = (
        attack(network, images, labels, tf.constant([0, n])).numpy() for n in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1


def test_an_image_with_its_own_seed_does_not_depend_on_its_batch():
    network = convolutional()
    images, labels = batch(num_classes=3)
    seeds = noise.fold_in(tf.tile([[7, 0]], [5, 1]), tf.range(5))
    attack = PGD(epsilon=8, step_size=2, steps=2)
    whole = attack(network, images, labels, seeds)
    alone = attack(network, images[3:4], labels[3:4], seeds[3:4])
    np.testing.assert_allclose(whole[3:4], alone, atol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_start_fills_the_ball_evenly(norm):
    images = tf.fill([4000, 2, 1, 1], 127.5)
    start = PGD(epsilon=10, step_size=1, steps=1, norm=norm).start(images, tf.constant([0, 0]))
    delta = (start - images).numpy().reshape(-1, 2)
    assert np.abs(delta.mean(0)).max() < 0.3
    if norm == "linf":  # uniform on [-10, 10]: variance 100 / 3
        np.testing.assert_allclose(delta.var(0), 100 / 3, rtol=0.06)
    else:  # uniform in the disc: |d|^2 is uniform on [0, 100]
        squared = (delta**2).sum(1)
        np.testing.assert_allclose(np.quantile(squared, [0.25, 0.5, 0.75]), [25, 50, 75], atol=3)


def test_a_start_with_probability_is_clean_for_a_whole_batch_or_for_an_image():
    images = tf.fill([4, 2, 2, 1], 100.0)
    attack = PGD(epsilon=8, step_size=8, steps=1, random_start=0.75)
    moved = [
        (attack.start(images, tf.constant([n, 0])) != images).numpy().any((1, 2, 3))
        for n in range(400)
    ]
    assert all(batch.all() or not batch.any() for batch in moved)
    assert 0.68 < np.mean(moved) < 0.82  # three standard deviations of 400 draws
    seeds = tf.stack([tf.range(400), tf.zeros([400], tf.int32)], 1)
    images = tf.fill([400, 2, 2, 1], 100.0)
    alone = (attack.start(images, seeds) != images).numpy().any((1, 2, 3))
    assert 0.68 < np.mean(alone) < 0.82


def test_a_sure_float16_network_is_attacked_as_its_float32_twin():
    network, weights = linear(num_classes=3)
    sure = [weights, np.array([60.0, 0, 0])]  # p of the others is 1e-26: nothing in float16
    network.set_weights(sure)
    pixels = keras.Input(SHAPE)
    head = keras.layers.Dense(3, dtype="float16")
    half = keras.Model(pixels, head(keras.layers.Flatten(dtype="float16")(pixels)))
    half.set_weights(sure)
    images, _ = batch(low=100, high=150)
    labels = np.zeros(5, np.int32)
    attack = PGD(epsilon=8, step_size=8, steps=1, random_start=False)
    moved = attack(half, images, labels) - images
    assert (np.abs(moved) > 7.9).mean() > 0.99
    same = np.sign(moved) == np.sign(attack(network, images, labels) - images)
    assert same.mean() > 0.97


def test_no_gradient_flows_through_the_result():
    network = convolutional()
    images, labels = map(tf.constant, batch(num_classes=3))
    with tf.GradientTape() as tape:
        tape.watch(images)
        result = tf.reduce_sum(PGD(epsilon=8, step_size=2, steps=1)(network, images, labels))
    assert tape.gradient(result, images) is None


def test_the_graph_does_not_grow_with_the_number_of_steps():
    network = convolutional()
    images, labels = map(tf.constant, batch(num_classes=3))

    def num_operations(steps):
        attack = tf.function(PGD(epsilon=8, step_size=2, steps=steps), autograph=False)
        graph = attack.get_concrete_function(network, images, labels).graph.as_graph_def()
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    assert num_operations(2) == num_operations(200)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": -1}, "epsilon is -1"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"step_size": 0}, "step_size is 0"),
        ({"norm": "l7"}, "use one of: linf, l2"),
        ({"batch_norm": "train"}, "use one of: inference, batch"),
    ],
)
def test_wrong_settings_say_what_is_expected(change, message):
    with pytest.raises(ValueError, match=message):
        PGD(**{"epsilon": 8, "step_size": 2, "steps": 3} | change)


@pytest.mark.parametrize("norm, order", [("linf", np.inf), ("l2", 2), ("l1", 1)])
def test_a_random_start_lies_in_the_ball_and_in_the_pixel_range(norm, order):
    ends = np.where(np.arange(8 * 48) % 3 == 0, 255.0, 2.0).reshape(8, 4, 4, 3)
    attack = PGD(epsilon=40.0, step_size=1.0, steps=1, norm=norm)
    found = attack.start(tf.constant(ends, tf.float32), tf.constant([1, 2])).numpy()
    assert found.min() >= 0 and found.max() <= 255
    lengths = np.linalg.norm((found.astype(np.float64) - ends).reshape(8, -1), order, axis=1)
    assert lengths.max() <= 40.001 and lengths.min() > 1
