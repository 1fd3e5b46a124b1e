import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks
from sat_tf.runs import checkpoints, distribution
from sat_tf.training import free
from tests.linear_network import images

RATE, EPSILON, STEP = 1e-6, 8.0, 3.0
LABELS = np.array([0, 2, 1, 2, 1, 1, 0, 0], np.int32)
KERNEL = 0.002 * np.random.default_rng(0).normal(size=(24, 3))


def trainer(batch_size=4, **options):
    inputs = keras.Input((3, 4, 2))
    network = keras.Model(
        inputs, keras.layers.Dense(3, use_bias=False, name="logits")(keras.layers.Flatten()(inputs))
    )
    network.set_weights([KERNEL])
    made = free.FreeTrainer(
        network,
        batch_size=batch_size,
        epsilon=EPSILON,
        validation_attack=attacks.identity,
        **{"step_size": STEP, **options},
    )
    made.compile(keras.optimizers.SGD(RATE, momentum=0.9, name="sgd"))
    return made


def batches(pixels, num_replays, start=0):
    data = tf.data.Dataset.from_tensor_slices((pixels, LABELS)).batch(4, drop_remainder=True)
    return free.replay(data, num_replays, start)


def fit(trainer, data):
    num_steps = sum(1 for _ in data)
    trainer.fit(data, steps_per_epoch=num_steps, verbose=0, shuffle=False)
    return trainer.network.get_weights()[0]


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def oracle(pixels, num_replays):
    """Follows algorithm 1 in float64, with momentum, on a linear network."""
    kernel, velocity, delta = KERNEL.copy(), 0.0, np.zeros((4, 24))
    for rows in (slice(0, 4), slice(4, 8)):
        x, onehot = pixels.reshape(8, 24)[rows].astype(np.float64), np.eye(3)[LABELS[rows]]
        for _ in range(num_replays):
            adversarial = np.clip(x + delta, 0, 255)
            error = softmax(adversarial @ kernel) - onehot
            slope = error @ kernel.T
            velocity = 0.9 * velocity - RATE * adversarial.T @ error / 4
            kernel = kernel + velocity
            delta = np.clip(delta + STEP * np.sign(slope), -EPSILON, EPSILON)
    return kernel, delta.reshape(4, 3, 4, 2)


@pytest.mark.parametrize("strategy", ["one_device", "mirrored"])
@pytest.mark.parametrize("low, high", [(90.0, 165.0), (0.0, 10.0)])
def test_replays_follow_the_algorithm_on_any_number_of_replicas(strategy, low, high):
    pixels = images(8, low=low, high=high)
    with distribution.strategy(strategy).scope():
        made = trainer()
    kernel, delta = oracle(pixels, 3)
    np.testing.assert_allclose(fit(made, batches(pixels, 3)), kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(made.perturbation.numpy(), delta, atol=1e-5)
    assert made.optimizer.iterations.value.numpy() == 6


def test_a_perturbation_beyond_the_pixel_range_still_follows_the_gradient():
    made, pixels = trainer(), np.full((8, 3, 4, 2), 2.0, np.float32)  # clipped to 0
    made.perturbation.assign(tf.fill(made.perturbation.shape, -EPSILON))
    fit(made, batches(pixels, 1).take(1))
    slope = (softmax(np.zeros((4, 3))) - np.eye(3)[LABELS[:4]]) @ KERNEL.T
    expected = np.clip(-EPSILON + STEP * np.sign(slope), -EPSILON, EPSILON)
    assert len(np.unique(expected)) == 2
    np.testing.assert_allclose(made.perturbation.numpy(), expected.reshape(4, 3, 4, 2), atol=1e-5)


def test_a_run_that_stops_between_replays_resumes_exactly(tmp_path):
    pixels = images(8)
    whole = trainer()
    expected = fit(whole, batches(pixels, 3))
    first = trainer()
    fit(first, batches(pixels, 3).take(2))
    checkpoints.save(tmp_path, 2, first.state, {})
    second = trainer()
    step, _ = checkpoints.restore(tmp_path, second.state)
    np.testing.assert_array_equal(fit(second, batches(pixels, 3, step)), expected)
    np.testing.assert_array_equal(second.perturbation.numpy(), whole.perturbation.numpy())


def test_a_perturbation_that_never_moves_is_clean_training():
    pixels = images(8)
    made = trainer(step_size=0.0)
    kernel = fit(made, batches(pixels, 1))
    expected, velocity = KERNEL.copy(), 0.0
    for rows in (slice(0, 4), slice(4, 8)):
        x = pixels.reshape(8, 24)[rows].astype(np.float64)
        error = softmax(x @ expected) - np.eye(3)[LABELS[rows]]
        velocity = 0.9 * velocity - RATE * x.T @ error / 4
        expected = expected + velocity
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-6)


def test_the_stream_repeats_every_batch_and_begins_where_it_is_told():
    data = tf.data.Dataset.range(3)
    assert [int(x) for (x,) in free.replay(data.map(lambda x: (x,)), 2, 1)] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("size", [None, 4])
def test_a_batch_may_have_an_image_for_every_perturbation(size):
    fitting = tf.function(lambda some: free._fitting(some, 4))
    graph = fitting.get_concrete_function(tf.TensorSpec([size, 2]))
    np.testing.assert_array_equal(graph(tf.ones([4, 2])), np.ones([4, 2]))


def test_what_cannot_be_trained_for_free_is_named():
    with pytest.raises(ValueError, match="epsilon is -1"):
        free.FreeTrainer(
            trainer().network, batch_size=4, epsilon=-1.0, validation_attack=attacks.identity
        )
    with pytest.raises(ValueError, match="gradient_accumulation=2"):
        trainer().compile(keras.optimizers.SGD(), gradient_accumulation=2)
    with pytest.raises(ValueError, match="fixed --image_size"):
        inputs = keras.Input((None, None, 1))
        network = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
        free.FreeTrainer(network, batch_size=4, epsilon=1.0, validation_attack=attacks.identity)
    large = tf.data.Dataset.from_tensors((images(8).astype("float32"), LABELS))
    with pytest.raises(ValueError, match="a batch has 8 images; batches of at most 4 images"):
        trainer().fit(large, verbose=0, shuffle=False)
    any_size = tf.data.Dataset.from_generator(
        lambda: iter(large),
        output_signature=(tf.TensorSpec([None, 3, 4, 2]), tf.TensorSpec([None], tf.int32)),
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="batches of at most 4 images"):
        trainer().fit(any_size, verbose=0, shuffle=False)
    with pytest.raises(ValueError, match="num_replays is 0"):
        free.replay(tf.data.Dataset.range(2), 0)
    with pytest.raises(ValueError, match="start is 2"):
        free.replay(tf.data.Dataset.range(2), 2, 2)


def test_the_objective_sees_the_clean_images_and_the_perturbed_ones():
    made, seen = trainer(), []
    plain, pixels = made.objective, images(4)

    def recorded(network, clean, adversarial, labels):
        seen.append((clean.numpy(), adversarial.numpy()))
        return plain(network, clean, adversarial, labels)

    made.objective = recorded
    delta = np.random.default_rng(0).uniform(-EPSILON, EPSILON, pixels.shape)
    made.perturbation.assign(delta)
    made.train_step((tf.constant(pixels, tf.float32), LABELS[:4]))
    ((clean, adversarial),) = seen
    np.testing.assert_allclose(clean, pixels, atol=1e-4)
    np.testing.assert_allclose(adversarial, np.clip(pixels + delta, 0, 255), atol=1e-3)
