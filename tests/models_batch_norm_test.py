"""Batch norm on the fused operation: NumPy in float64, and Keras's layer everywhere else."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks, models
from sat_tf.injection import copy
from sat_tf.models import BatchNormalization

WITH_RENORM = pytest.mark.skipif(
    not hasattr(keras.layers.BatchNormalization(), "renorm"), reason="Keras 3.12 has no renorm"
)
RNG = np.random.default_rng(0)
MOMENTUM, EPSILON = 0.7, 1e-3
TOLERANCES = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


def layer(kind=BatchNormalization, channels=3, dtype="float32", shape=None, **options):
    """Makes a layer whose four variables are all unlike the defaults."""
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    made = kind(momentum=MOMENTUM, epsilon=EPSILON, dtype=policy, **options)
    made.build(shape or (None, 4, 5, channels))
    rng = np.random.default_rng(7)
    for variable in made.variables:
        variable.assign(rng.uniform(0.5, 2, variable.shape))
    return made


def numpy_step(x, upstream, gamma, beta):
    """Returns outputs, gradients in x, gamma and beta, and the batch's statistics, in float64."""
    x, upstream = x.astype(np.float64), upstream.astype(np.float64)
    axes, count = (0, 1, 2), x[..., 0].size
    mean, variance = x.mean(axes), x.var(axes)
    unit = (x - mean) / np.sqrt(variance + EPSILON)
    d_beta, d_gamma = upstream.sum(axes), (upstream * unit).sum(axes)
    d_x = gamma / np.sqrt(variance + EPSILON) * (upstream - (d_beta + unit * d_gamma) / count)
    return gamma * unit + beta, (d_x, d_gamma, d_beta), mean, variance


def differentiated(made, x, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = made(x, training=True)
        sum_ = tf.reduce_sum(tf.cast(outputs, tf.float32) * upstream)
    return outputs, tape.gradient(sum_, [x, *(v.value for v in made.trainable_variables)])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", [(6, 4, 5, 3), (2, 1, 1, 3), (3, 5, 2, 1)])
def test_outputs_gradients_and_statistics_are_those_of_the_formulas(shape, dtype):
    made = layer(channels=shape[-1], dtype=dtype)
    gamma, beta, moving_mean, moving_variance = (v.numpy().astype(float) for v in made.variables)
    tolerance = TOLERANCES[dtype]
    for step in range(3):
        x = tf.cast(RNG.normal(1 + step, 2, shape), dtype)
        upstream = RNG.normal(size=shape).astype(np.float32)
        outputs, gradients = differentiated(made, x, upstream)
        expected, slopes, mean, variance = numpy_step(
            x.numpy().astype(np.float64), upstream, gamma, beta
        )
        assert outputs.dtype == x.dtype
        np.testing.assert_allclose(outputs.numpy().astype(float), expected, atol=4 * tolerance)
        for found, slope in zip(gradients, slopes, strict=True):
            scale = max(1, np.abs(slope).max())
            np.testing.assert_allclose(
                found.numpy().astype(float), slope, atol=8 * tolerance * scale
            )
        # The biased variance, as Keras; the unbiased one of two images is twice as large.
        moving_mean = MOMENTUM * moving_mean + (1 - MOMENTUM) * mean
        moving_variance = MOMENTUM * moving_variance + (1 - MOMENTUM) * variance
        np.testing.assert_allclose(made.moving_mean, moving_mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(made.moving_variance, moving_variance, rtol=1e-4, atol=1e-5)


@WITH_RENORM
def test_keras_3_12_which_knows_no_renorm_fuses_as_well():
    x = tf.constant(RNG.normal(size=(4, 4, 5, 3)), tf.float32)
    one, other = layer(BatchNormalization), layer(BatchNormalization)
    del one.renorm
    np.testing.assert_array_equal(one(x, training=True), other(x, training=True))
    assert one._fuses(x, None)


@pytest.mark.parametrize("lacking", ["scale", "center"])
def test_a_layer_without_scale_or_offset_is_kerass(lacking):
    x = tf.constant(RNG.normal(size=(4, 4, 5, 3)), tf.float32)
    found, expected = (
        layer(kind, **{lacking: False})(x, training=True)
        for kind in (BatchNormalization, keras.layers.BatchNormalization)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "options, shape, call",
    [
        ({}, (4, 4, 5, 3), {"training": False}),
        ({"trainable": False}, (4, 4, 5, 3), {"training": True}),
        pytest.param({"renorm": True}, (4, 4, 5, 3), {"training": True}, marks=WITH_RENORM),
        ({"axis": 1}, (4, 4, 5, 3), {"training": True}),
        ({"synchronized": True}, (4, 4, 5, 3), {"training": True}),
        ({}, (8, 3), {"training": True}),
        ({}, (4, 5, 3), {"training": True, "mask": np.arange(20).reshape(4, 5) % 3 > 0}),
        ({}, (4, 4, 5, 3), {"training": True, "mask": np.arange(80).reshape(4, 4, 5) % 3 > 0}),
    ],
)
def test_all_else_is_kerass_to_the_bit(options, shape, call):
    x = tf.constant(RNG.normal(size=shape), tf.float32)
    ours, kerass = (
        layer(kind, shape=(None, *shape[1:]), **options)
        for kind in (BatchNormalization, keras.layers.BatchNormalization)
    )
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        found, expected = ours(x, **call), kerass(x, **call)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(tape.gradient(found, x), tape.gradient(expected, x))
    for one, other in zip(ours.get_weights(), kerass.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def operations(network, training):
    shape = [None, *network.input_shape[1:]]
    call = tf.function(lambda x: network(x, training=training), autograph=False)
    graph = call.get_concrete_function(tf.TensorSpec(shape, tf.float32)).graph
    return [operation.type for operation in graph.get_operations()]


def norms(network):
    return [one for one in network._flatten_layers() if isinstance(one, BatchNormalization)]


@pytest.mark.parametrize("name", ["resnet8", "preactresnet18"])
def test_our_networks_train_on_the_fused_operation_and_infer_without_it(name):
    network = models.build(name, activation="relu", num_classes=3, image_size=8)
    assert operations(network, True).count("FusedBatchNormV3") == len(norms(network)) > 0
    assert "FusedBatchNormV3" not in operations(network, False)


def foreign():
    """A network of Keras's own layers, one of them in a nested model."""
    inner = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.BatchNormalization(name="in")])
    x = pixels = keras.Input((4, 4, 2))
    x = keras.layers.BatchNormalization(epsilon=0.1, name="out")(inner(x))
    x = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    network = keras.Model(pixels, x)
    rng = np.random.default_rng(3)
    network.set_weights([rng.uniform(0.5, 2, w.shape) for w in network.get_weights()])
    return network


def test_a_copy_with_fused_batch_norm_is_the_same_network():
    network = foreign()
    fused = copy(network, fused_batch_norm=True)
    assert [one.name for one in norms(fused)] == ["in", "out"] and not norms(network)
    assert not norms(copy(network))
    x = tf.constant(RNG.normal(size=(5, 4, 4, 2)), tf.float32)
    np.testing.assert_array_equal(fused(x), network(x))
    np.testing.assert_allclose(fused(x, training=True), network(x, training=True), atol=1e-4)
    for one, other in zip(fused.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert [v.path for v in fused.variables] == [v.path for v in network.variables]


def test_weights_of_the_one_kind_of_layer_load_into_the_other(tmp_path):
    network = foreign()
    fused = copy(network, fused_batch_norm=True)
    network.set_weights([w + 0.5 for w in network.get_weights()])
    network.save_weights(tmp_path / "a.weights.h5")
    fused.load_weights(tmp_path / "a.weights.h5")
    fused.save(tmp_path / "fused.keras")
    x = tf.constant(RNG.normal(size=(5, 4, 4, 2)), tf.float32)
    loaded = keras.models.load_model(tmp_path / "fused.keras")
    assert len(norms(loaded)) == 2
    np.testing.assert_array_equal(loaded(x), network(x))


@pytest.mark.parametrize("mode", ["inference", "batch"])
def test_an_attack_leaves_the_statistics_alone(mode):
    network = copy(foreign(), fused_batch_norm=True)
    before = network.get_weights()
    attack = attacks.PGD(epsilon=1, step_size=1, steps=2, batch_norm=mode)
    images = tf.constant(RNG.uniform(0, 255, (4, 4, 4, 2)), tf.float32)
    tf.function(attack)(network, images, tf.constant([0, 1, 2, 0]), tf.constant([1, 2]))
    for one, other in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_compiles_with_xla():
    x = tf.constant(RNG.normal(size=(6, 4, 5, 3)), tf.float32)
    plain, compiled = layer(), layer()
    found = tf.function(lambda x: compiled(x, training=True), jit_compile=True)(x)
    np.testing.assert_allclose(found, plain(x, training=True), atol=1e-5)
    np.testing.assert_allclose(compiled.moving_variance, plain.moving_variance, rtol=1e-5)
