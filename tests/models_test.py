"""Laws that hold for every network, and the CIFAR family against the literature."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import models
from sat_tf.callbacks import curves
from tests.telling import telling, tinted

SMALL = ("resnet8", "resnet18", "preactresnet18", "wrn-10-1")
# Without batch norm, and in the narrow form of small images.
NARROW = {
    "convnext_tiny_convstem": {"width": 4, "depth": 1, "patch_size": 1},
    "vit_tiny": {"width": 4, "num_heads": 2, "depth": 1, "patch_size": 4},
}


def build(name, activation="swish", num_classes=10, image_size=8, **options):
    if name in ("resnet18", "resnet34"):
        options.setdefault("width", 8)
    options = NARROW.get(name, {}) | options
    return models.build(
        name, activation=activation, num_classes=num_classes, image_size=image_size, **options
    )


@functools.cache
def built(name):
    """Builds a network for laws that only look at it."""
    return build(name)


def count(name, **options):
    """Counts parameters without allocating them."""
    with keras.StatelessScope():
        return models.num_parameters(build(name, "relu", image_size=32, **options))


def site_names(name, **options):
    """Names of the sites at which the network asked for an activation."""
    names = []

    def activation(site):
        names.append(site)
        return keras.layers.Activation("tanh", name=site)

    return build(name, activation, **options), names


def conv(size, filters_in, filters_out):
    return size * size * filters_in * filters_out


def basic_resnet(num_blocks, width, projection, classes=10):
    """Parameters of a post-activation ResNet, by the formula of the paper's tables."""
    total, channels = conv(3, 3, width) + 2 * width, width
    for group, repeats in enumerate(num_blocks):
        filters = width * 2**group
        for _ in range(repeats):
            total += conv(3, channels, filters) + conv(3, filters, filters) + 4 * filters
            if channels != filters and projection:
                total += conv(1, channels, filters) + 2 * filters
            channels = filters
    return total + channels * classes + classes


def preactivation_resnet(num_blocks, stem, width, classes=10):
    total, channels = conv(3, 3, stem), stem
    for group, repeats in enumerate(num_blocks):
        filters = width * 2**group
        for _ in range(repeats):
            total += 2 * channels + conv(3, channels, filters)
            total += 2 * filters + conv(3, filters, filters)
            total += conv(1, channels, filters) if channels != filters else 0
            channels = filters
    return total + 2 * channels + channels * classes + classes


@pytest.mark.parametrize(
    ("name", "published", "closed_form"),
    [
        # He et al. 2015, table 6, gives 0.27M, 0.46M, 0.85M and 1.7M.
        ("resnet20", 269_722, basic_resnet((3,) * 3, 16, False)),
        ("resnet32", 464_154, basic_resnet((5,) * 3, 16, False)),
        ("resnet56", 853_018, basic_resnet((9,) * 3, 16, False)),
        # Zagoruyko and Komodakis 2016, table 4, gives 2.7M and 36.5M.
        ("wrn-16-4", 2_748_890, preactivation_resnet((2,) * 3, 16, 64)),
        ("wrn-28-10", 36_479_194, preactivation_resnet((4,) * 3, 16, 160)),
    ],
)
def test_parameters_are_those_of_the_literature(name, published, closed_form):
    assert count(name) == published == closed_form


def test_wide_variants_of_the_imagenet_depths_are_those_of_the_literature():
    assert count("resnet18", width=64) == 11_173_962 == basic_resnet((2,) * 4, 64, True)
    assert count("resnet34", width=64) == 21_282_122 == basic_resnet((3, 4, 6, 3), 64, True)
    # The published count, of a variant without the last norm, and that norm.
    expected = preactivation_resnet((2,) * 4, 64, 64)
    assert count("preactresnet18") == 11_171_146 + 2 * 512 == expected


@pytest.mark.parametrize(
    ("name", "sites"),
    [("resnet8", 1 + 2 * 3), ("resnet18", 1 + 2 * 8), ("preactresnet18", 2 * 8 + 1)],
)
def test_the_activation_reaches_every_site_and_nothing_else_bends(name, sites):
    network, names = site_names(name)
    assert len(names) == len(set(names)) == sites
    assert [x.name for x in network.layers if isinstance(x, keras.layers.Activation)] == names
    fused = [x for x in network.layers if hasattr(x, "activation") and x.name not in names]
    assert all(x.activation is keras.activations.linear for x in fused)


@pytest.mark.parametrize("name", (*SMALL, *NARROW))
def test_a_spec_reaches_every_site_as_a_layer_of_its_own(name):
    _, names = site_names(name)
    network = built(name)
    layers = [network.get_layer(site) for site in names]
    assert len({id(layer) for layer in layers}) == len(names)
    x = tf.constant([-2.0, 0.5])
    for layer in layers:
        np.testing.assert_allclose(layer(x), x / (1 + np.exp([2.0, -0.5])), rtol=1e-5)


def as_relu(network):
    """Moves PSSiLU's only pair to where the function is ReLU."""
    (a, b) = [w for w in network.trainable_variables if "pssilu" in w.name]
    a.assign([1e6])
    b.assign([0.0])
    return network


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1"])
def test_one_pair_of_pssilu_rules_every_site_also_after_a_file_and_a_clone(name, tmp_path):
    relu, network = build(name, "relu"), build(name, "pssilu")
    assert len(network.trainable_variables) == len(relu.trainable_variables) + 2
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    clone = keras.models.clone_model(network)
    pixels = tf.random.uniform((2, 8, 8, 3), 0, 255)
    np.testing.assert_array_equal(loaded(pixels), network(pixels))
    for shared in (network, loaded, clone):
        assert len(shared.trainable_variables) == len(network.trainable_variables)
        weights = [w.numpy() for w in as_relu(shared).weights if "pssilu" not in w.name]
        relu.set_weights(weights)
        np.testing.assert_allclose(shared(pixels), relu(pixels), rtol=1e-4, atol=1e-5)


def test_tensorboard_finds_the_shared_pair_of_pssilu_once():
    (layer,) = curves.activation_layers(build("resnet8", "pssilu"))
    assert [w.name for w in layer.trainable_weights] == ["pssilu_a", "pssilu_b"]


@pytest.mark.parametrize("name", (*SMALL, *NARROW))
def test_names_do_not_depend_on_what_was_built_before(name):
    first, second = built(name), build(name)
    assert first.name == name
    assert [x.name for x in first.layers] == [x.name for x in second.layers]
    assert [w.path for w in first.weights] == [w.path for w in second.weights]


@pytest.mark.parametrize("name", (*SMALL, *NARROW))
def test_logits_are_float32_of_any_batch_and_return_from_a_file(name, tmp_path):
    network = build(name, num_classes=7)
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    for batch in (1, 3):
        pixels = tf.random.uniform((batch, 8, 8, 3), 0, 255)
        logits = network(pixels)
        assert logits.shape == (batch, 7)
        assert logits.dtype == tf.float32
        np.testing.assert_array_equal(loaded(pixels), logits)


def test_images_may_be_oblong_and_grey():
    network = build("resnet8", image_size=(8, 12), num_channels=1)
    assert network.input_shape == (None, 8, 12, 1)
    assert network(tf.zeros((2, 8, 12, 1))).shape == (2, 10)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_pixels_are_normalised_to_plus_minus_one_without_rounding(policy):
    keras.config.set_dtype_policy(policy)
    try:
        network = build("resnet8")
    finally:
        keras.config.set_dtype_policy("float32")
    assert network.get_layer("group0_block0_conv1").compute_dtype == policy.removeprefix("mixed_")
    # 100.3 is between two bfloat16 numbers, 100.0 and 100.5.
    pixels = np.tile([0.0, 100.3, 255.0], (1, 8, 8, 1)).astype(np.float32)
    until = keras.Model(network.input, [network.get_layer("normalise").output, network.output])
    for call in (until, tf.function(until)):
        images, logits = call(tf.constant(pixels))
        assert images.dtype == logits.dtype == tf.float32
        np.testing.assert_allclose(images[0, 0, 0], [-1, 100.3 / 127.5 - 1, 1], atol=1e-6)


def test_a_strided_block_sees_its_whole_neighbourhood():
    """A unit image moves the strided 3x3 outputs whose centre, an even position, is next to it."""
    network = build("resnet8", image_size=8)
    x = network.get_layer("group0_block0_act").output
    strided = keras.Model(x, network.get_layer("group1_block0_conv1").output)
    for position, expected in ((0, [0]), (2, [1]), (3, [1, 2]), (7, [3])):
        image = np.zeros((1, 8, 8, 16), np.float32)
        image[0, position] = 1
        moved = np.abs(strided(image)).sum(axis=(0, 2, 3))
        assert np.flatnonzero(moved).tolist() == expected


def test_the_padded_shortcut_keeps_every_second_position_and_appends_zeros():
    network = build("resnet8")
    shortcut = network.get_layer("group1_block0_shortcut")
    x = tf.random.normal((2, 5, 8, 16))
    result = shortcut(x)
    np.testing.assert_array_equal(result[..., :16], x[:, ::2, ::2])
    np.testing.assert_array_equal(result[..., 16:], np.zeros((2, 3, 4, 16)))


def randomise(network):
    """Gives norms statistics that any mistaken order or pairing would show in the logits."""
    rng = np.random.default_rng(1)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            count = layer.gamma.shape[0]
            scale, centre = rng.uniform(0.5, 1.5, (2, count)), rng.normal(0, 0.3, (2, count))
            layer.set_weights([scale[0], centre[0], centre[1], scale[1]])
    bias = network.get_layer("logits").bias
    bias.assign(-tf.reduce_mean(network(tinted(network.input_shape[1:])), axis=0))
    return telling(network)


class Numpy:
    """The forward passes of the papers in float64, with a network's weights; relu throughout."""

    def __init__(self, network):
        self.network = network
        self.names = {layer.name for layer in network.layers}

    def weights(self, name):
        return [w.astype(np.float64) for w in self.network.get_layer(name).get_weights()]

    def conv(self, x, name, stride=1):
        (kernel,) = self.weights(name)
        size = len(kernel)
        x = np.pad(x, [(0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
        return np.einsum("nhwcij,ijcf->nhwf", windows[:, ::stride, ::stride], kernel, optimize=True)

    def norm(self, x, name):
        gamma, beta, mean, variance = self.weights(name)
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def after(self, x, name, stride):
        """A block of He et al. 2015: the activation comes last."""
        y = np.maximum(self.norm(self.conv(x, f"{name}_conv1", stride), f"{name}_conv1_bn"), 0)
        y = self.norm(self.conv(y, f"{name}_conv2"), f"{name}_conv2_bn")
        if f"{name}_convshortcut" in self.names:
            x = self.conv(x, f"{name}_convshortcut", stride)
            x = self.norm(x, f"{name}_convshortcut_bn")
        elif stride == 2:
            x = np.concatenate([x[:, ::2, ::2], np.zeros_like(x[:, ::2, ::2])], axis=-1)
        return np.maximum(x + y, 0)

    def before(self, x, name, stride):
        """A block of He et al. 2016: a projection starts from what is normed and activated."""
        y = np.maximum(self.norm(x, f"{name}_conv1_bn"), 0)
        if f"{name}_convshortcut" in self.names:
            x = self.conv(y, f"{name}_convshortcut", stride)
        y = np.maximum(self.norm(self.conv(y, f"{name}_conv1", stride), f"{name}_conv2_bn"), 0)
        return x + self.conv(y, f"{name}_conv2")

    def logits(self, pixels, num_blocks):
        x = self.conv(pixels.astype(np.float64) * 2 / 255 - 1, "conv0")
        late = "last_bn" in self.names
        x = x if late else np.maximum(self.norm(x, "conv0_bn"), 0)
        for group, repeats in enumerate(num_blocks):
            for index in range(repeats):
                stride = 2 if group and not index else 1
                x = (self.before if late else self.after)(x, f"group{group}_block{index}", stride)
        x = np.maximum(self.norm(x, "last_bn"), 0) if late else x
        kernel, bias = self.weights("logits")
        return x.mean((1, 2)) @ kernel + bias


@pytest.mark.parametrize(
    ("name", "image_size", "num_blocks", "options"),
    [
        ("resnet8", (8, 11), (1, 1, 1), {}),
        ("resnet18", (9, 8), (2, 2, 2, 2), {"width": 4}),
        ("wrn-10-1", (9, 8), (1, 1, 1), {}),
        ("wrn-16-2", (8, 11), (2, 2, 2), {}),
    ],
)
def test_logits_equal_a_forward_pass_in_numpy(name, image_size, num_blocks, options):
    network = randomise(build(name, "relu", image_size=image_size, **options))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, *image_size, 3)).astype(np.float32)
    expected = Numpy(network).logits(pixels, num_blocks)
    np.testing.assert_allclose(network(pixels), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("zero_gamma", [None, True])
@pytest.mark.parametrize("name", SMALL)
def test_the_last_norm_of_a_block_starts_at_zero_where_asked_and_all_others_at_one(
    name, zero_gamma
):
    network = build(name, zero_gamma=True) if zero_gamma else built(name)
    norms = [
        layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert any(norm.name.endswith("_conv2_bn") for norm in norms)
    for norm in norms:
        assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)
        expected = 0.0 if zero_gamma and norm.name.endswith("_conv2_bn") else 1.0
        np.testing.assert_array_equal(norm.gamma, np.full(norm.gamma.shape, expected))


def test_zero_gamma_makes_every_block_an_identity_at_first():
    network = build("resnet8", lambda name: keras.layers.Identity(name=name), zero_gamma=True)
    until = [network.get_layer(n).output for n in ("conv0_act", "group0_block0_act")]
    before, after = keras.Model(network.input, until)(tf.random.uniform((1, 8, 8, 3), 0, 255))
    np.testing.assert_array_equal(before, after)


def test_kernels_start_with_variance_two_over_the_fan_out():
    network = build("resnet18", width=64, num_classes=100)
    kernel = network.get_layer("group3_block0_conv1").kernel.numpy()
    assert kernel.shape == (3, 3, 256, 512)  # the fan-in is another
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 512)), rtol=0.01)
    # Cut at two deviations of the normal distribution, 0.8796 of which remain as the kernel's own.
    assert 2.2 < np.abs(kernel).max() / kernel.std() < 2.3
    logits = network.get_layer("logits")
    np.testing.assert_allclose(logits.kernel.numpy().std(), 0.01, rtol=0.02)
    np.testing.assert_array_equal(logits.bias, np.zeros(100))


def test_no_network_regularises_itself():
    for name in (*SMALL, *NARROW):
        network = built(name)
        assert network.losses == []
        assert all(getattr(x, "kernel_regularizer", None) is None for x in network.layers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet21"}, "Unknown network 'resnet21'.*resnet20.*wrn-28-10"),
        ({"name": "wrn-29-10"}, "6n . 4"),
        ({"name": "resnet20", "depth": 3}, "no option depth.*width, zero_gamma"),
        ({"name": "resnet20", "width": "wide"}, "width='wide' .* must be of type int"),
        ({"name": "resnet20", "width": True}, "width=True .* must be of type int"),
        ({"name": "resnet20", "zero_gamma": 1}, "zero_gamma=1 .* must be of type bool"),
        ({"name": "efficientnet-b0", "dropout": "no"}, "type float . None"),
        ({"name": "resnet20", "num_classes": 1}, "at least 2, not 1"),
        ({"name": "resnet20", "image_size": 0}, "0 x 0 x 3"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_can(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


@pytest.mark.parametrize("option", ["name", "activation", "num_classes", "image_size"])
def test_a_spec_does_not_set_what_comes_from_elsewhere(option):
    assert models.parse("resnet18:width=16,zero_gamma=false") == (
        "resnet18",
        {"width": 16, "zero_gamma": False},
    )
    with pytest.raises(ValueError, match=f"sets {option}, which comes from"):
        models.parse(f"resnet18:{option}=3")
