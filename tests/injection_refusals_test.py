"""What injection cannot reach is refused by name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.injection import copy, hidden_activations, inject

layers, ops = keras.layers, keras.ops


class _Hidden(layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)

    def compute_output_shape(self, input_shape):
        return input_shape


class _Holder(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.ReLU()

    def call(self, x):
        return self.inner(x)


class Seen(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, x):
        return self.dense(x)


class _Doubled(layers.Dense):
    def call(self, inputs):
        return self.activation(inputs @ self.kernel) * 2


def _nested(function):
    """A model to be held by a layer or by another model."""
    inputs = keras.Input((4,))
    return keras.Model(inputs, function(inputs))


class _Subclassed(keras.Model):
    def call(self, x):
        return tf.nn.relu(x)


@pytest.mark.parametrize(
    "culprit",
    [
        _Hidden(tf.nn.relu, name="culprit"),
        _Hidden(lambda x: tf.nn.relu(x), name="culprit"),
        _Hidden(lambda x: tf.nn.silu(x), name="culprit"),
        _Hidden(lambda x: keras.activations.gelu(x), name="culprit"),
        _Hidden(lambda x: keras.activations.mish(x), name="culprit"),
        _Hidden(tf.function(lambda x: tf.nn.elu(x)), name="culprit"),
        _Hidden(lambda x: tf.function(tf.nn.elu)(tf.function(tf.identity)(x)), name="culprit"),
        _Hidden(lambda x: tf.function(tf.identity)(tf.function(tf.nn.elu)(x)), name="culprit"),
        _Hidden(lambda x: tf.maximum(x, 0.0), name="culprit"),
        _Hidden(lambda x: x - tf.minimum(x, 0.0), name="culprit"),
        _Hidden(lambda x: 2.0 * x * tf.sigmoid(x), name="culprit"),
        _Hidden(lambda x: tf.where(x > 0, x, tf.exp(x) - 1), name="culprit"),
        _Hidden(lambda x: x * tf.cast(x > 0, x.dtype), name="culprit"),
        _Hidden(lambda x: x * (0.5 + 0.5 * tf.math.erf(x)), name="culprit"),
        _Holder(name="culprit"),
        layers.Lambda(lambda x: tf.nn.relu(x), name="culprit"),
        layers.Activation(lambda x: x * x, name="culprit"),
        layers.TimeDistributed(layers.Dense(4, activation="relu"), name="culprit"),
        layers.LSTM(4, activation="relu", name="culprit"),
        layers.RNN(
            layers.StackedRNNCells([layers.LSTMCell(4), layers.LSTMCell(4, activation="elu")]),
            name="culprit",
        ),
        _Doubled(4, activation="relu", name="culprit"),
        layers.TimeDistributed(_nested(lambda x: _nested(ops.relu)(x)), name="culprit"),
        layers.TimeDistributed(_nested(lambda x: ops.maximum(x, 0.0)), name="culprit"),
        layers.Bidirectional(layers.SimpleRNN(2, activation="relu"), name="culprit"),
        _Subclassed(name="culprit"),
    ],
)
def test_what_cannot_be_reached_is_refused_by_name(culprit):
    inputs = keras.Input((5, 4))
    network = keras.Model(inputs, culprit(inputs))
    for ask in (hidden_activations, lambda model: inject(model, "swish")):
        with pytest.raises(ValueError, match="culprit"):
            ask(network)


@pytest.mark.parametrize(
    "written",
    [
        lambda x: ops.maximum(x, 0),
        lambda x: ops.maximum(x, 0.0),
        lambda x: ops.maximum(np.float32(0), x),
        lambda x: ops.maximum(x, np.zeros(4)),
        lambda x: ops.maximum(x1=x, x2=0.0),
        lambda x: x - ops.minimum(x, 0.0),
        lambda x: x * 0.5 * (1.0 + ops.erf(x * 0.7)),
        lambda x: ops.where(x > 0, x, 0.0),
        lambda x: ops.where(x <= 0.0, 0.1 * x, x),
        lambda x: x * ops.cast(x > 0, "float32"),
        lambda x: x * ops.sigmoid(x),
        lambda x: ops.sigmoid(1.7 * x) * x,
        lambda x: layers.multiply([x, layers.Activation("sigmoid")(x)]),
        lambda x: x * ops.relu6(x + 3.0) / 6.0,
    ],
)
def test_activation_written_out_in_the_graph_is_refused_by_name(written):
    inputs = keras.Input((4,))
    network = keras.Model(inputs, written(inputs))
    with pytest.raises(ValueError, match="multiply|maximum|minimum|where"):
        inject(network, "swish")


def test_a_bound_that_is_not_zero_is_no_activation():
    bounded = _Hidden(lambda x: tf.minimum(tf.maximum(x, -3.0), 250.0), name="bounded")
    inputs = keras.Input((8, 8, 3))
    network = keras.Model(inputs, layers.ReLU(name="site")(bounded(inputs)))
    assert hidden_activations(network) == {"site": "relu"}


def test_layer_of_one_s_own_without_an_activation_is_kept():
    scaled = _Hidden(lambda x: tf.pad(x * 2.0, [[0, 0]] * 4), name="harmless")
    gate = _Hidden(lambda x: x * tf.sigmoid(tf.reduce_mean(x, [1, 2], True)), name="gate")
    mask = _Hidden(lambda x: tf.where(tf.reduce_mean(x) > 0.0, x, 0.0), name="mask")
    inputs = keras.Input((8, 8, 3))
    x = mask(gate(scaled(inputs)))
    x = ops.where(layers.GlobalMaxPooling2D(keepdims=True)(x) > 0, x, 0.0)
    network = keras.Model(inputs, layers.ReLU(name="site")(x))
    assert hidden_activations(network) == {"site": "relu"}


class _ActsAfterwards(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return tf.nn.relu(super().call(inputs))


def test_a_sequential_model_with_code_of_its_own_is_refused_and_copied_whole():
    model = _ActsAfterwards([keras.Input((4,)), layers.Dense(3)], name="acts")
    with pytest.raises(ValueError, match="'acts' is a _ActsAfterwards, whose graph cannot be seen"):
        inject(model, "swish")
    x = tf.random.normal([9, 4])
    made = copy(model)
    assert type(made) is _ActsAfterwards and tf.reduce_min(model(x)) == 0
    np.testing.assert_array_equal(made(x), model(x))


def test_subclassed_model_is_refused_by_name():
    model = _Subclassed(name="subclassed")
    model(tf.zeros([1, 4]))
    with pytest.raises(ValueError, match="'subclassed'.*functional"):
        inject(model, "swish")
    with pytest.raises(ValueError, match="not built"):
        inject(keras.Sequential([layers.Dense(3)]), "swish")
