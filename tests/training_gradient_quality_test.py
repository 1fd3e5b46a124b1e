import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks, injection
from sat_tf.runs import distribution
from sat_tf.training import AdversarialTrainer, gradient_quality, objectives
from sat_tf.training.gradient_quality import backward_view, on_view
from sat_tf.training.methods import Method

GRADIENT = "parametric_softplus"
LABELS = np.array([0, 2, 1, 2], np.int32)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (4, 4, 4, 1)).astype(np.float32)
PLAIN = objectives.adversarial_cross_entropy()


def network(activation="relu"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(3, 3, use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.5)(x)
    x = keras.layers.Activation(activation)(x)
    x = keras.layers.Dropout(0.0)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x), name="plain")


def weight_gradients(model, objective, adversarial=IMAGES):
    with tf.GradientTape() as tape:
        losses, _ = objective(model, None, tf.constant(adversarial), tf.constant(LABELS))
        loss = tf.reduce_mean(losses)
    return tape.gradient(loss, model.trainable_variables)


def pgd(**options):
    settings = {"epsilon": 8.0, "step_size": 8.0, "steps": 1, "random_start": False}
    return attacks.PGD(**{**settings, **options})


def test_a_view_computes_the_same_and_holds_the_same_variables():
    plain = network()
    view = backward_view(plain, GRADIENT)
    for training in (False, True):
        np.testing.assert_array_equal(
            view(IMAGES, training=training), plain(IMAGES, training=training)
        )
    assert [id(v) for v in view.variables] == [id(v) for v in plain.variables]


def test_training_through_the_view_moves_the_one_set_of_batch_norm_averages():
    plain, twin = network(), network()
    backward_view(plain, GRADIENT)(IMAGES, training=True)
    twin(IMAGES, training=True)
    for ours, theirs in zip(plain.variables, twin.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.abs(plain.layers[3].moving_mean.numpy()).max() > 0


@pytest.mark.parametrize(
    "gradient, slope",
    [
        ("parametric_softplus", lambda x: 1 / (1 + np.exp(-10 * x))),
        ("parametric_softplus:alpha=2", lambda x: 1 / (1 + np.exp(-2 * x))),
        ("softplus", lambda x: 1 / (1 + np.exp(-x))),
        ("relu", lambda x: np.float64(x > 0)),
    ],
)
def test_gradients_of_one_layer_equal_the_closed_form(gradient, slope):
    kernel, inner = RNG.normal(0, 1, (5, 4)), RNG.normal(0, 0.3, (3, 5))
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(4, use_bias=False)(inputs)
    plain = keras.Model(inputs, keras.layers.ReLU()(hidden))
    plain.set_weights([kernel])
    view = backward_view(plain, gradient)
    x = tf.constant(inner, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(view(x))
    by_input, by_kernel = tape.gradient(y, [x, view.trainable_variables[0]])
    z = inner @ kernel
    np.testing.assert_allclose(y, np.maximum(z, 0).sum(), rtol=1e-5)
    np.testing.assert_allclose(by_input, slope(z) @ kernel.T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_kernel, inner.T @ slope(z), rtol=1e-4, atol=1e-6)


def slopes(z, smooth):
    """Returns ReLU's derivative, or central differences of log(1 + exp(10 z)) / 10."""
    if not smooth:
        return np.float64(z > 0)
    step = 1e-6
    low, high = (np.log1p(np.exp(10 * (z + side))) / 10 for side in (-step, step))
    return (high - low) / (2 * step)


def backward(weights, x, smooth):
    """Returns the gradients of the mean cross-entropy by the pixels and the kernels, in float64."""
    first, last = weights
    z = x / 255 @ first
    logits = np.maximum(z, 0) @ last
    errors = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    errors[np.arange(len(x)), LABELS] -= 1
    errors /= len(x)
    inner = errors @ last.T * slopes(z, smooth)
    return inner @ first.T / 255, (x / 255).T @ inner, np.maximum(z, 0).T @ errors


@pytest.mark.parametrize("attack_smooth", [False, True])
@pytest.mark.parametrize("update_smooth", [False, True])
def test_a_step_of_training_is_that_of_finite_differences_of_the_formula(
    attack_smooth, update_smooth
):
    random = np.random.default_rng(3)
    weights = [random.normal(0, 0.5, (16, 12)), random.normal(0, 0.5, (12, 3))]
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Rescaling(1 / 255)(keras.layers.Flatten()(inputs))
    x = keras.layers.ReLU()(keras.layers.Dense(12, use_bias=False)(x))
    plain = keras.Model(inputs, keras.layers.Dense(3, use_bias=False)(x))
    plain.set_weights(weights)
    given = {"attack_gradient": attack_smooth, "update_gradient": update_smooth}
    named = {name: GRADIENT for name, smooth in given.items() if smooth}
    made = Method(**named).trainer(plain, pgd(), batch_size=4)
    made.compile(keras.optimizers.SGD(0.5))
    made.fit(tf.data.Dataset.from_tensors((IMAGES, LABELS)), verbose=0, shuffle=False)
    clean = IMAGES.reshape(4, 16).astype(np.float64)
    adversarial, others = (
        np.clip(clean + 8 * np.sign(backward(weights, clean, smooth)[0]), 0, 255)
        for smooth in (attack_smooth, not attack_smooth)
    )
    assert np.mean(adversarial != others) > 0.05  # or the derivative would make no difference
    _, *gradients = backward(weights, adversarial, update_smooth)
    for ours, before, gradient in zip(made.network.get_weights(), weights, gradients, strict=True):
        np.testing.assert_allclose(ours, before - 0.5 * gradient, rtol=1e-4, atol=1e-6)


def test_attacker_only_changes_the_images_and_not_the_gradient_of_the_update():
    plain = network()
    made = Method(attack_gradient="softplus").trainer(plain, pgd(), batch_size=4)
    ours = made.attack(plain, IMAGES, LABELS, None)
    theirs = pgd()(plain, IMAGES, LABELS)
    assert np.mean(ours.numpy() != theirs.numpy()) > 0.05
    for a, b in zip(
        weight_gradients(plain, made.objective), weight_gradients(plain, PLAIN), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_update_only_changes_the_gradient_of_the_update_and_not_the_images():
    plain = network()
    made = Method(update_gradient="softplus").trainer(plain, pgd(), batch_size=4)
    ours = made.attack(plain, IMAGES, LABELS, None)
    np.testing.assert_array_equal(ours, pgd()(plain, IMAGES, LABELS))
    changed = weight_gradients(plain, made.objective)[0]
    usual = weight_gradients(plain, PLAIN)[0]
    assert np.abs(changed - usual).max() > 0.1 * np.abs(usual).max()


def test_two_different_gradients_each_reach_their_own_side():
    plain = network()
    attacking, updating = (
        {"attack_gradient": "softplus"},
        {"update_gradient": "parametric_softplus"},
    )
    both, attacker, update = (
        Method(**options).trainer(plain, pgd(), batch_size=4)
        for options in (attacking | updating, attacking, updating)
    )
    arguments = plain, IMAGES, LABELS, None
    np.testing.assert_array_equal(both.attack(*arguments), attacker.attack(*arguments))
    for ours, alone in zip(
        weight_gradients(plain, both.objective),
        weight_gradients(plain, update.objective),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, alone)


def test_the_derivative_of_the_function_itself_changes_nothing():
    plain = network()
    view = backward_view(plain, "relu")
    np.testing.assert_array_equal(
        on_view(view, pgd(steps=2))(None, IMAGES, LABELS), pgd(steps=2)(plain, IMAGES, LABELS)
    )
    for a, b in zip(
        weight_gradients(plain, on_view(view, PLAIN)), weight_gradients(plain, PLAIN), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("strategy", ["one_device", "mirrored"])
def test_fit_through_both_views_trains_the_plain_network_alone(strategy, tmp_path):
    with distribution.strategy(strategy).scope():
        made = Method(attack_gradient=GRADIENT, update_gradient=GRADIENT).trainer(
            network(), pgd(), batch_size=4, validation_attack=pgd()
        )
        made.compile(keras.optimizers.SGD(0.1), ema_decay=0.5)
    before = made.network.get_weights()
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4)
    made.fit(data, validation_data=data, verbose=0, shuffle=False)
    assert np.abs(made.network.get_weights()[0] - before[0]).max() > 0
    for best in (made.network, made.best_network):
        assert set(injection.hidden_activations(best).values()) == {"relu"}
        best.save(tmp_path / "network.keras")
        loaded = keras.models.load_model(tmp_path / "network.keras")
        np.testing.assert_allclose(loaded(IMAGES), best(IMAGES), rtol=1e-6)
        assert len(loaded.layers) == len(made.network.layers)


def test_validation_attacks_the_plain_network_and_not_the_view():
    plain, seen = network(), []

    def spying(attacked, images, labels, seed=None):
        seen.append(attacked)
        return images

    made = Method(attack_gradient=GRADIENT, update_gradient=GRADIENT).trainer(
        plain, pgd(), batch_size=4, validation_attack=spying
    )
    made.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    made.evaluate(IMAGES, LABELS, verbose=0)
    assert seen and all(attacked is plain for attacked in seen)


def test_every_parametrised_activation_keeps_its_parameters_forward():
    from sat_tf import activations

    inputs = keras.Input((5,))
    plain = keras.Model(inputs, activations.make("elu:alpha=1.6")(inputs))
    x = tf.constant([[-3.0, -1.0, 0.0, 1.0, 3.0]])
    np.testing.assert_array_equal(backward_view(plain, "swish:beta=2")(x), plain(x))


@pytest.mark.parametrize(
    "plain, gradient, hint",
    [
        (lambda: network(), "nothing", "backward='nothing' is unknown; use one of: relu"),
        (lambda: network(), "softplus:alpha=2", "cannot read 'backward_alpha=2'"),
        (lambda: network("linear"), GRADIENT, "are none"),
        (lambda: network("relu6"), GRADIENT, "no view computes 'relu6'"),
    ],
)
def test_what_has_no_view_is_named(plain, gradient, hint):
    with pytest.raises(ValueError, match=hint):
        backward_view(plain(), gradient)


def test_a_view_is_what_the_trainer_hands_on_where_neither_gradient_is_set():
    plain = network()
    made = Method().trainer(plain, attack := pgd(), batch_size=4)
    assert type(made) is AdversarialTrainer and made.attack is attack
    assert gradient_quality.on_view(plain, lambda seen, x: (seen, x))("other", 1) == (plain, 1)
