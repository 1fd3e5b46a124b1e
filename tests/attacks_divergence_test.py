import numpy as np
import pytest
import tensorflow as tf

from sat_tf.attacks import noise
from sat_tf.attacks.divergence import DivergencePGD
from sat_tf.training import objectives
from tests.linear_network import LinearNetwork, images

SEED = tf.constant([3, 5], tf.int32)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def oracle(network, clean, start, attack):
    """Ascends the divergence in float64: its gradient is `(q - p) W^T` for linear logits."""
    p, iterate = softmax(network.logits(clean)), start
    for _ in range(attack.steps):
        slope = (softmax(network.logits(iterate)) - p) @ network.weights.T
        slope = slope.reshape(clean.shape)
        if attack.norm == "linf":
            moved = iterate + attack.step_size * np.sign(slope)
            iterate = np.clip(moved, clean - attack.epsilon, clean + attack.epsilon)
        else:
            lengths = np.sqrt(np.sum(slope**2, axis=(1, 2, 3), keepdims=True))
            delta = iterate + attack.step_size * slope / lengths - clean
            lengths = np.sqrt(np.sum(delta**2, axis=(1, 2, 3), keepdims=True))
            iterate = clean + delta * np.minimum(1, attack.epsilon / lengths)
        iterate = np.clip(iterate, 0, 255)
    return iterate


@pytest.mark.parametrize("norm, epsilon", [("linf", 8.0), ("l2", 20.0)])
def test_steps_follow_the_gradient_of_the_divergence(norm, epsilon):
    network, clean = LinearNetwork(4), images(6)
    attack = DivergencePGD(epsilon=epsilon, step_size=epsilon / 4, steps=3, norm=norm)
    start = clean + 0.255 * noise.normal(SEED, tf.constant(clean)).numpy().astype(np.float64)
    expected = oracle(network, clean.astype(np.float64), start, attack)
    actual = attack(network, clean, None, SEED).numpy()
    # The sign of a slope near 0 may differ between float32 and float64.
    assert np.mean(np.abs(actual - expected) < 2e-2) > 0.99


def test_the_divergence_grows_and_the_result_stays_in_the_ball_and_the_pixel_range():
    network, clean = LinearNetwork(4), images(6, low=0.0, high=255.0)
    attack = DivergencePGD(epsilon=8.0, step_size=2.0, steps=10)
    result = attack(network, clean, None, SEED)
    weak = DivergencePGD(epsilon=8.0, step_size=2.0, steps=1)(network, clean, None, SEED)
    assert np.abs(result - clean).max() <= 8 + 1e-4
    assert result.numpy().min() >= 0 and result.numpy().max() <= 255
    gains = [objectives.divergence(network(clean), network(x)) for x in (weak, result)]
    assert (gains[1] > gains[0]).numpy().all() and (gains[0] > 0).numpy().all()


def test_labels_do_not_matter_and_seeds_do():
    network, clean = LinearNetwork(4), images(6)
    attack = DivergencePGD(epsilon=8.0, step_size=1.0, steps=2)
    first = attack(network, clean, np.zeros(6, np.int32), SEED)
    np.testing.assert_array_equal(first, attack(network, clean, np.ones(6, np.int32), SEED))
    assert np.any(first != attack(network, clean, None, SEED + 1))


def test_epsilon_zero_is_the_identity():
    attack = DivergencePGD(epsilon=0.0, step_size=1.0, steps=2)
    np.testing.assert_array_equal(attack(LinearNetwork(4), images(2), None, SEED), images(2))


def test_a_start_at_the_image_itself_is_refused():
    with pytest.raises(ValueError, match="start_deviation is 0"):
        DivergencePGD(epsilon=8.0, step_size=1.0, steps=2, start_deviation=0)
