"""ResNet and ResNeXt against the paper's facts and against PyTorch's operations."""

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import models
from sat_tf.models import layers

NUM_BLOCKS = (3, 4, 6, 3)  # of the networks of depth 50


def build(name, activation="relu", num_classes=1000, image_size=224, **options):
    return models.build(
        name, activation=activation, num_classes=num_classes, image_size=image_size, **options
    )


@functools.cache
def shapes_only(name, **arguments):
    """Builds without allocating the weights: enough to count them and to read shapes."""
    with keras.StatelessScope():
        return build(name, **arguments)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet50", 25_557_032),
        ("resnext50-32x4d", 25_028_904),
        ("resnext50-32x8d", 48_021_800),
        pytest.param("resnet101", 44_549_160, marks=pytest.mark.slow),
        pytest.param("resnet152", 60_192_808, marks=pytest.mark.slow),
        pytest.param("resnext152-32x8d", 122_372_392, marks=pytest.mark.slow),
    ],
)
def test_parameters_are_the_papers_to_the_unit(name, parameters):
    assert models.num_parameters(shapes_only(name)) == parameters


def test_smoothrelu_adds_one_parameter_at_the_stem_and_three_a_block():
    network, sites = shapes_only("resnet50", activation="smoothrelu"), 1 + 3 * sum(NUM_BLOCKS)
    paths = [w.path for w in network.trainable_weights if "smoothrelu_beta" in w.path]
    assert len(paths) == len(set(paths)) == sites
    assert models.num_parameters(network) == 25_557_032 + sites


def test_checkpoint_scopes_can_be_read_off_the_names():
    network = shapes_only("resnet50", activation="smoothrelu")
    paths = {w.path for w in network.weights}
    assert len(paths) == len(network.weights) == 316  # as the released checkpoint holds
    for path in (
        "conv0/kernel",
        "conv0_bn/moving_variance",
        "conv0_act/smoothrelu_beta",
        "group0_block0_convshortcut/kernel",
        "group3_block2_conv3_bn/gamma",
        "group3_block2_act/smoothrelu_beta",
        "logits/bias",
    ):
        assert path in paths


@pytest.mark.parametrize(
    ("size", "maps"),
    [
        ({}, (112, 56, 56, 28, 14, 7)),
        ({"image_size": 299}, (150, 75, 75, 38, 19, 10)),
    ],
)
def test_maps_have_the_papers_sizes(size, maps):
    network = shapes_only("resnet50", **size)
    ends = ["conv0_act", "pool0"] + [f"group{g}_block{n - 1}_act" for g, n in enumerate(NUM_BLOCKS)]
    assert tuple(network.get_layer(end).output.shape[1] for end in ends) == maps


def test_initial_values_are_the_papers():
    network = build("resnet50", image_size=32)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
            last = layer.name.endswith("conv3_bn")
            np.testing.assert_array_equal(layer.gamma, np.full(layer.gamma.shape, 1.0 - last))
        elif isinstance(layer, keras.layers.Conv2D):
            size, _, _, filters = layer.kernel.shape
            assert layer.bias is None
            expected = np.sqrt(2 / (size * size * filters))
            np.testing.assert_allclose(layer.kernel.numpy().std(), expected, rtol=0.03)
    logits = network.get_layer("logits")
    np.testing.assert_allclose(logits.kernel.numpy().std(), 0.01, rtol=0.01)
    np.testing.assert_array_equal(logits.bias, np.zeros(1000))


def randomise(network):
    """Gives norms statistics that any mistaken order or pairing would show in the logits."""
    rng = np.random.default_rng(1)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            count = layer.gamma.shape[0]
            scale, centre = rng.uniform(0.5, 1.0, (2, count)), rng.normal(0, 0.1, (2, count))
            layer.set_weights([scale[0], centre[0], centre[1], scale[1]])


def torch_forward(network, pixels, groups):
    """The forward pass of the paper in PyTorch operations, with the network's weights."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def weights(name):
        return [torch.tensor(w) for w in network.get_layer(name).get_weights()]

    def conv_bn(x, name, stride=1, groups=1):
        kernel = weights(name)[0].permute(3, 2, 0, 1)
        x = functional.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2, groups=groups)
        gamma, beta, mean, variance = weights(f"{name}_bn")
        return functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-5)

    x = torch.tensor(pixels).permute(0, 3, 1, 2) * 2 / 255 - 1
    x = torch.relu(conv_bn(x, "conv0", 2))
    before = 0 if x.shape[-1] % 2 == 0 else 1  # TensorFlow's SAME, spelt out
    x = functional.max_pool2d(functional.pad(x, (before, 1, before, 1), value=-np.inf), 3, 2)
    for group, repeats in enumerate(NUM_BLOCKS):
        for block in range(repeats):
            name, stride = f"group{group}_block{block}", 2 if group and not block else 1
            shortcut = x if block else conv_bn(x, f"{name}_convshortcut", stride)
            y = torch.relu(conv_bn(x, f"{name}_conv1"))
            y = torch.relu(conv_bn(y, f"{name}_conv2", stride, groups))
            x = torch.relu(shortcut + conv_bn(y, f"{name}_conv3"))
    kernel, bias = weights("logits")
    return (x.mean((2, 3)) @ kernel + bias).numpy()


@pytest.mark.parametrize(
    ("name", "groups", "image_size"), [("resnet50", 1, 64), ("resnext50-32x4d", 32, 75)]
)
def test_logits_equal_pytorchs_on_even_and_odd_maps(name, groups, image_size):
    network = build(name, num_classes=10, image_size=image_size)
    randomise(network)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, image_size, image_size, 3))
    pixels = pixels.astype(np.float32)
    expected = torch_forward(network, pixels, groups)
    np.testing.assert_allclose(network(pixels), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("strides", [1, 2])
def test_a_grouped_convolution_is_one_with_a_block_diagonal_kernel(native, strides, monkeypatch):
    if native and not layers.differentiates_groups():
        pytest.skip("this TensorFlow has no gradients of grouped convolutions on this device")
    monkeypatch.setattr(layers, "differentiates_groups", lambda: native)
    groups, inside, outside = 4, 3, 2
    grouped = layers.GroupedConv2D(
        groups * outside, 3, strides=strides, padding="same", groups=groups, use_bias=False
    )
    images = tf.random.normal((2, 6, 6, groups * inside))
    grouped.build(images.shape)
    assert grouped.kernel.shape == (3, 3, inside, groups * outside)
    dense = np.zeros((3, 3, groups * inside, groups * outside), np.float32)
    for g in range(groups):
        block = grouped.kernel.numpy()[..., g * outside : (g + 1) * outside]
        dense[:, :, g * inside : (g + 1) * inside, g * outside : (g + 1) * outside] = block
    dense = tf.constant(dense)

    with tf.GradientTape() as tape:
        tape.watch(images)
        result = tf.function(grouped)(images)
        loss = tf.reduce_sum(result**2)
    by_images, by_kernel = tape.gradient(loss, (images, grouped.kernel.value))
    with tf.GradientTape() as tape:
        tape.watch((images, dense))
        expected = tf.nn.conv2d(images, dense, strides, "SAME")
        loss = tf.reduce_sum(expected**2)
    expected_by_images, by_dense = tape.gradient(loss, (images, dense))

    np.testing.assert_allclose(result, expected, atol=1e-5)
    np.testing.assert_allclose(by_images, expected_by_images, atol=1e-4)
    for g in range(groups):
        out = slice(g * outside, (g + 1) * outside)
        block = by_dense[:, :, g * inside : (g + 1) * inside, out]
        np.testing.assert_allclose(by_kernel[..., out], block, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_resnext_trains_where_onednn_is_switched_off():
    program = """
import tensorflow as tf
from sat_tf import models
network = models.build("resnext50-32x4d", activation="swish", num_classes=10, image_size=32)
network.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
network.fit(tf.random.uniform((2, 32, 32, 3), 0, 255), tf.constant([1, 2]), verbose=0)
"""
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=300)
