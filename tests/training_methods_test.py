import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks
from sat_tf.attacks.divergence import DivergencePGD
from sat_tf.training import awp, gradient_quality, methods, objectives
from sat_tf.training.free import FreeTrainer
from sat_tf.training.methods import make

LABELS = np.arange(8, dtype=np.int32) % 3
IMAGES = np.random.default_rng(0).uniform(0, 255, (8, 4, 4, 1)).astype(np.float32)


def network():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def pgd(**options):
    return attacks.PGD(**{"epsilon": 8.0, "step_size": 4.0, "steps": 2, **options})


def trainer(method, attack=None, **options):
    options.setdefault("batch_size", 4)
    return method.trainer(network(), attack or pgd(), validation_attack=pgd(), **options)


@pytest.mark.parametrize("name", methods.METHODS)
@pytest.mark.parametrize("extra", [{}, {"awp_gamma": 0.01}, "gradients"])
def test_every_method_trains_beside_every_option(name, extra):
    if extra == "gradients":
        extra = {"attack_gradient": "softplus", "update_gradient": "softplus"}
    method = make(name, **extra)
    made = trainer(method)
    made.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    before = made.network.get_weights()

    def load(start):
        data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4, drop_remainder=True)
        return data.skip(start).repeat()

    history = made.fit(method.batches(load, 0), steps_per_epoch=3, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"]).all() and int(made.optimizer.iterations) == 3
    assert np.abs(made.network.get_weights()[0] - before[0]).max() > 0


def test_trades_attacks_the_divergence_in_the_ball_of_the_given_attack():
    made = trainer(make("trades"), pgd(norm="l2", batch_norm="batch"))
    assert type(made.attack) is DivergencePGD
    settings = vars(made.attack) | {"random_start": True}
    assert settings == {**vars(pgd(norm="l2", batch_norm="batch")), "start_deviation": 0.255}


def test_free_takes_ball_and_step_size_and_reads_each_batch_several_times():
    method = make("free", replays=3)
    made = trainer(method)
    assert type(made) is FreeTrainer and (made.epsilon, made.step_size) == (8.0, 4.0)

    def load(start):
        return tf.data.Dataset.range(start, 4).map(lambda x: (x,))

    assert [int(x) for (x,) in method.batches(load, 4)] == [1, 1, 2, 2, 2, 3, 3, 3]
    assert [int(x) for (x,) in make("pgd_at").batches(load, 2)] == [2, 3]


def losses(name, beta):
    answers = iter([np.eye(3), np.eye(3)[::-1]])

    def given(images, training):
        return tf.constant(next(answers), tf.float32)

    return trainer(make(name, beta=beta)).objective(given, None, None, tf.range(3))[0].numpy()


@pytest.mark.parametrize("name, default", [("trades", 6.0), ("mart", 5.0)])
def test_the_loss_is_linear_in_beta_with_the_default_of_the_paper(name, default):
    none, one, paper = (losses(name, beta) for beta in (0.0, 1.0, None))
    np.testing.assert_allclose(paper - none, default * (one - none), rtol=1e-5)
    assert one[0] > none[0]


def gradient(objective, network):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(objective(network, IMAGES, 255 - IMAGES, LABELS)[0])
    return loss.numpy(), tape.gradient(loss, network.trainable_variables)[0].numpy()


@pytest.mark.parametrize("name", ["pgd_at", "trades"])
def test_smoothing_adds_its_share_of_the_other_classes(name):
    answers = np.float32([[2.0, -1.0, 0.5]] * 8)
    beta = 2.0 if name == "trades" else None

    def given(images, training):
        return tf.constant(answers)

    made = trainer(make(name, beta=beta), label_smoothing=0.2)
    losses = made.objective(given, None, None, tf.constant(LABELS))[0]
    log_p = answers - np.log(np.exp(np.float64(answers)).sum(1, keepdims=True))
    expected = -0.8 * log_p[np.arange(8), LABELS] - 0.2 * log_p.mean(1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["pgd_at", "trades", "mart", "free"])
def test_the_gradient_of_every_method_changes_with_each_of_its_settings(name):
    settings = [{}, {"awp_gamma": 0.01}, {"awp_gamma": 0.02}]
    gradients = {"update_gradient": "softplus"}
    if name == "free":
        gradients["attack_gradient"] = "softplus"
    settings += [gradients, gradients | {"awp_gamma": 0.01}]
    if name in ("trades", "mart"):
        settings += [{"beta": 1.0}, {"beta": 2.0}]
    keras.utils.set_random_seed(3)
    net, found = network(), []
    for setting in settings:
        made = make(name, **setting).trainer(net, pgd(), batch_size=8, validation_attack=pgd())
        found.append(gradient(made.objective, net)[1])
        norm = np.linalg.norm(found[0])
    for i, one in enumerate(found):
        for other in found[:i]:
            assert np.linalg.norm(one - other) > 1e-3 * norm


def test_a_perturbation_twice_as_large_raises_the_loss_twice_as_much():
    keras.utils.set_random_seed(3)
    net = network()
    none, one, two = (
        gradient(
            make("pgd_at", awp_gamma=gamma)
            .trainer(net, pgd(), batch_size=8, validation_attack=pgd())
            .objective,
            net,
        )[0]
        for gamma in (0.0, 1e-3, 2e-3)
    )
    assert one > none and (two - none) / (one - none) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(
    "make, hint",
    [
        (lambda: make("tradse"), "use one of: pgd_at, trades, mart, free"),
        (lambda: make("pgd_at", beta=6.0), "beta is of trades and mart"),
        (lambda: make("mart", replays=4), "replays is of free"),
        (lambda: make("free", replays=0), "number of replays is 0"),
        (lambda: make("free", update_gradient="softplus"), "give both the same gradient"),
        (lambda: trainer(make("free"), pgd(norm="l2")), "knows the norm linf, not l2"),
        (lambda: trainer(make("free"), attacks.identity), "free needs a ball"),
        (lambda: trainer(make("trades"), attacks.identity), "trades needs a ball"),
        (lambda: trainer(make("trades"), pgd(random_start=False)), "leave --random_start on"),
        (lambda: trainer(make("mart"), label_smoothing=0.1), "mart has no label smoothing"),
        (lambda: trainer(make("pgd_at", awp_gamma=-1.0)), "gamma is -1.0"),
        (
            lambda: trainer(make("pgd_at", attack_gradient="softplus"), attacks.identity),
            "attack_gradient needs a ball",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(make, hint):
    with pytest.raises(ValueError, match=hint):
        make()


def objective_of(smoothing=0.0, name="pgd_at", **settings):
    """Makes the objective of a method; returns the losses of the images and their gradients."""
    keras.utils.set_random_seed(3)
    net = network()
    made = make(name, **settings).trainer(
        net, pgd(), validation_attack=pgd(), batch_size=8, label_smoothing=smoothing
    )
    return net, made.objective


def gradients(net, objective):
    near = np.clip(
        IMAGES + 9 * np.sign(np.sin(np.arange(IMAGES.size))).reshape(IMAGES.shape), 0, 255
    )
    with tf.GradientTape() as tape:
        losses, _ = objective(net, tf.constant(IMAGES), tf.constant(near, tf.float32), LABELS)
        loss = tf.reduce_mean(losses)
    slopes = tape.gradient(loss, net.trainable_variables)
    return np.concatenate([np.ravel(losses), *(np.ravel(slope) for slope in slopes)])


VARIANTS = {
    "plain": ({}, lambda: objectives.adversarial_cross_entropy()),
    "smooth": ({"smoothing": 0.2}, lambda: objectives.adversarial_cross_entropy(0.2)),
    "awp": (
        {"awp_gamma": 0.05},
        lambda: awp.perturbed(objectives.adversarial_cross_entropy(), 0.05),
    ),
    "awp of smooth": (
        {"awp_gamma": 0.1, "smoothing": 0.2},
        lambda: awp.perturbed(objectives.adversarial_cross_entropy(0.2), 0.1),
    ),
    "trades": ({"name": "trades"}, lambda: objectives.trades(6.0)),
    "trades 2": ({"name": "trades", "beta": 2.0}, lambda: objectives.trades(2.0)),
    "smooth trades": ({"name": "trades", "smoothing": 0.2}, lambda: objectives.trades(6.0, 0.2)),
    "mart": ({"name": "mart"}, lambda: objectives.mart(5.0)),
    "mart 2": ({"name": "mart", "beta": 2.0}, lambda: objectives.mart(2.0)),
    "awp of mart": (
        {"name": "mart", "awp_gamma": 0.05},
        lambda: awp.perturbed(objectives.mart(5.0), 0.05),
    ),
}


@pytest.mark.parametrize(
    "name, setting, default",
    [("trades", "beta", 6), ("mart", "beta", 5), ("pgd_at", "awp_gamma", 0)],
)
def test_a_setting_of_0_is_no_setting_that_is_left_out(name, setting, default):
    assert getattr(make(name, **{setting: 0.0}), setting) == 0.0
    assert getattr(make(name, **{setting: None}), setting) == default


def test_every_setting_makes_an_objective_of_its_own_and_the_one_it_names():
    found = {}
    for name, (settings, written_out) in VARIANTS.items():
        found[name] = gradients(*objective_of(**settings))
        keras.utils.set_random_seed(3)
        np.testing.assert_array_equal(found[name], gradients(network(), written_out()), name)
    free = gradients(*objective_of(name="free", smoothing=0.2))
    np.testing.assert_array_equal(free, found["smooth"])
    for gradient in ("softplus", "parametric_softplus:alpha=3"):
        for extra in ({}, {"awp_gamma": 0.05}):
            settings = {"update_gradient": gradient, **extra}
            found[f"{settings}"] = gradients(*objective_of(**settings))
    rows = np.stack(list(found.values()))
    for i, row in enumerate(rows):
        others = np.delete(rows, i, axis=0)
        assert np.abs(others - row).max(axis=1).min() > 1e-5, list(found)[i]


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_hands_on_what_is_the_trainers(name):
    strong = pgd(steps=9)
    made = make(name).trainer(network(), pgd(), batch_size=4, validation_attack=strong, seed=7)
    assert made.validation_attack is strong and made.seed == 7


def test_trades_attacks_the_divergence_through_the_view_of_the_attack_alone():
    keras.utils.set_random_seed(3)
    net = network()
    made = make("trades", attack_gradient="softplus").trainer(net, pgd(), batch_size=8)
    view = gradient_quality.backward_view(net, "softplus")
    seed = tf.constant([1, 2])
    attack = DivergencePGD(epsilon=8.0, step_size=4.0, steps=2)
    ours = made.attack(net, IMAGES, LABELS, seed)
    np.testing.assert_array_equal(ours, attack(view, IMAGES, LABELS, seed))
    assert np.abs(ours - attack(net, IMAGES, LABELS, seed)).max() > 1


def test_free_takes_eight_replays_unless_told():
    def load(start):
        return tf.data.Dataset.range(start, 4).map(lambda x: (x,))

    assert [int(x) for (x,) in make("free").batches(load, 21)] == [2] * 3 + [3] * 8
    assert [int(x) for (x,) in make("free", replays=1).batches(load, 2)] == [2, 3]
