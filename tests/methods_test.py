import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks, methods
from sat_tf.attacks.divergence import DivergencePGD
from sat_tf.free import FreeTrainer
from sat_tf.methods import Method

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


@pytest.mark.parametrize("name", methods.NAMES)
@pytest.mark.parametrize("extra", [{}, {"awp_gamma": 0.01}, "gradients"])
def test_every_method_trains_beside_every_option(name, extra):
    if extra == "gradients":
        extra = {"attack_gradient": "softplus", "update_gradient": "softplus"}
    method = Method(name, **extra)
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
    made = trainer(Method("trades"), pgd(norm="l2", batch_norm="batch"))
    assert type(made.attack) is DivergencePGD
    settings = vars(made.attack) | {"random_start": True}
    assert settings == {**vars(pgd(norm="l2", batch_norm="batch")), "start_deviation": 0.255}


def test_free_takes_ball_and_step_size_and_reads_each_batch_several_times():
    method = Method("free", num_replays=3)
    made = trainer(method)
    assert type(made) is FreeTrainer and (made.epsilon, made.step_size) == (8.0, 4.0)

    def load(start):
        return tf.data.Dataset.range(start, 4).map(lambda x: (x,))

    assert [int(x) for (x,) in method.batches(load, 4)] == [1, 1, 2, 2, 2, 3, 3, 3]
    assert [int(x) for (x,) in Method().batches(load, 2)] == [2, 3]


def losses(name, beta):
    answers = iter([np.eye(3), np.eye(3)[::-1]])

    def given(images, training):
        return tf.constant(next(answers), tf.float32)

    return trainer(Method(name, beta=beta)).objective(given, None, None, tf.range(3))[0].numpy()


@pytest.mark.parametrize("name, default", [("trades", 6.0), ("mart", 5.0)])
def test_the_loss_is_linear_in_beta_with_the_default_of_the_paper(name, default):
    none, one, paper = (losses(name, beta) for beta in (0.0, 1.0, None))
    np.testing.assert_allclose(paper - none, default * (one - none), rtol=1e-5)
    assert one[0] > none[0]


@pytest.mark.parametrize(
    "make, hint",
    [
        (lambda: Method("tradse"), "use one of: pgd_at, trades, mart, free"),
        (lambda: Method("pgd_at", beta=6.0), "beta is of trades and mart"),
        (lambda: Method("mart", num_replays=4), "replays are of free"),
        (lambda: Method("free", num_replays=0), "number of replays is 0"),
        (lambda: Method("free", update_gradient="softplus"), "give both the same gradient"),
        (lambda: trainer(Method("free"), pgd(norm="l2")), "knows the norm linf, not l2"),
        (lambda: trainer(Method("free"), attacks.identity), "free needs a ball"),
        (lambda: trainer(Method("trades"), attacks.identity), "trades needs a ball"),
        (lambda: trainer(Method("trades"), pgd(random_start=False)), "leave random_start on"),
        (lambda: trainer(Method("mart"), label_smoothing=0.1), "mart has no label smoothing"),
        (lambda: trainer(Method(awp_gamma=-1.0)), "gamma is -1.0"),
        (
            lambda: trainer(Method(attack_gradient="softplus"), attacks.identity),
            "attack_gradient needs a ball",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(make, hint):
    with pytest.raises(ValueError, match=hint):
        make()
