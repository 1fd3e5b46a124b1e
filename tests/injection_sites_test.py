"""What is a site: every function and host of Keras, no gate and no head."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import activations
from sat_tf.injection import hidden_activations, inject

layers, ops = keras.layers, keras.ops


class OfMine(layers.ELU):
    """A layer of somebody's own that is one of Keras."""


@pytest.mark.parametrize(
    "function, name",
    [
        (ops.relu, "relu"),
        (ops.relu6, "relu6"),
        (ops.silu, "silu"),
        (ops.gelu, "gelu"),
        (ops.leaky_relu, "leaky_relu"),
        (ops.hard_silu, "hard_silu"),
        (ops.elu, "elu"),
        (layers.ReLU(6.0), "relu6"),
        (layers.ReLU(negative_slope=0.1), "relu"),
        (layers.LeakyReLU(), "leaky_relu"),
        (layers.PReLU(), "prelu"),
        (layers.ELU(), "elu"),
        (OfMine(), "elu"),
        (layers.Activation(tf.nn.relu), "relu"),
        (layers.Activation("mish"), "mish"),
        (layers.Dense(4, activation=layers.LeakyReLU()), "leaky_relu"),
        (activations.make("celu:alpha=2"), "celu:alpha=2"),
        (activations.make("smoothrelu"), "smoothrelu"),
    ],
)
def test_graph_operations_and_layers_of_every_family_become_the_new_activation(function, name):
    inputs = keras.Input((4,))
    network = keras.Model(inputs, layers.Dense(2)(function(inputs)))
    assert list(hidden_activations(network).values()) == [name]
    injected = inject(network, "swish")
    assert list(hidden_activations(injected).values()) == ["swish"]
    x = tf.random.normal([3, 4])
    if isinstance(function, layers.Dense):
        expected = x @ function.kernel + function.bias
    else:
        expected = x
    expected = expected * tf.sigmoid(expected)
    expected = expected @ network.layers[-1].kernel + network.layers[-1].bias
    np.testing.assert_allclose(injected(x), expected, atol=1e-5)


def test_every_function_of_keras_is_known_as_an_activation_layer_and_as_an_operation():
    hidden = "relu relu6 leaky_relu elu celu selu silu hard_silu gelu mish softplus squareplus"
    for name in (*hidden.split(), "sparse_plus"):
        function = getattr(keras.activations, name)
        inputs = keras.Input((4,))
        applied = layers.Activation(functools.partial(function))(layers.Activation(name)(inputs))
        applied = getattr(ops, name, layers.Activation(name))(applied)  # mish is no operation
        found = hidden_activations(keras.Model(inputs, applied))
        assert list(found.values()) == [name] * 3
    kept = "linear sigmoid hard_sigmoid log_sigmoid sparse_sigmoid softmax log_softmax tanh"
    for name in (*kept.split(), "hard_tanh", "softsign", "exponential", "sparsemax"):
        inputs = keras.Input((4,))
        applied = layers.Activation(name)(layers.Dense(4, activation=name)(inputs))
        assert hidden_activations(keras.Model(inputs, applied)) == {}


@pytest.mark.parametrize(
    "host, shape",
    [
        (layers.Dense(4, activation="relu"), (4,)),
        (layers.EinsumDense("ab,bc->ac", 4, bias_axes="c", activation="relu"), (4,)),
        *((kind(3, 2, activation="relu"), (5, 4)) for kind in (
            layers.Conv1D, layers.Conv1DTranspose, layers.SeparableConv1D)),
        *((kind(3, 2, activation="relu"), (5, 5, 4)) for kind in (
            layers.Conv2D, layers.Conv2DTranspose, layers.SeparableConv2D)),
        *((kind(3, 2, activation="relu"), (4, 4, 4, 2)) for kind in (
            layers.Conv3D, layers.Conv3DTranspose)),
        (layers.DepthwiseConv1D(2, activation="relu"), (5, 4)),
        (layers.DepthwiseConv2D(2, activation="relu"), (5, 5, 4)),
    ],
)  # fmt: skip
def test_every_host_gives_its_activation_away_and_keeps_its_kernel(host, shape):
    inputs = keras.Input(shape)
    injected = inject(keras.Model(inputs, host(inputs)), "swish")
    assert list(hidden_activations(injected)) == [f"{host.name}_relu"]
    x = tf.random.normal([2, *shape])
    host.activation = keras.activations.silu
    expected = host(x)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(injected(x), expected, rtol=1e-5, atol=1e-6)


def test_relu6_after_another_sum_than_plus_3_is_a_site():
    inputs = keras.Input((4,))
    for added in (inputs + 1.0, inputs + layers.Dense(4)(inputs), 3.0 * inputs):
        network = keras.Model(inputs, ops.relu6(added))
        assert list(hidden_activations(network).values()) == ["relu6"]


def test_hard_sigmoid_written_with_relu6_is_a_gate():
    inputs = keras.Input((4,))
    for relu6 in (layers.ReLU(6.0), ops.relu6):
        x = layers.multiply([layers.Dense(4)(inputs), relu6(inputs + 3.0) * (1 / 6)])
        assert hidden_activations(keras.Model(inputs, x)) == {}


def test_shared_layer_stays_shared_with_its_activation_after_each_call():
    first, second = keras.Input((4,)), keras.Input((4,))
    dense = layers.Dense(4, activation="relu", name="dense")
    network = keras.Model([first, second], dense(first) - dense(second))
    injected = inject(network, "swish")
    assert len(injected.weights) == 2
    x = tf.random.normal([3, 4])
    np.testing.assert_allclose(
        injected([x, 0 * x]), tf.nn.silu(x @ dense.kernel), rtol=1e-5, atol=1e-6
    )


APPLICATIONS = {
    "MobileNetV3Small": (32, 33, {"hard_silu", "relu"}),
    "VGG16": (32, 15, {"relu"}),
    "ResNet50": (32, 49, {"relu"}),
    "MobileNetV2": (32, 35, {"relu6"}),
    "EfficientNetB0": (32, 49, {"silu"}),
    "DenseNet121": (32, 121, {"relu"}),
    "EfficientNetV2B0": (32, 55, {"silu"}),
    "NASNetMobile": (32, 192, {"relu"}),
}


@pytest.mark.parametrize(
    "name",
    [
        name if name == "MobileNetV3Small" else pytest.param(name, marks=pytest.mark.slow)
        for name in APPLICATIONS
    ],
)
def test_networks_of_keras_applications_lose_every_old_activation(name):
    size, num_sites, old = APPLICATIONS[name]
    application = getattr(keras.applications, name)
    network = application(weights=None, input_shape=(size, size, 3), classes=3)
    found = hidden_activations(network)
    assert (len(found), set(found.values())) == (num_sites, old)
    injected = inject(network, "mish")
    assert list(hidden_activations(injected).values()) == ["mish"] * num_sites
    # NASNet was built in name scopes, which a rebuilt network has no part in: layer and variable.
    names = [[w.path.split("/")[-2:] for w in one.weights] for one in (injected, network)]
    assert names[0] == names[1]
    images = tf.random.uniform([1, size, size, 3], 0, 255)
    if len(old) == 1:
        (same,) = old
        same = "tensorflow:nn.relu6" if same == "relu6" else same
        np.testing.assert_allclose(
            inject(network, same)(images), network(images), rtol=1e-4, atol=1e-6
        )
