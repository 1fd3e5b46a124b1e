"""The optimisers of TensorFlow Addons against steps written out in NumPy, inside Keras 3."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.addons import optimizer_specs, optimizers
from sat_tf.addons.legacy import LegacyOptimizer
from sat_tf.addons.opening import tensorflow_addons
from sat_tf.attacks import PGD
from sat_tf.runs import checkpoints, distribution
from sat_tf.training import AdversarialTrainer, schedules
from sat_tf.training.objectives import KERNELS
from tests.addons import installed, without_addons

STEPS, DECAY = 9, 0.02
RATES = 0.05 * (1 - np.arange(STEPS) / STEPS)  # one_cycle without warm-up
SCHEDULE = schedules.Schedule("one_cycle", peak=0.05, num_steps=STEPS)


def is_kernel(weight):
    return weight.name.endswith(KERNELS)


def gradient(step, shape):
    """Returns a gradient that changes its sign and its size from step to step."""
    places = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    return np.cos(places * (step + 1.0)) * (0.3 + step / STEPS) + 0.1


# Every oracle: (state of a weight, weight, gradient, rate, step from 1, decay) -> weight.


def sgd(state, w, g, rate, t, decay, momentum=0.9, nesterov=True):
    state["v"] = momentum * state.get("v", 0) - rate * g
    return w + (momentum * state["v"] - rate * g if nesterov else state["v"])


def sgdw(state, w, g, rate, t, decay):
    return sgd(state, w - rate * decay * w, g, rate, t, 0)


def moments(state, g, t, b1, b2):
    m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
    v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * g**2
    return m / (1 - b1**t), v / (1 - b2**t)


def adamw(state, w, g, rate, t, decay, b1=0.9, b2=0.999):
    m, v = moments(state, g, t, b1, b2)
    w = w - rate * decay * w
    return w - rate * m / (np.sqrt(v) + 1e-7 / np.sqrt(1 - b2**t))


def lamb(state, w, g, rate, t, decay, b1=0.9, b2=0.999, epsilon=1e-6):
    m, v = moments(state, g, t, b1, b2)
    update = m / (np.sqrt(v) + epsilon) + decay * w
    if not decay:  # a bias: neither decayed nor scaled by its norm
        return w - rate * update
    return w - rate * np.linalg.norm(w) / np.linalg.norm(update) * update


def rectification(t, b2):
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * t * b2**t / (1 - b2**t)
    if length < 5:
        return None
    above = (length - 4) * (length - 2) * longest
    return np.sqrt(above / ((longest - 4) * (longest - 2) * length))


def rectified_adam(state, w, g, rate, t, decay, b1=0.9, b2=0.999):
    m, v = moments(state, g, t, b1, b2)
    r = rectification(t, b2)
    return w - rate * (m if r is None else r * m / (np.sqrt(v) + 1e-7))


def adabelief(state, w, g, rate, t, decay, b1=0.9, b2=0.999, rectify=True, epsilon=1e-14):
    m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
    v = state["s"] = b2 * state.get("s", 0) + (1 - b2) * (g - m) ** 2 + epsilon
    m, v = m / (1 - b1**t), v / (1 - b2**t)
    r = rectification(t, b2) if rectify else 1
    return w - rate * (m if r is None else r * m / (np.sqrt(v) + epsilon))


def novograd(state, w, g, rate, t, decay, b1=0.9, b2=0.999):
    size = np.sum(g**2)
    v = state["v"] = size if t == 1 else b2 * state["v"] + (1 - b2) * size
    state["m"] = b1 * state.get("m", 0) - rate * g / (np.sqrt(v) + 1e-7)
    return w + state["m"]


def yogi(state, w, g, rate, t, decay, b1=0.9, b2=0.999, epsilon=1e-3, start=1e-6):
    m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
    v = state.get("v", start)
    v = state["v"] = v + (1 - b2) * np.sign(g**2 - v) * g**2
    rate = rate * np.sqrt(1 - b2**t) / (1 - b1**t)
    return w - rate * m / (np.sqrt(v) + epsilon)


def lookahead(state, w, g, rate, t, decay, inner=sgd, period=6, size=0.5):
    slow = state.setdefault("slow", w)
    w = inner(state, w, g, rate, t, decay)
    if t % period == 0:
        w = state["slow"] = slow + size * (w - slow)
    return w


def swa(state, w, g, rate, t, decay, start=0, period=10):
    w = sgd(state, w, g, rate, t, decay)
    if t > start and (t - 1 - start) % period == 0:
        state.setdefault("seen", []).append(w)
    return w


def adjusted(oracle, **values):
    return lambda *given: oracle(*given, **values)


ORACLES = {
    "tfa:AdaBelief": adabelief,
    "tfa:AdaBelief:rectify=false,beta_1=0.8,epsilon=1e-8": adjusted(
        adabelief, rectify=False, b1=0.8, epsilon=1e-8
    ),
    "tfa:AdamW": adamw,
    "tfa:AdamW:beta_1=0.7,beta_2=0.9": adjusted(adamw, b1=0.7, b2=0.9),
    "tfa:LAMB": lamb,
    "tfa:LAMB:beta_2=0.9,epsilon=0.01": adjusted(lamb, b2=0.9, epsilon=0.01),
    "tfa:NovoGrad": novograd,
    "tfa:NovoGrad:beta_1=0.8,beta_2=0.5": adjusted(novograd, b1=0.8, b2=0.5),
    "tfa:RectifiedAdam": rectified_adam,
    "tfa:RectifiedAdam:beta_2=0.9": adjusted(rectified_adam, b2=0.9),
    "tfa:SGDW": sgdw,
    "tfa:Yogi": yogi,
    "tfa:Yogi:beta1=0.5,epsilon=0.1,initial_accumulator_value=0.01": adjusted(
        yogi, b1=0.5, epsilon=0.1, start=0.01
    ),
    "tfa:Lookahead(sgd)": lookahead,
    "tfa:Lookahead( tfa:LAMB:beta_1=0.5 ) : sync_period=2,slow_step_size=0.25": adjusted(
        lookahead, inner=adjusted(lamb, b1=0.5), period=2, size=0.25
    ),
    "tfa:SWA(sgd)": swa,
    "tfa:SWA(sgd):start_averaging=2,average_period=3": adjusted(swa, start=2, period=3),
}


def test_every_optimizer_has_an_oracle():
    assert {optimizers.name_of(spec) for spec in ORACLES} == set(optimizers.NAMES)


def stepped(make, strategy="one_device"):
    """Takes the steps in a graph; returns the weights and their optimiser."""
    strategy = distribution.strategy(strategy)
    with strategy.scope():
        weights = [
            keras.Variable(gradient(3, (2, 3)).astype(np.float32), name="first_kernel"),
            keras.Variable(np.float32([1.0, -0.5, 0.25]), name="bias"),
        ]
        optimizer = make()
        optimizer.build(weights)
    inputs = [tf.constant([gradient(s, w.shape) for s in range(STEPS)]) for w in weights]

    @tf.function(autograph=False)
    def steps():
        def step():
            pick = optimizer.iterations.value
            parts = tf.distribute.get_replica_context().num_replicas_in_sync
            found = [tf.cast(g[pick], tf.float32) / parts for g in inputs]
            optimizer.apply_gradients(zip(found, weights, strict=True))

        strategy.run(step)

    for _ in range(STEPS):
        steps()
    return weights, optimizer


def made(spec):
    return optimizers.make(spec, SCHEDULE, weight_decay=DECAY, decays=is_kernel)


@installed
@pytest.mark.parametrize("strategy", ["one_device", "mirrored"])
@pytest.mark.parametrize("spec", ORACLES)
def test_steps_are_those_written_out(spec, strategy):
    weights, optimizer = stepped(lambda: made(spec), strategy)
    start = [gradient(3, (2, 3)), np.array([1.0, -0.5, 0.25])]
    for weight, w, decay in zip(weights, start, (DECAY, 0), strict=True):
        state = {}
        for step in range(STEPS):
            g = gradient(step, w.shape)
            w = ORACLES[spec](state, w, g, RATES[step], step + 1, decay)
        np.testing.assert_allclose(weight, w, rtol=3e-5, atol=3e-6)
        if "seen" in state:
            average = optimizer.averaged(weight)
            np.testing.assert_allclose(average, np.mean(state["seen"], 0), rtol=1e-5, atol=1e-6)


@installed
def test_before_the_first_snapshot_the_average_is_the_weight():
    weights, optimizer = stepped(lambda: made("tfa:SWA(sgd):start_averaging=50"))
    for weight in weights:
        np.testing.assert_array_equal(optimizer.averaged(weight), weight)


@installed
def test_options_and_their_defaults_are_those_of_addons():
    for name, options in optimizer_specs.OPTIONS.items():
        signature = inspect.signature(getattr(tensorflow_addons().optimizers, name)).parameters
        assert options == {key: signature[key].default for key in options}, name


class Momentum:
    """A legacy optimiser as small as one can be: `v <- m v - rate g`, `w <- w + v`."""

    def __init__(self, learning_rate, momentum):
        self.rate, self.momentum = learning_rate, momentum

    def _create_hypers(self):
        pass

    def _create_slots(self, weights):
        for weight in weights:
            self.add_slot(weight, "velocity")

    def _resource_apply_dense(self, gradient, weight):
        velocity = self.get_slot(weight, "velocity")
        velocity.assign(self.momentum * velocity - self.rate() * gradient)
        weight.assign_add(velocity)


def momentum():
    return LegacyOptimizer(
        SCHEDULE, lambda bridge: bridge.class_of(Momentum)(bridge.learning_rate, 0.8)
    )


ATTACK = PGD(epsilon=16, step_size=8, steps=1)


def trainer_of(optimizer, strategy="one_device", **options):
    keras.utils.set_random_seed(1)
    with distribution.strategy(strategy).scope():
        pixels = keras.Input((4, 4, 1))
        x = keras.layers.Conv2D(3, 3)(keras.layers.Rescaling(1 / 255)(pixels))
        x = keras.layers.Activation("swish")(keras.layers.BatchNormalization(momentum=0.5)(x))
        logits = keras.layers.Dense(3)(keras.layers.Flatten()(x))
        trainer = AdversarialTrainer(keras.Model(pixels, logits, name="small"), ATTACK, seed=2)
        trainer.compile(optimizer(), **options)
    return trainer


def fit(trainer, first, steps):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (STEPS, 4, 4, 4, 1)).astype(np.float32)[first : first + steps]
    labels = rng.integers(0, 3, (STEPS, 4)).astype(np.int32)[first : first + steps]
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    trainer.fit(data, shuffle=False, verbose=0)
    return trainer


def values(variables):
    return [keras.ops.convert_to_numpy(variable.value) for variable in variables]


@pytest.mark.parametrize(
    ("strategy", "precision", "options"),
    [
        ("one_device", "mixed_float16", {"gradient_accumulation": 2, "ema_decay": 0.5}),
        ("mirrored", "float32", {}),
    ],
)
def test_a_legacy_optimizer_trains_as_the_same_rule_of_keras_3(strategy, precision, options):
    keras.mixed_precision.set_global_policy(precision)

    def native():
        return keras.optimizers.SGD(SCHEDULE, momentum=0.8)

    try:
        ours, theirs = (
            fit(trainer_of(make, strategy, weight_decay=0.1, **options), 0, 4)
            for make in (momentum, native)
        )
    finally:
        keras.mixed_precision.set_global_policy("float32")
    for one, other in zip(values(ours.state), values(theirs.state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


RESUMED = {
    "momentum": momentum,
    **{
        spec: lambda spec=spec: made(spec)
        for spec in ("tfa:Lookahead(tfa:LAMB):sync_period=2", "tfa:SWA(sgd):average_period=2")
    },
}


@pytest.mark.parametrize(
    "spec",
    [pytest.param(one, marks=installed if one.startswith("tfa:") else ()) for one in RESUMED],
)
def test_a_resumed_run_ends_in_the_same_bits(spec, tmp_path):
    whole = fit(trainer_of(RESUMED[spec]), 0, 5)
    first = fit(trainer_of(RESUMED[spec]), 0, 3)
    checkpoints.save(tmp_path, 3, first.state, {})
    second = trainer_of(RESUMED[spec])
    assert checkpoints.restore(tmp_path, second.state) == (3, {})
    fit(second, 3, 2)
    for one, other in zip(values(whole.state), values(second.state), strict=True):
        np.testing.assert_array_equal(one, other)


@installed
def test_decay_inside_sgdw_without_momentum_is_decay_in_the_loss():
    def inside():
        return optimizers.make(
            "tfa:SGDW", SCHEDULE, momentum=0, nesterov=False, weight_decay=0.5, decays=is_kernel
        )

    one = fit(trainer_of(inside), 0, 4)
    other = fit(trainer_of(lambda: keras.optimizers.SGD(SCHEDULE), weight_decay=0.5), 0, 4)
    for ours, theirs in zip(
        values(one.network.weights), values(other.network.weights), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@installed
@pytest.mark.parametrize("strategy", ["one_device", "mirrored"])
def test_swa_validates_and_exports_the_average(strategy):
    trainer = fit(trainer_of(lambda: made("tfa:SWA(sgd):average_period=2"), strategy), 0, 5)
    kept = {id(w): trainer.optimizer.averaged(w) for w in trainer.network.trainable_variables}
    assert trainer.best_network is not trainer.network and len(kept) == 6
    pairs = zip(trainer.best_network.weights, trainer.network.weights, strict=True)
    for best, last in pairs:
        np.testing.assert_array_equal(best, kept.get(id(last), last))
    moved = [np.abs(kept[id(w)] - w.numpy()).max() for w in trainer.network.trainable_variables]
    assert sorted(moved)[1] > 1e-3  # a bias before batch norm stands still


@installed
def test_swa_and_ema_exclude_each_other():
    with pytest.raises(ValueError, match="SWA averages the weights.*ema_decay=0.9; set that to 0"):
        trainer_of(lambda: made("tfa:SWA(sgd)"), ema_decay=0.9)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("tfa:lamb", "'tfa:lamb'; use one of: sgd, tfa:AdaBelief, .*tfa:SWA"),
        ("adam", "'adam'; use one of: sgd"),
        ("tfa:LAMB(sgd)", "tfa:LAMB wraps no other one"),
        ("tfa:SWA", r"tfa:SWA wraps another one: write tfa:SWA\(sgd\)"),
        ("tfa:SWA()", "is not NAME"),
        ("tfa:SWA(sgd", "is not NAME"),
        ("tfa:SWA(sgd)x=1", "is not NAME"),
        ("tfa:SWA(sgd))", "is not NAME|use one of"),
        ("tfa:SWA(tfa:Lookahead(tfa:SWA(sgd)))", "wraps itself"),
        ("tfa:SWA(adam)", "'adam'; use one of: sgd"),
        ("tfa:LAMB:beta=1", "no option 'beta'; options: beta_1, beta_2, epsilon"),
        ("tfa:SGDW:momentum=0.5", "no option 'momentum'; options: none"),
        ("tfa:LAMB:beta_1=1", "beta_1='1'; give a number from 0 to below 1"),
        ("tfa:LAMB:beta_1=nan", "beta_1='nan'; give a number"),
        ("tfa:Lookahead(sgd):sync_period=2.5", "sync_period='2.5'; give a whole number from 1"),
        ("tfa:AdaBelief:rectify=2", "rectify='2'; give true or false"),
    ],
)
def test_wrong_specs_are_named(spec, words):
    with pytest.raises(ValueError, match=words):
        optimizers.parse(spec)


def test_a_spec_says_its_options_and_who_decays():
    spec = optimizers.parse("tfa:Lookahead(tfa:SGDW) : sync_period=3")
    assert spec.options == {"sync_period": 3, "slow_step_size": 0.5} and spec.inner.name == "SGDW"
    assert spec.decays and not optimizers.parse("tfa:SWA(sgd)").decays
    assert not optimizers.parse("sgd").decays


def test_what_is_missing_is_said_before_anything_is_built(monkeypatch):
    with without_addons(monkeypatch):
        with pytest.raises(ValueError, match="tensorflow-addons is not installed"):
            made("tfa:LAMB")
