"""The training step against a step written out by hand, on one replica and on two."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import activations, injection
from sat_tf.attacks import PGD, identity, noise
from sat_tf.models.branches import StochasticDepth
from sat_tf.runs import checkpoints, distribution
from sat_tf.training import AdversarialTrainer, averages, fitting
from sat_tf.training.objectives import adversarial_cross_entropy

NUM_IMAGES, BATCH, LEARNING_RATE = 32, 16, 0.1
ATTACK = PGD(epsilon=16, step_size=6, steps=3, random_start=False)


def network(batch_norm=False, dropout=False):
    keras.utils.set_random_seed(1)
    pixels = keras.Input((6, 6, 1))
    x = keras.layers.Rescaling(2 / 255, -1, dtype="float32")(pixels)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    if batch_norm:
        x = keras.layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = keras.layers.Activation("swish", name="act")(x)
    x = keras.layers.Flatten()(x)
    if dropout:
        x = StochasticDepth(0.3)(keras.layers.Dropout(0.5, seed=3)(x))
    return keras.Model(pixels, keras.layers.Dense(3, dtype="float32", name="logits")(x), name="net")


def examples():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (NUM_IMAGES, 6, 6, 1)).astype(np.float32)
    return images, rng.integers(0, 3, NUM_IMAGES).astype(np.int32)


def dataset():
    return tf.data.Dataset.from_tensor_slices(examples()).batch(BATCH)


def fitted(strategy=None, attack=ATTACK, epochs=2, build=network, callbacks=(), **options):
    # Without a strategy a stream needs no graphs, of which OneDeviceStrategy traces some an epoch.
    with (distribution.strategy(strategy) if strategy else tf.distribute.get_strategy()).scope():
        trainer = AdversarialTrainer(build(), attack, seed=5)
        trainer.compile(keras.optimizers.SGD(LEARNING_RATE, momentum=0.9), **options)
    history = trainer.fit(
        dataset(), epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks)
    )
    return trainer, history.history


def weights(model):
    return [w.copy() for w in model.get_weights()]


def assert_close(first, second, atol=2e-6):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def test_a_step_is_perturb_then_descend_on_the_mean_over_the_batch():
    by_hand = network()
    velocities = [tf.zeros_like(w) for w in by_hand.trainable_variables]
    for images, labels in dataset():
        adversarial = ATTACK(by_hand, images, labels)
        with tf.GradientTape() as tape:
            probabilities = tf.nn.softmax(by_hand(adversarial, training=True))
            truth = tf.gather(probabilities, labels, batch_dims=1)
            loss = -tf.reduce_mean(tf.math.log(truth))
        gradients = tape.gradient(loss, by_hand.trainable_variables)
        for i, variable in enumerate(by_hand.trainable_variables):
            velocities[i] = 0.9 * velocities[i] - LEARNING_RATE * gradients[i]
            variable.assign_add(velocities[i])
    trainer, _ = fitted("one_device", epochs=1)
    assert_close(weights(trainer.network), weights(by_hand))


@pytest.fixture(scope="module")
def one_device():
    """A fit of the whole batch on one device, and its logs."""
    return fitted(ema_decay=0.5, weight_decay=0.01)


@pytest.mark.parametrize("pieces", [1, 2])
def test_two_replicas_and_accumulation_give_the_weights_of_one_joined_batch(one_device, pieces):
    alone, alone_logs = one_device
    joined, joined_logs = fitted(
        "mirrored", ema_decay=0.5, weight_decay=0.01, gradient_accumulation=pieces
    )
    assert_close(weights(joined.network), weights(alone.network))
    assert_close(weights(joined.average), weights(alone.average))
    for name in alone_logs:
        np.testing.assert_allclose(joined_logs[name], alone_logs[name], atol=1e-5)


def test_accumulation_equals_the_whole_batch(one_device):
    # Of 16 images, so that the pieces are not equal.
    pieces, _ = fitted(ema_decay=0.5, weight_decay=0.01, gradient_accumulation=3)
    assert_close(weights(pieces.network), weights(one_device[0].network))


def test_replicas_draw_different_noise():
    with distribution.strategy("mirrored").scope():
        trainer = AdversarialTrainer(network(), identity)
        trainer.compile(keras.optimizers.SGD(0.1))
    strategy = trainer.distribute_strategy
    drawn = strategy.run(lambda: noise.uniform(trainer.step_seed(), tf.zeros([2, 6, 6, 1]), 0, 1))
    first, second = strategy.experimental_local_results(drawn)
    assert np.abs(first - second).max() > 0.1


def test_every_step_replica_and_piece_has_a_seed_of_its_own():
    seen = []

    def noting(network, images, labels, seed=None):
        seen.append(tuple(seed.numpy()))
        return images

    with distribution.strategy("mirrored").scope():
        trainer = AdversarialTrainer(network(), noting, seed=5)
        trainer.compile(keras.optimizers.SGD(0.1), gradient_accumulation=4, run_eagerly=True)
    batches = tf.data.Dataset.from_tensor_slices(examples()).batch(8).take(3)
    trainer.fit(batches, shuffle=False, verbose=0)
    assert len(seen) == len(set(seen)) == 3 * 2 * 4


def test_validation_attacks_and_measures_the_average():
    attacked = []

    def noting(network, images, labels, seed=None):
        attacked.append(network)
        return images

    trainer = AdversarialTrainer(network(), identity, validation_attack=noting)
    trainer.compile(keras.optimizers.SGD(0.1), ema_decay=0.5, run_eagerly=True)
    images, labels = examples()
    labels = trainer.network(images).numpy().argmax(1).astype(np.int32)
    # The network is always right; of its negative the largest logit is the smallest.
    assert trainer.evaluate(images, labels, verbose=0, return_dict=True)["clean_accuracy"] == 1
    head = trainer.average.get_layer("logits")
    head.set_weights([-w for w in head.get_weights()])
    logs = trainer.evaluate(images, labels, verbose=0, return_dict=True)
    assert logs["clean_accuracy"] == logs["adversarial_accuracy"] == 0
    assert {id(net) for net in attacked} == {id(trainer.average)}


def test_noise_depends_on_the_step_and_on_the_seed():
    trainer = AdversarialTrainer(network(), identity, seed=5)
    trainer.compile(keras.optimizers.SGD(LEARNING_RATE))
    trainer.optimizer.iterations.assign(2)
    at_two = trainer.step_seed().numpy()
    trainer.optimizer.iterations.assign(7)
    at_seven = trainer.step_seed().numpy()
    trainer.seed = 6
    assert len({tuple(s) for s in (at_two, at_seven, trainer.step_seed().numpy())}) == 3


def test_validation_noise_depends_on_the_seed_and_on_nothing_that_training_changes():
    seen = []

    def noting(network, images, labels, seed=None):
        seen.append(tuple(seed.numpy()))
        return images

    trainer = AdversarialTrainer(network(), noting, seed=5)
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    for seed, step in ((5, 0), (5, 7), (6, 7)):
        trainer.seed = seed
        trainer.optimizer.iterations.assign(step)
        trainer.evaluate(dataset().take(1), verbose=0)
    assert seen[0] == seen[1] != seen[2]


def test_weight_decay_reaches_kernels_alone():
    net = network(batch_norm=True)
    rng = np.random.default_rng(3)  # fresh biases are 0, which any decay leaves as they are
    net.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in net.get_weights()])
    before = {v.path: v.numpy() for v in net.trainable_variables}

    def no_loss(network, images, adversarial, labels):
        logits = network(adversarial, training=True)
        return 0.0 * tf.reduce_sum(logits, axis=1), logits

    with tf.init_scope():
        trainer = AdversarialTrainer(net, identity, objective=no_loss)
        trainer.compile(keras.optimizers.SGD(LEARNING_RATE), weight_decay=0.5)
    trainer.fit(dataset().take(1), verbose=0, shuffle=False)
    for variable in net.trainable_variables:
        # d/dw (0.5 * 0.5 * w^2) = 0.5 w, so one step leaves (1 - lr * 0.5) w.
        shrink = 1 - LEARNING_RATE * 0.5 if variable.name == "kernel" else 1.0
        np.testing.assert_allclose(variable.numpy(), shrink * before[variable.path], atol=1e-7)


@pytest.mark.parametrize("spec", ["smoothrelu", "pssilu"])
def test_activation_weight_decay_reaches_the_scalars_alone(spec):
    pixels = keras.Input((6, 6, 1))
    x = activations.make(spec, name="act")(keras.layers.Flatten()(pixels))
    net = keras.Model(pixels, keras.layers.Dense(3)(x))
    before = {v.path: v.numpy() for v in net.trainable_variables}

    def no_loss(network, images, adversarial, labels):
        logits = network(adversarial, training=True)
        return 0.0 * tf.reduce_sum(logits, axis=1), logits

    trainer = AdversarialTrainer(net, identity, objective=no_loss)
    trainer.compile(keras.optimizers.SGD(LEARNING_RATE), activation_weight_decay=0.5)
    trainer.fit(dataset().take(1), verbose=0, shuffle=False)
    for variable in net.trainable_variables:
        shrink = 1 - LEARNING_RATE * 0.5 if spec in variable.name else 1.0
        np.testing.assert_allclose(variable.numpy(), shrink * before[variable.path], rtol=1e-6)
    with pytest.raises(ValueError, match="no trained activation"):
        AdversarialTrainer(network(), identity).compile("sgd", activation_weight_decay=0.5)


def test_the_average_follows_its_formula_statistics_included():
    net = network(batch_norm=True)
    expected = [w.astype(np.float64) for w in weights(net)]
    trainer = AdversarialTrainer(net, ATTACK)
    trainer.compile(keras.optimizers.SGD(LEARNING_RATE), ema_decay=0.8)
    for _ in range(3):
        trainer.fit(dataset().take(1), verbose=0, shuffle=False)
        expected = [0.8 * a + 0.2 * w for a, w in zip(expected, weights(net), strict=True)]
    assert_close(weights(trainer.average), expected, atol=1e-5)
    assert trainer.best_network is trainer.average


def test_only_one_forward_pass_moves_the_statistics():
    once = network(batch_norm=True)
    images, _ = next(iter(dataset()))
    once(images, training=True)

    def attack_and_forget(network, images, labels, seed=None):
        return images + 0 * ATTACK(network, images, labels, seed)

    trainer = AdversarialTrainer(network(batch_norm=True), attack_and_forget)
    trainer.compile(keras.optimizers.SGD(LEARNING_RATE))
    trainer.fit(dataset().take(1), verbose=0, shuffle=False)

    def statistics(model):
        return model.get_layer("norm").get_weights()[2:]

    assert_close(statistics(trainer.network), statistics(once))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_smoothed_cross_entropy_in_float64(smoothing):
    net = network()
    images, labels = examples()
    z = net(images).numpy().astype(np.float64)
    log_p = (
        z
        - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True))
        - z.max(1, keepdims=True)
    )
    targets = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
    losses, logits = adversarial_cross_entropy(smoothing)(net, images, images, labels)
    np.testing.assert_allclose(losses, -(targets * log_p).sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits, z, rtol=1e-6)


def test_validation_measures_clean_adversarial_and_gain_and_changes_nothing():
    net = network(batch_norm=True)
    trainer = AdversarialTrainer(net, identity, validation_attack=ATTACK)
    trainer.compile(keras.optimizers.SGD(0.1))
    before = weights(net)
    uneven = tf.data.Dataset.from_tensor_slices(examples()).batch(12)  # 12, 12 and 8
    logs = trainer.evaluate(uneven, verbose=0, return_dict=True)
    images, labels = examples()

    def measure(x):
        z = net(x).numpy().astype(np.float64)
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        return (z.argmax(1) == labels).mean(), -log_p[np.arange(NUM_IMAGES), labels].mean()

    clean, clean_loss = measure(images)
    robust, robust_loss = measure(ATTACK(net, images, labels))
    assert logs["clean_accuracy"] == pytest.approx(clean)
    assert logs["adversarial_accuracy"] == pytest.approx(robust)
    assert logs["loss"] == pytest.approx(robust_loss, rel=1e-4)
    assert logs["attack_gain"] == pytest.approx(robust_loss - clean_loss, abs=1e-4)
    assert_close(weights(net), before, atol=0)


def moves():
    """Returns what an epoch of clean training adds to the weights."""
    trainer, _ = fitted(epochs=1, attack=identity, weight_decay=0.01)
    assert {w.dtype for w in trainer.network.get_weights()} == {np.dtype("float32")}
    return [b - a for a, b in zip(weights(network()), weights(trainer.network), strict=True)]


moves_in_float32 = functools.cache(moves)


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_bfloat16", 0.1), ("mixed_float16", 0.02)]
)
def test_mixed_precision_moves_the_float32_weights_as_float32_does(policy, tolerance):
    expected = moves_in_float32()
    keras.mixed_precision.set_global_policy(policy)
    try:
        mixed = moves()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    for ours, truth in zip(mixed, expected, strict=True):
        assert np.linalg.norm(ours - truth) < tolerance * np.linalg.norm(truth)


def test_a_float16_state_is_complete_before_the_first_step():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        trainer = AdversarialTrainer(network(), ATTACK)
        trainer.compile(keras.optimizers.SGD(LEARNING_RATE, momentum=0.9))
        before = [variable.path for variable in trainer.state]
        trainer.fit(dataset(), verbose=0, shuffle=False)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert [variable.path for variable in trainer.state] == before
    assert "loss_scale_optimizer/step_counter" in before


def test_batch_norm_s_moving_statistics_are_the_mean_over_replicas():
    strategy = distribution.strategy("mirrored")
    with strategy.scope():
        trainer = AdversarialTrainer(network(batch_norm=True), identity)
        trainer.compile(keras.optimizers.SGD(LEARNING_RATE))
    norm = trainer.network.get_layer("norm")
    images = examples()[0][:BATCH]
    maps = trainer.network.get_layer("conv")(images * 2 / 255 - 1).numpy()
    halves = np.split(maps.astype(np.float64), 2)
    trainer.fit(dataset().take(1), shuffle=False, verbose=0)
    for variable, start, statistic in (
        (norm.moving_mean, 0, np.mean),
        (norm.moving_variance, 1, np.var),
    ):
        mean = np.mean([statistic(half, axis=(0, 1, 2)) for half in halves], axis=0)
        for copy in strategy.experimental_local_results(variable.value):
            np.testing.assert_allclose(copy.numpy(), 0.9 * start + 0.1 * mean, atol=1e-6)


def adapted_network():
    pixels = keras.Input((6, 6, 1))
    normalise = keras.layers.Normalization(name="normalise")
    normalise.adapt(np.random.default_rng(4).uniform(0, 200, (40, 6, 6, 1)))
    inner = keras.Input((4, 4, 3))
    hidden = keras.layers.Conv2D(3, 3, activation="relu", name="inner")(inner)
    x = keras.layers.Conv2D(3, 3, activation="relu", name="outer")(normalise(pixels))
    x = keras.layers.Flatten()(keras.Model(inner, hidden, name="nested")(x))
    network = keras.Model(pixels, keras.layers.Dense(3, name="logits")(x), name="net")
    return injection.inject(network, "pssilu")


@pytest.mark.parametrize("strategy", ["one_device", "mirrored"])
def test_the_average_keeps_in_step_with_counts_constants_and_what_nested_models_share(
    strategy, tmp_path
):
    trainer, _ = fitted(strategy, epochs=1, build=adapted_network, ema_decay=0.7)
    network, average = trainer.network, trainer.average
    assert [w.path for w in average.weights] == [w.path for w in network.weights]
    for path, ours, theirs in zip(
        [w.path for w in network.weights], weights(average), weights(network), strict=True
    ):
        if "normalise" in path:
            np.testing.assert_array_equal(ours, theirs)  # statistics and their count stand still
        else:
            assert np.abs(ours - theirs).max() > 0
    images = examples()[0]
    average.save(tmp_path / "average.keras")  # a file's reader makes the constants anew
    loaded = keras.models.load_model(tmp_path / "average.keras")
    np.testing.assert_array_equal(loaded(images), average(images))


class Counting(keras.layers.Layer):
    """Counts the batches that it was trained on, as no average of real numbers could."""

    def build(self, shape):
        del shape
        self.count = self.add_weight(
            name="count", shape=(), dtype="int64", initializer="zeros", trainable=False
        )

    def call(self, x, training=False):
        if training:
            self.count.assign_add(1)
        return x


def test_the_average_takes_over_a_count_as_it_is_after_every_step():
    def build():
        plain = network()
        return keras.Model(plain.inputs, Counting(name="counting")(plain.outputs[0]), name="net")

    trainer, _ = fitted(build=build, ema_decay=0.7)
    counts = [one.get_layer("counting").count for one in (trainer.network, trainer.average)]
    assert [int(one) for one in counts] == [4, 4]  # two epochs of two steps


def test_a_restored_trainer_computes_with_the_restored_constants(tmp_path):
    def made(build):
        trainer = AdversarialTrainer(build(), ATTACK, seed=5)
        trainer.compile(keras.optimizers.SGD(LEARNING_RATE, name="sgd"), ema_decay=0.7)
        return trainer

    trainer = made(adapted_network)
    trainer.fit(dataset(), shuffle=False, verbose=0)
    checkpoints.save(tmp_path / "checkpoints", 2, trainer.state, {})

    def not_adapted():
        network = adapted_network()
        network.get_layer("normalise").adapt(np.zeros((1, 6, 6, 1)))
        return network

    other = made(not_adapted)
    images = examples()[0]
    for name in ("network", "average"):
        assert np.abs(getattr(other, name)(images) - getattr(trainer, name)(images)).max() > 1
    assert fitting.restore(other, tmp_path, {}) == 2
    for name in ("network", "average"):
        np.testing.assert_array_equal(getattr(other, name)(images), getattr(trainer, name)(images))


def test_the_average_of_the_statistics_is_right_on_two_replicas():
    def build():
        return network(batch_norm=True)

    start, between = weights(build()), []
    with distribution.strategy("mirrored").scope():
        trainer = AdversarialTrainer(build(), ATTACK, seed=5)
        trainer.compile(keras.optimizers.SGD(LEARNING_RATE, momentum=0.9), ema_decay=0.8)
    for step in range(2):
        trainer.fit(dataset().skip(step).take(1), shuffle=False, verbose=0)
        between.append(weights(trainer.network))
    expected = [0.64 * a + 0.16 * b + 0.2 * c for a, b, c in zip(start, *between, strict=True)]
    assert_close(weights(trainer.average), expected, atol=1e-4)


def test_restored_state_goes_on_as_if_it_had_never_stopped():
    random_attack = PGD(epsilon=16, step_size=6, steps=2)
    options = {"attack": random_attack, "ema_decay": 0.5}

    def build():
        return network(batch_norm=True, dropout=True)

    class Halfway(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.state = [variable.numpy() for variable in self.model.state]

    halfway = Halfway()
    whole, _ = fitted(epochs=4, build=build, callbacks=[halfway], **options)
    second, _ = fitted(epochs=1, build=build, **options)
    for target, source in zip(second.state, halfway.state, strict=True):
        target.assign(source)
    second.fit(dataset(), epochs=2, shuffle=False, verbose=0)
    for part in ("network", "average", "optimizer"):  # not `state`, which may have left some out
        pairs = zip(getattr(whole, part).variables, getattr(second, part).variables, strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_an_image_whose_logits_are_not_finite_is_misclassified_in_training_and_validation():
    pixels = keras.Input((6, 6, 1))
    x = keras.layers.Flatten()(pixels)
    x = keras.layers.Dense(3)(x) + keras.ops.log(200 - x[:, :1])
    trainer = AdversarialTrainer(keras.Model(pixels, x), identity)
    trainer.compile(keras.optimizers.SGD(0.0))
    images = examples()[0]
    images[:, 0, 0, 0] = np.where(np.arange(NUM_IMAGES) < 12, 255, 100)
    labels = np.asarray(trainer.network(images)).argmax(1)  # 0 where the logits are NaN
    assert (labels[:12] == 0).all()
    data = tf.data.Dataset.from_tensors((images, labels))
    found = trainer.evaluate(data, verbose=0, return_dict=True)
    assert found["clean_accuracy"] == found["adversarial_accuracy"] == 20 / 32
    trained = trainer.fit(data, shuffle=False, verbose=0).history
    assert trained["adversarial_accuracy"] == [20 / 32]


def test_smoothing_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="label_smoothing is 1"):
        adversarial_cross_entropy(1)


def test_a_running_mean_is_over_the_images_that_it_has_seen_and_of_none_it_is_0(monkeypatch):
    means = [keras.metrics.Mean(name=name) for name in ("few", "many", "none")]
    means[0].update_state([6.0])
    means[1].update_state([1.0, 2.0, 3.0, 6.0])
    found = averages.logs_over_replicas(means)
    assert {name: float(one) for name, one in found.items()} == {"few": 6, "many": 3, "none": 0}
    monkeypatch.setattr(distribution, "has_workers", lambda strategy: True)
    joined = averages.logs_over_replicas(means)  # Keras joins those of several workers
    assert [one.numpy().tolist() for one in joined.values()] == [[6.0], [3.0], [0.0]]
