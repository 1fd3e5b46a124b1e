"""Soft labels: whatever takes a class takes a probability for each class as well."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks
from sat_tf.runs import distribution
from sat_tf.training import AdversarialTrainer, awp, methods, objectives

RNG = np.random.default_rng(0)
RATE = 1e-4
IMAGES = RNG.integers(0, 255, (8, 2, 2, 1)).astype(np.float32)
CLASSES = np.array([0, 2, 1, 2, 0, 1, 1, 0])
ONE_HOT = np.eye(3, dtype=np.float32)[CLASSES]
SOFT = RNG.dirichlet([0.5] * 3, 8)
KERNEL = RNG.normal(0, 0.01, (4, 3))


def softmax(z):
    e = np.exp(np.float64(z) - np.max(z, -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def of_classes(name, clean, adversarial, smoothing):
    """Returns the losses in float64 if the label were each of the classes, [N, C]."""
    p, q = softmax(clean), softmax(adversarial)
    divergence = np.sum(p * np.log(p / q), -1, keepdims=True)

    def smoothed(log):
        return (1 - smoothing) * log + smoothing * log.mean(-1, keepdims=True)

    if name == "pgd_at":
        return -smoothed(np.log(q))
    if name == "trades":
        return -smoothed(np.log(p)) + 6 * divergence
    rivals = np.stack([np.delete(q, k, 1).max(1) for k in range(q.shape[1])], 1)
    return -np.log(q) - np.log(1 - rivals) + 5 * divergence * (1 - p)


def objective_of(name, smoothing):
    return methods.make(name).objective(smoothing)


def losses(name, labels, smoothing, *logits):
    answers = iter(logits if name != "pgd_at" else logits[1:])

    def given(images, training):
        return tf.constant(next(answers), tf.float32)

    return objective_of(name, smoothing)(given, None, None, tf.constant(labels))[0].numpy()


@pytest.mark.parametrize(
    "name, smoothing",
    [("pgd_at", 0.0), ("pgd_at", 0.1), ("trades", 0.0), ("trades", 0.1), ("mart", 0.0)],
)
def test_a_loss_is_the_mean_over_classes_drawn_from_the_label(name, smoothing):
    clean, adversarial = RNG.normal(0, 2, (2, 8, 3))
    classes = of_classes(name, clean, adversarial, smoothing)
    found = losses(name, SOFT.astype(np.float32), smoothing, clean, adversarial)
    np.testing.assert_allclose(found, np.sum(SOFT * classes, 1), rtol=1e-5)
    found = losses(name, CLASSES.astype(np.int32), smoothing, clean, adversarial)
    np.testing.assert_allclose(found, np.sum(ONE_HOT * classes, 1), rtol=1e-5)


def network(kernel=KERNEL):
    inputs = keras.Input((2, 2, 1))
    outputs = keras.layers.Dense(3, use_bias=False)(keras.layers.Flatten()(inputs))
    made = keras.Model(inputs, outputs)
    made.set_weights([kernel])
    return made


def by_hand(labels, gamma=0.0, batch=4):
    """Returns kernel, mean loss and accuracy of one epoch of gradient descent in float64."""
    kernel, rows = KERNEL.copy(), []
    for start in range(0, 8, batch):
        x = IMAGES[start : start + batch].reshape(-1, 4).astype(np.float64)
        y = labels[start : start + batch]
        at = kernel
        if gamma:
            slope = x.T @ (softmax(x @ at) - y)
            at = at + gamma * np.linalg.norm(at) * slope / np.linalg.norm(slope)
        p = softmax(x @ at)
        rows.append((-np.sum(y * np.log(p), 1), p.argmax(1) == y.argmax(1)))
        kernel = kernel - RATE * x.T @ (p - y) / len(x)
    return kernel, *(np.concatenate(column).mean() for column in zip(*rows, strict=True))


@pytest.mark.parametrize("strategy, pieces, gamma, dtype", [
    ("mirrored", 2, 0.0, "float64"), ("one_device", 1, 0.1, "float64"),
    ("one_device", 2, 0.0, "int32"),
])  # fmt: skip
def test_a_run_on_soft_labels_is_gradient_descent_and_counts_the_most_probable_class(
    strategy, pieces, gamma, dtype
):
    labels = (SOFT if dtype == "float64" else ONE_HOT).astype(dtype)
    eager = {"run_eagerly": True} if strategy == "one_device" else {}
    objective = objectives.adversarial_cross_entropy()
    with distribution.strategy(strategy).scope():
        objective = awp.perturbed(objective, gamma) if gamma else objective
        made = AdversarialTrainer(network(), attacks.identity, objective=objective)
        made.compile(keras.optimizers.SGD(RATE), gradient_accumulation=pieces, **eager)
    logs = made.fit(IMAGES, labels, batch_size=4, shuffle=False, verbose=0).history
    kernel, loss, accuracy = by_hand(labels, gamma)
    np.testing.assert_allclose(made.network.get_weights()[0], kernel, atol=1e-6)
    assert logs["loss"] == pytest.approx([loss], rel=1e-4)
    assert logs["adversarial_accuracy"] == pytest.approx([accuracy])
    logs = made.evaluate(IMAGES, labels, verbose=0, return_dict=True)
    p = softmax(IMAGES.reshape(8, 4) @ made.network.get_weights()[0])
    assert logs["loss"] == pytest.approx(-np.sum(labels * np.log(p), 1).mean(), rel=1e-4)
    assert logs["clean_accuracy"] == pytest.approx(np.mean(p.argmax(1) == labels.argmax(1)))


@pytest.mark.parametrize("name", methods.METHODS)
def test_one_hot_rows_train_every_method_as_the_classes_do(name):
    def trained(labels):
        attack = attacks.PGD(epsilon=8.0, step_size=4.0, steps=2)
        method = methods.make(name)
        made = method.trainer(network(), attack, batch_size=4, validation_attack=attack)
        made.compile(keras.optimizers.SGD(RATE), run_eagerly=True)
        data = tf.data.Dataset.from_tensor_slices((IMAGES, labels)).batch(4)
        data = method.batches(data.skip, 0)
        made.fit(data, steps_per_epoch=2, shuffle=False, verbose=0)
        return made.network.get_weights()[0]

    np.testing.assert_allclose(trained(ONE_HOT), trained(CLASSES), atol=1e-7)
    assert np.abs(trained(SOFT) - trained(CLASSES)).max() > 1e-4


@pytest.mark.parametrize(
    "labels, said",
    [
        (ONE_HOT[:, :2], r"shape \(.*2\).* expected integers \[N\] .*\[N, 3\]"),
        (ONE_HOT[..., None], r"rows of probabilities \[N, 3\]"),
        (ONE_HOT > 0, "labels are bool"),
        (ONE_HOT.astype(complex), "labels are complex"),
        (2 * ONE_HOT, "8 soft labels are no probabilities"),
        (ONE_HOT * 2 - 1 / 3, "8 soft labels are no probabilities"),  # sums to 1
        (np.where(ONE_HOT > 0, np.nan, 0), "8 soft labels are no probabilities"),
        (np.zeros([8, 3], int), r"labels / labels.sum\(-1, keepdims=True\)"),
    ],
)
def test_rows_that_are_no_probabilities_are_refused_in_words(labels, said):
    made = AdversarialTrainer(network(), attacks.identity)
    made.compile(keras.optimizers.SGD(RATE), run_eagerly=True)
    with pytest.raises(ValueError, match=said):
        made.fit(IMAGES, labels, batch_size=8, verbose=0)


def test_rows_of_float16_over_many_classes_are_probabilities():
    rows = RNG.dirichlet([1.0] * 1000, 64).astype(np.float16)
    inputs = keras.Input((1,))
    made = AdversarialTrainer(
        keras.Model(inputs, keras.layers.Dense(1000)(inputs)), attacks.identity
    )
    made.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    logs = made.fit(np.ones((64, 1)) * 9, rows, verbose=0).history
    assert np.isfinite(logs["loss"]).all()
