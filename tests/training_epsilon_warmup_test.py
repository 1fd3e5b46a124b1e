"""Laws of an epsilon that grows: by step, in every method, and after any checkpoint."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks
from sat_tf.training import AdversarialTrainer, methods, schedules

WARMUP, EPSILON, STEP = 4, 16.0, 6.0
IMAGES = np.random.default_rng(0).uniform(60, 200, (4, 4, 4, 1)).astype(np.float32)
LABELS = tf.constant([0, 1, 2, 0])
# Of steps 0 to 5: nothing, a quarter, a half, three quarters, and all from then on.
SHARES = np.minimum(np.arange(6) / WARMUP, 1)


@pytest.mark.parametrize("warmup", [1, 7, 100])
def test_the_share_is_the_step_over_the_warm_up_and_then_all(warmup):
    steps = np.array([0, 1, 3, warmup - 1, warmup, warmup + 1, 10**6])
    found = [float(schedules.attack_share(tf.constant(step), warmup)) for step in steps]
    np.testing.assert_allclose(found, np.where(steps < warmup, steps / warmup, 1), rtol=1e-6)


def network():
    keras.utils.set_random_seed(2)
    pixels = keras.Input((4, 4, 1))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 64, -2)(pixels))
    x = keras.layers.ReLU()(keras.layers.Dense(5)(x))
    return keras.Model(pixels, keras.layers.Dense(3)(x))


def distances(made, steps, norm="linf"):
    """Takes single steps of a trainer; returns how far each of them moved the images."""
    plain, found = made.objective, []

    def recording(net, images, adversarial, labels):
        moved = np.reshape(adversarial - images, [4, -1])
        found.append(np.max(np.abs(moved) if norm == "linf" else np.linalg.norm(moved, axis=1)))
        return plain(net, images, adversarial, labels)

    made.objective = recording
    for _ in range(steps):
        made.train_step((tf.constant(IMAGES), LABELS))
    made.objective = plain
    return found


def trainer(method, steps=3, **options):
    attack = attacks.PGD(epsilon=EPSILON, step_size=STEP, steps=steps, **options)
    made = method.trainer(
        network(), attack, batch_size=4, validation_attack=attack, epsilon_warmup_steps=WARMUP
    )
    made.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    return made


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_step_size_and_ball_grow_together_from_nothing(norm):
    one = trainer(methods.make("pgd_at"), steps=1, random_start=False, norm=norm)
    np.testing.assert_allclose(distances(one, 6, norm), STEP * SHARES, rtol=1e-4)
    many = trainer(methods.make("pgd_at"), steps=5, norm=norm)
    np.testing.assert_allclose(distances(many, 6, norm), EPSILON * SHARES, rtol=1e-4)
    assert (many.attack.epsilon, many.validation_attack.epsilon) == (EPSILON, EPSILON)


def test_every_method_attacks_in_the_grown_ball():
    for name in ("trades", "mart"):
        found = distances(trainer(methods.make(name), steps=5), 6)
        np.testing.assert_allclose(found, EPSILON * SHARES, rtol=1e-4)
    view = trainer(methods.make("pgd_at", attack_gradient="softplus"), steps=5)
    np.testing.assert_allclose(distances(view, 6), EPSILON * SHARES, rtol=1e-4)
    # Of a replay the images are those that the one before moved, by its share.
    free, expected = trainer(methods.make("free"), random_start=False), [0]
    free.step_size = 2 * STEP  # the second step stays in the ball, and the third would leave it
    for share in SHARES[:-1]:
        expected.append(min(expected[-1] + 2 * STEP * share, EPSILON * share))
    np.testing.assert_allclose(distances(free, 6), expected, rtol=1e-4)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_that_goes_on_at_a_step_has_that_steps_share(step):
    made = trainer(methods.make("pgd_at"), steps=5)
    distances(made, step)
    state = [variable.numpy() for variable in made.state]
    again = trainer(methods.make("pgd_at"), steps=5)
    for variable, value in zip(again.state, state, strict=True):
        variable.assign(value)
    assert distances(again, 1) == distances(made, 1)
    for one, other in zip(made.state, again.state, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_a_warm_up_the_attack_is_asked_as_before():
    def attack(network, images, labels, seed):  # takes no share
        return images + 1.0

    made = AdversarialTrainer(network(), attack)
    made.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    assert distances(made, 2) == [1.0, 1.0]
