"""The optimisers of a run and their rates against steps written out in NumPy, in float64."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.runs import distribution
from sat_tf.training import optimizers

STEPS, DECAY = 6, 0.02
RECIPE = {
    "optimizer": "sgd", "learning_rate": 0.05, "learning_rate_base_size": 0, "batch_size": 512,
    "schedule": "one_cycle", "epochs": STEPS, "warmup_epochs": 0, "boundary": [], "factor": 0.1,
    "decay_epochs": 2.4, "decay_factor": 0.97, "momentum": 0.8, "nesterov": True,
    "weight_decay": DECAY, "body_learning_rate_multiplier": 1.0,
}  # fmt: skip
RATES = 0.05 * (1 - np.arange(STEPS) / STEPS)
SHAPES = {"first_kernel": (2, 3), "kernel_scale": (3,), "bias": (3,)}


def given(**values):
    return types.SimpleNamespace(**{**RECIPE, **values})


def gradient(step, shape):
    """Returns a gradient that changes its sign and its size from step to step."""
    places = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    return np.cos(places * (step + 1.0)) * (0.3 + step / STEPS) + 0.1


# Every oracle: (state of a weight, weight, gradient, rate, step from 1) -> weight, without decay.


def sgd(state, w, g, rate, t, momentum=0.8):
    state["v"] = momentum * state.get("v", 0) - rate * g
    return w + momentum * state["v"] - rate * g


def rmsprop(state, w, g, rate, t, rho=0.9, epsilon=1e-7, momentum=0.8):
    state["s"] = rho * state.get("s", 0) + (1 - rho) * g**2
    state["m"] = momentum * state.get("m", 0) + rate * g / np.sqrt(state["s"] + epsilon)
    return w - state["m"]


def moments(state, g, t, b1, b2):
    m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
    v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * g**2
    return m / (1 - b1**t), v / (1 - b2**t)


def adam(state, w, g, rate, t, b1=0.9, b2=0.999, epsilon=1e-7):
    m, v = moments(state, g, t, b1, b2)
    return w - rate * m / (np.sqrt(v) + epsilon / np.sqrt(1 - b2**t))


def lamb(state, w, g, rate, t, b1=0.9, b2=0.999, epsilon=1e-7):
    m, v = moments(state, g, t, b1, b2)
    update = m / (np.sqrt(v) + epsilon)
    return w - rate * np.linalg.norm(w) / np.linalg.norm(update) * update


def lion(state, w, g, rate, t, b1=0.9, b2=0.99):
    m = state.get("m", 0)
    state["m"] = b2 * m + (1 - b2) * g
    return w - rate * np.sign(b1 * m + (1 - b1) * g)


def adjusted(oracle, **values):
    return lambda *given: oracle(*given, **values)


ORACLES = {
    "sgd": sgd,
    "rmsprop": rmsprop,
    "rmsprop:rho=0.7,epsilon=0.001": adjusted(rmsprop, rho=0.7, epsilon=1e-3),
    "adam:beta_1=0.8": adjusted(adam, b1=0.8),
    "adamw": adam,
    "adamw:beta_2=0.95,epsilon=0.01": adjusted(adam, b2=0.95, epsilon=0.01),
    "lamb": lamb,
    "lion:beta_1=0.6,beta_2=0.8": adjusted(lion, b1=0.6, b2=0.8),
}


def test_every_optimizer_of_keras_has_an_oracle():
    assert {spec.partition(":")[0] for spec in ORACLES} == set(optimizers.KERAS)
    assert [name for name in optimizers.OPTIMIZERS if not name.startswith("tfa:")] == list(
        optimizers.KERAS
    )


def stepped(spec, strategy):
    """Takes the steps in a graph; returns the weights."""
    strategy = distribution.strategy(strategy)
    with strategy.scope():
        weights = [
            keras.Variable(gradient(3, shape).astype(np.float32), name=name)
            for name, shape in SHAPES.items()
        ]
        network = types.SimpleNamespace(trainable_variables=weights)
        optimizer = optimizers.make(given(optimizer=spec), 1, network)
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
    return weights


@pytest.mark.parametrize(
    "spec, strategy", [*((spec, "one_device") for spec in ORACLES), ("adamw", "mirrored")]
)
def test_steps_are_those_written_out_and_kernels_alone_are_decayed(spec, strategy):
    decays = spec.partition(":")[0] in ("adamw", "lamb", "lion")
    assert optimizers.decays_itself(spec) == decays
    for weight in stepped(spec, strategy):
        state, w = {}, gradient(3, weight.shape)
        for step, rate in enumerate(RATES):
            g = gradient(step, w.shape)
            if decays and weight.name == "first_kernel":
                w = w - rate * DECAY * w
            w = ORACLES[spec](state, w, g, rate, step + 1)
        np.testing.assert_allclose(weight, w, rtol=3e-5, atol=3e-6)


@pytest.mark.parametrize(
    "batch_size, size, expected", [(512, 0, 0.4), (512, 256, 0.8), (64, 256, 0.1)]
)
def test_the_peak_is_that_of_the_batch_or_grows_with_it(batch_size, size, expected):
    values = given(batch_size=batch_size, learning_rate=0.4, learning_rate_base_size=size)
    assert float(optimizers.schedule(values, 1)(0)) == pytest.approx(expected)


def test_efficientnets_rate_falls_by_three_percent_every_2_4_epochs():
    values = given(
        schedule="exponential", learning_rate=0.016, learning_rate_base_size=256, batch_size=2048,
        epochs=350, warmup_epochs=5,
    )  # fmt: skip
    rate = optimizers.schedule(values, 10)
    t = np.arange(0, 3500, 7)
    expected = 0.128 * np.where(t < 50, (t + 1) / 50, 0.97 ** (t // 24))
    np.testing.assert_allclose([float(rate(int(one))) for one in t], expected, rtol=1e-5)
    changed = given(schedule="exponential", decay_epochs=0.01, decay_factor=0.5)
    found = [float(optimizers.schedule(changed, 10)(t)) for t in (0, 1, 2)]
    assert found == pytest.approx([0.05, 0.025, 0.0125])
    hundred = given(schedule="exponential", decay_epochs=0.29)  # times 100 it is 28.999…
    assert optimizers.schedule(hundred, 100).decay_steps == 29


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optimizer": "sdg"}, "'sdg'; use one of: sgd, rmsprop, adam, adamw, lamb, lion, tfa:"),
        ({"optimizer": "sgd:momentum=0.5"}, "no option 'momentum'; options: none; --momentum and"),
        ({"optimizer": "adamw:beta=0.5"}, "no option 'beta'; options: beta_1, beta_2, epsilon"),
        ({"optimizer": "lion:beta_1=1"}, "beta_1=1; give a number above 0 and below 1"),
        ({"optimizer": "adam:beta_1=nan"}, "beta_1=nan; give a number above 0"),
        ({"optimizer": "adam:beta_1=true"}, "beta_1=True; give a number above 0"),
        ({"optimizer": "lamb", "learning_rate_base_size": 256}, "grows with the square root"),
        ({"optimizer": "tfa:LAMB", "learning_rate_base_size": 256}, "grows with the square root"),
        ({"optimizer": "adamw", "body_learning_rate_multiplier": 0.1}, "one rate for all weights"),
    ],
)
def test_wrong_settings_are_named(values, words):
    network = types.SimpleNamespace(trainable_variables=[])
    with pytest.raises(ValueError, match=words):
        optimizers.make(given(**values), 10, network)


@pytest.mark.parametrize("nesterov", [True, False])
def test_what_is_the_recipes_reaches_an_optimizer_of_addons(nesterov, monkeypatch):
    """Which need not be installed."""
    seen = []
    monkeypatch.setattr(
        optimizers.addons, "make", lambda *given, **options: seen.append((given, options)) or "made"
    )
    values = {"momentum": 0.6, "nesterov": nesterov, "weight_decay": 0.003}
    recipe = given(optimizer="tfa:SGDW", learning_rate=0.4, **values)
    assert optimizers.make(recipe, 1, None) == "made"
    (((spec, rate), options),) = seen
    decays = options.pop("decays")
    assert (spec, float(rate(0))) == ("tfa:SGDW", pytest.approx(0.4)) and options == values
    weights = [types.SimpleNamespace(name=name) for name in SHAPES]
    assert [decays(weight) for weight in weights] == [True, False, False]
    assert optimizers.decays_itself("tfa:SGDW") and not optimizers.decays_itself("tfa:SWA(sgd)")


@pytest.mark.parametrize("spec, decay", [("sgd", DECAY), ("adamw", 0.0), ("adam", DECAY)])
def test_the_body_has_a_rate_of_its_own_where_no_step_decays_by_another(spec, decay, monkeypatch):
    seen = []
    monkeypatch.setattr(optimizers.finetuning, "in_body", lambda network: (network, "the body"))
    monkeypatch.setattr(optimizers.finetuning, "slow_down", lambda *given: seen.append(given))
    network = types.SimpleNamespace(trainable_variables=[])
    for multiplier in (1.0, 0.25):
        values = {"weight_decay": decay, "body_learning_rate_multiplier": multiplier}
        made = optimizers.make(given(optimizer=spec, **values), 1, network)
    assert seen == [(made, (network, "the body"), 0.25)]
