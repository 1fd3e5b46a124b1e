"""Laws of batch norm folded into the layers before it: the same logits, the same verdicts."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import loading, models
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.evaluation import folding, verdicts
from sat_tf.evaluation.runner import Runner
from sat_tf.evaluation.stream import Stream
from sat_tf.evaluation.sweep import Sweep
from sat_tf.models import convnext, vit
from tests import linear_network

# Of each network how many batch norms have no convolution of their own before them.
FEW = {"resnet8": 0, "preactresnet18": 9, "wrn-10-1": 4, "resnext50-32x4d": 0, "efficientnet-b0": 0}
OPTIONS = {"preactresnet18": {"zero_gamma": True}}


def build(name, **options):
    # Large enough that no map of the deepest network is smaller than its kernel.
    return models.build(name, activation="swish", num_classes=5, image_size=32, **options)


def norms(model):
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += norms(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            found.append(layer)
    return found


def stir(model, seed=0):
    """Gives every batch norm statistics of its own; some scales are zero, or stay so throughout."""
    rng = np.random.default_rng(seed)
    for norm in norms(model):
        for variable in norm.variables:
            low, high = (0.05, 0.5) if variable.name == "moving_variance" else (-0.2, 1.0)
            value = rng.uniform(low, high, variable.shape)
            if variable.name == "gamma":
                value[::5] = 0.0
                value *= np.asarray(variable).any()
            variable.assign(value)
    return model


def settled(model):
    """Stirs a network and gives every batch norm the statistics of what reaches it.

    Through many layers, statistics at random would make logits explode, rounding with them, or
    make them the same for all images.
    """
    stir(model)
    for norm in norms(model):
        norm.momentum = 0.0
    images = np.random.default_rng(2).uniform(0, 255, (8, *model.input_shape[1:]))
    model(images.astype("f"), training=True)
    return model


def pictures(shape):
    """Draws images of three brightnesses, which the logits of any network tell apart."""
    images = np.random.default_rng(1).uniform(0, 255, (3, *shape[1:])) ** [
        [[[0.3]]],
        [[[0.7]]],
        [[[1]]],
    ]
    return images.astype("f")


def assert_folds(model, num_left=0, tolerance=1e-5):
    images = pictures(model.input_shape)
    before = [np.asarray(variable).copy() for variable in model.variables]
    plain = np.asarray(model(images, training=False))
    folded = folding.fold(model)
    found = np.asarray(folded(images, training=False))
    np.testing.assert_allclose(found, plain, atol=tolerance * np.abs(plain).max(), rtol=0)
    assert plain.std(0).max() > 1e-4 * np.abs(plain).max()  # the images matter
    assert len(norms(folded)) == num_left < len(norms(model))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert folded.input_shape[1:] == model.input_shape[1:]


@pytest.mark.parametrize("name", FEW)
def test_folded_and_plain_logits_agree_to_rounding(name):
    assert_folds(stir(build(name, **OPTIONS.get(name, {}))), FEW[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(models.NAMES) - set(FEW)))
def test_folded_and_plain_logits_agree_to_rounding_in_all_networks(name):
    deep = name.startswith("efficientnet-b") and name[-1] in "4567812"
    if deep or name in ("wrn-70-16", "wrn-34-20", "resnet110"):
        pytest.skip("of the kinds of its smaller ones, and too large for a test")
    if name in convnext.NETWORKS | vit.NETWORKS:
        pytest.skip("without batch norm")
    model = settled(build(name))
    left = 0 if "resnet" in name and "pre" not in name else len(norms(folding.fold(model)))
    assert_folds(model, left, tolerance=1e-4)  # rounding adds up over a hundred layers


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "DenseNet121", "Xception"])
def test_networks_of_keras_with_another_activation_fold(name):
    from sat_tf.injection import inject

    made = getattr(keras.applications, name)(
        weights=None, input_shape=(96, 96, 3), classes=5, classifier_activation=None
    )
    model = settled(inject(made, "swish"))
    left = len(norms(folding.fold(model)))
    assert left == {"DenseNet121": 62}.get(name, 0)
    assert_folds(model, left)


def test_networks_with_layer_norm_are_left_as_they_are():
    network = build("convnext_tiny_convstem", width=4, depth=1)
    assert folding.fold(network) is network


def conv(filters=4, **options):
    return keras.layers.Conv2D(filters, 3, padding="same", **options)


def test_every_kind_of_layer_with_and_without_bias_folds_in_nested_and_sequential_models():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [keras.Input((8, 8, 6)), conv(6, groups=2), keras.layers.BatchNormalization(scale=False)]
    )
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for layer in (
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
        keras.layers.SeparableConv2D(6, 3, padding="same"),
        conv(6, dilation_rate=2, strides=1),
    ):
        x = keras.layers.BatchNormalization(center=False)(layer(x))
        x = keras.layers.Activation("tanh")(x)
    x = keras.layers.Resizing(8, 8)(x)
    x = keras.layers.Dense(7)(keras.layers.Flatten()(inner(x)))
    model = keras.Model(inputs, keras.layers.BatchNormalization()(x))
    assert_folds(stir(model))
    adapted = loading.adapt(model, (0, 1))
    folded, images = folding.fold(adapted), pictures(model.input_shape)
    np.testing.assert_allclose(folded(images), adapted(images), atol=1e-5)
    assert not norms(folded.network)


def stays(kind):
    inputs = keras.Input((8, 8, 3))
    layer, norm, float16 = conv(), keras.layers.BatchNormalization(), {"dtype": "mixed_float16"}
    outputs = {
        "first": lambda: conv()(norm(inputs)),
        "shared": lambda: norm(layer(inputs)) + layer(inputs[:, ::-1]),
        "seen": lambda: (lambda x: norm(x) + keras.ops.abs(x))(layer(inputs)),
        "twice": lambda: (
            norm(layer(inputs))
            + norm(keras.layers.Activation("tanh")(inputs[..., :1]) + layer(inputs) * 0)
        ),
        "answered": lambda: (lambda x: [x, norm(x)])(layer(inputs)),
        "activated": lambda: norm(conv(activation="relu")(inputs)),
        "other axis": lambda: keras.layers.BatchNormalization(axis=1)(layer(inputs)),
        "float16": lambda: keras.layers.BatchNormalization(**float16)(conv(**float16)(inputs)),
    }[kind]()
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    "kind", ["first", "shared", "seen", "answered", "twice", "activated", "other axis", "float16"]
)
def test_what_cannot_be_folded_stays_as_it_is(kind):
    model = stir(stays(kind))
    assert folding.fold(model) is model


def test_a_network_with_a_call_of_its_own_and_a_function_stay_as_they_are():
    class Shifted(keras.Model):
        def call(self, inputs, training=False):
            return super().call(inputs, training=training) + 1.0

    inputs = keras.Input((8, 8, 3))
    model = Shifted(inputs, keras.layers.BatchNormalization()(conv()(inputs)))
    assert folding.fold(model) is model
    assert folding.fold(stays) is stays


def swept(runner, count, epsilon):
    attack = RestartedPGD(epsilon=epsilon, step_size=epsilon / 4, steps=6)
    sweep = Sweep.blank("a", attack, count, title="t", noise="n")
    for verdict in runner.run(sweep, np.ones(count, bool)):
        sweep.note(verdict, 0.0)
    return sweep


def test_a_break_that_the_given_network_does_not_confirm_is_looked_for_again_on_it():
    network = linear_network.LinearNetwork(2, scale=0.002)
    images = linear_network.images(40)
    labels = network.labels(images)
    epsilon = float(np.median(linear_network.distances(network, images, labels, "linf")))

    def wrong_sometimes(points, training=False):
        """Calls every other image misclassified, whatever it is shown."""
        logits = network(points)
        shift = 1e3 * tf.cast(points[:, 0, 0, 0] > 128, tf.float32)
        return logits - shift[:, None] * tf.one_hot(tf.argmax(logits, 1), 2)

    stream = Stream((images, labels), 16)
    expected = swept(Runner(network, stream, 0), 40, epsilon)
    found = swept(Runner(network, stream, 0, folded=wrong_sometimes), 40, epsilon)
    assert found.done.all() and not found.unconfirmed.any()
    np.testing.assert_array_equal(found.broken, expected.broken)
    assert 0 < expected.broken.sum() < 40
    assert found.slot_steps > expected.slot_steps


def test_a_file_of_verdicts_goes_on_with_its_own_setting_or_was_there_before_it(tmp_path):
    path, examples = tmp_path / "a.verdicts.npz", np.zeros([1, 2, 2, 1], np.float32)
    on, off, old = {"seed": 0, "fold_batch_norm": True}, {"fold_batch_norm": False}, {"seed": 0}
    off |= old
    for written, read in ((on, off), (off, on)):
        verdicts.VerdictFile(path, written, overwrite=True).save([], examples)
        assert verdicts.VerdictFile(path, written).restore([], examples)
        with pytest.raises(ValueError, match="fold_batch_norm (true|false) here"):
            verdicts.VerdictFile(path, read).restore([], examples)
    verdicts.VerdictFile(path, old).save([], examples)
    assert all(verdicts.VerdictFile(path, one).restore([], examples) for one in (on, off))


def test_a_quantised_layer_stays():
    inputs = keras.Input((6,))
    dense = keras.layers.Dense(8)
    x = keras.layers.BatchNormalization()(dense(inputs))
    model = stir(keras.Model(inputs, keras.layers.Dense(3)(x)))
    assert not norms(folding.fold(model))
    dense.quantize("int8")
    assert folding.fold(model) is model


def test_what_answers_otherwise_once_folded_is_attacked_as_it_is(capsys):
    inputs = keras.Input((6, 6, 1))
    layer, norm = conv(), keras.layers.BatchNormalization()
    x = keras.layers.Flatten()(norm(layer(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    images = np.random.default_rng(0).uniform(0, 255, (4, 6, 6, 1)).astype("f")
    stream = [type("Batch", (), {"images": images})]
    assert len(norms(folding.checked(model, stream))) == 0
    assert folding.checked(model, []) is None and capsys.readouterr().err == ""
    # As float32 the sum of 1e8 and what the kernel makes is a multiple of 8; folded it is exact.
    layer.bias.assign(np.full(4, 1e8))
    norm.moving_mean.assign(np.full(4, 1e8))
    norm.moving_variance.assign(np.full(4, 60.0**2))
    assert folding.checked(model, stream) is None
    assert "note: batch norm is not folded" in capsys.readouterr().err
