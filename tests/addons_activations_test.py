"""The activations of TensorFlow Addons against formulas in float64, and the one that is random."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import activations, injection, loading
from sat_tf.addons import opening
from sat_tf.addons.activations import PARAMETERS
from sat_tf.attacks import PGD, noise
from sat_tf.training import AdversarialTrainer
from tests.addons import installed, without_addons

# Zero, and no point at which a derivative jumps.
GRID = np.concatenate([-np.geomspace(1e-3, 30, 99), [0.0], np.geomspace(1e-3, 30, 99)])


def _phi(x):
    return np.vectorize(lambda t: 0.5 * math.erfc(-t / math.sqrt(2)))(x)


def _gelu_tanh(x):
    slope = math.sqrt(2 / math.pi)
    u = slope * (x + 0.044715 * x**3)
    du = slope * (1 + 3 * 0.044715 * x**2)
    gate = np.exp(-np.logaddexp(0, -2 * u))
    return x * gate, gate + x * du * 2 * gate * np.exp(-np.logaddexp(0, 2 * u))


def _mish(x):
    gate = np.tanh(np.logaddexp(0, x))
    return x * gate, gate + x * (1 - gate**2) * np.exp(-np.logaddexp(0, -x))


def _hard(x, lower, upper):
    outside = (x < lower) | (x > upper)
    return x * outside, outside.astype(float)


def _soft(x, lower, upper):
    value = np.where(x < lower, x - lower, np.where(x > upper, x - upper, 0))
    return value, ((x < lower) | (x > upper)).astype(float)


def _leaky(x, slope):
    return np.where(x >= 0, x, slope * x), np.where(x >= 0, 1, slope)


def _snake(x, frequency):
    return x + np.sin(frequency * x) ** 2 / frequency, 1 + np.sin(2 * frequency * x)


ORACLES = {
    "gelu": _gelu_tanh,
    "gelu:approximate=0": lambda x: (
        x * _phi(x),
        _phi(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
    ),
    "hardshrink": lambda x: _hard(x, -0.5, 0.5),
    "hardshrink:lower=-0.25,upper=0.75": lambda x: _hard(x, -0.25, 0.75),
    "lisht": lambda x: (x * np.tanh(x), np.tanh(x) + x / np.cosh(x) ** 2),
    "mish": _mish,
    "rrelu": lambda x: _leaky(x, 11 / 48),
    "rrelu:lower=0.1,upper=0.5": lambda x: _leaky(x, 0.3),
    "snake": lambda x: _snake(x, 1),
    "snake:frequency=2": lambda x: _snake(x, 2),
    "softshrink": lambda x: _soft(x, -0.5, 0.5),
    "softshrink:lower=-1.5,upper=0.75": lambda x: _soft(x, -1.5, 0.75),
    "tanhshrink": lambda x: (x - np.tanh(x), np.tanh(x) ** 2),
}


def value_and_slope(spec, x, dtype):
    layer = activations.make(f"tfa:{spec}")
    layer.dtype_policy = keras.DTypePolicy(dtype)
    x = tf.constant(x, dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    assert y.dtype == x.dtype and y.shape == x.shape
    return [tf.cast(t, tf.float64).numpy() for t in (y, tape.gradient(y, x))]


def test_every_activation_has_an_oracle():
    assert {spec.partition(":")[0] for spec in ORACLES} == set(PARAMETERS)


@installed
@pytest.mark.parametrize("spec", ORACLES)
def test_values_and_derivatives_are_those_of_the_formula(spec):
    # In float64 some constants of TensorFlow and of Addons are rounded to float32.
    for dtype, tolerance in (("float64", 5e-8), ("float32", 4e-6)):
        for ours, oracle in zip(
            value_and_slope(spec, GRID, dtype), ORACLES[spec](GRID), strict=True
        ):
            np.testing.assert_allclose(ours, oracle, rtol=tolerance, atol=tolerance)


@installed
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("spec", ORACLES)
def test_half_precision_is_rounded_once(spec, dtype):
    x = tf.cast(tf.constant(GRID, dtype), tf.float64).numpy()
    for ours, oracle in zip(value_and_slope(spec, x, dtype), ORACLES[spec](x), strict=True):
        ulp = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
        np.testing.assert_allclose(ours, oracle, rtol=1.01 * ulp, atol=1e-5)


def slopes(layer, count=4000):
    return -layer(-tf.ones(count)).numpy()


@installed
def test_rrelu_draws_in_a_step_of_training_from_its_seed_and_nowhere_else():
    layer = activations.make("tfa:rrelu:lower=0.1,upper=0.5")
    seed = tf.constant([3, 4])
    with activations.drawing(seed):
        first, second = slopes(layer), slopes(layer)
    with activations.drawing(seed):
        again = slopes(layer)
    with activations.drawing(noise.fold_in(seed, 1)):
        later = slopes(layer)
    np.testing.assert_array_equal(first, again)
    for other in (second, later):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.06  # 4 deviations of independent ones
    assert 0.1 <= first.min() < 0.101 and 0.499 < first.max() < 0.5
    assert abs(first.mean() - 0.3) < 0.008  # 4 deviations of a mean
    np.testing.assert_allclose(slopes(layer), 0.3, rtol=1e-6)


def small(activation):
    keras.utils.set_random_seed(1)
    pixels = keras.Input((3, 3, 1))
    x = keras.layers.Rescaling(1 / 255, -0.5)(pixels)
    x = activations.make(activation)(keras.layers.Dense(5)(keras.layers.Flatten()(x)))
    return keras.Model(pixels, keras.layers.Dense(3)(x))


@installed
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_step_meets_drawn_slopes_and_its_attack_the_mean(pieces):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (6, 3, 3, 1)).astype(np.float32)
    labels = rng.integers(0, 3, 6).astype(np.int32)
    attack = PGD(epsilon=16, step_size=6, steps=2, random_start=False)
    trainer = AdversarialTrainer(small("tfa:rrelu"), attack, seed=7)
    trainer.compile(keras.optimizers.SGD(0.5), gradient_accumulation=pieces)
    trainer.fit(images, labels, batch_size=6, epochs=2, shuffle=False, verbose=0)

    # By hand: the seed of the run, the step, the piece, and -1 for the first call that draws.
    mean = small("tfa:rrelu")
    weights = [tf.Variable(w.value) for w in mean.trainable_variables]
    for step in range(2):
        total = [0.0] * 4
        for piece in range(pieces):
            seed = [7, 0]
            for data in (step, piece, -1):
                seed = tf.random.experimental.stateless_fold_in(seed, data)
            some = slice(piece * 6 // pieces, (piece + 1) * 6 // pieces)
            mean.set_weights(weights)
            adversarial = attack(mean, images[some], labels[some])
            with tf.GradientTape() as tape:
                hidden = tf.reshape(adversarial, [-1, 9]) / 255 - 0.5
                hidden = hidden @ weights[0] + weights[1]
                slope = tf.random.stateless_uniform(hidden.shape, seed, 0.125, 1 / 3)
                hidden = tf.where(hidden >= 0, hidden, slope * hidden)
                truth = tf.gather(
                    tf.nn.log_softmax(hidden @ weights[2] + weights[3]), labels[some], batch_dims=1
                )
                loss = -tf.reduce_sum(truth) / 6
            total = [a + b for a, b in zip(total, tape.gradient(loss, weights), strict=True)]
        for weight, gradient in zip(weights, total, strict=True):
            weight.assign_sub(0.5 * gradient)
    for ours, oracle in zip(trainer.network.get_weights(), weights, strict=True):
        np.testing.assert_allclose(ours, oracle, atol=1e-6)


@installed
def test_a_saved_network_says_its_activation_and_is_injected_into(tmp_path):
    network = injection.inject(small("relu"), "tfa:snake:frequency=2")
    assert list(injection.hidden_activations(network).values()) == ["tfa:snake:frequency=2"]
    network.save(tmp_path / "mine.keras")
    images = np.linspace(0, 255, 18, dtype=np.float32).reshape(2, 3, 3, 1)
    loaded = loading.load(str(tmp_path / "mine.keras"))
    np.testing.assert_array_equal(loaded(images), network(images))


@installed
def test_a_saved_network_without_addons_says_what_is_missing(tmp_path, monkeypatch):
    small("tfa:mish").save(tmp_path / "mine.keras")
    with without_addons(monkeypatch):
        with pytest.raises(ValueError, match="mine.keras .* model: tensorflow-addons is not ins"):
            loading.load(str(tmp_path / "mine.keras"))


def test_what_is_missing_is_said_in_one_line(monkeypatch):
    with without_addons(monkeypatch):
        with pytest.raises(ValueError, match="addons is not .* -r requirements-addons.txt") as told:
            activations.make("tfa:mish")
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("Mish", "'tfa:Mish'; use one of: tfa:gelu, .*tfa:mish"),
        ("", "'tfa:'; use one of"),
        ("sparsemax", "over the channels"),
        ("mish:beta=1", "parameters: none"),
        ("snake:f=1", "parameters: frequency"),
        ("snake:frequency=fast", "not a finite number"),
        ("softshrink:lower=1", "lower=1 is above upper=0.5"),
        ("gelu:approximate=2", "use 0 or 1"),
    ],
)
def test_wrong_names_and_parameters_are_named_whether_addons_is_there_or_not(spec, words):
    with pytest.raises(ValueError, match=words):
        activations.make(f"tfa:{spec}")


def test_the_ends_of_what_is_shrunk_may_be_one(monkeypatch):
    with without_addons(monkeypatch):
        with pytest.raises(ValueError, match="-r requirements-addons.txt"):  # nothing else is wrong
            activations.make("tfa:softshrink:lower=0.5")


def test_addons_is_not_opened_for_other_names():
    opening.tensorflow_addons.cache_clear()
    activations.make("mish")
    assert opening.tensorflow_addons.cache_info().misses == 0
