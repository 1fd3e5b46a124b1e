"""ConvNeXt against its papers' counts, Keras's own network and plain NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications.convnext import ConvNeXt  # Keras has no public name for other widths.

from sat_tf import activations, injection, models
from sat_tf.models import convnext
from sat_tf.models.branches import LayerScale, StochasticDepth
from tests.telling import telling, tinted

# Width and depths of the papers, the stem's convolutions, and trained weights at 1000 classes:
# published for those with patches; those of 2303.01870 are given as 28.6, 50.3, 88.8 and
# 198.1 million.
TABLE = {
    "tiny": (96, (3, 3, 9, 3), None, 28_589_128),
    "small": (96, (3, 3, 27, 3), None, 50_223_688),
    "base": (128, (3, 3, 27, 3), None, 88_591_464),
    "tiny_convstem": (96, (3, 3, 9, 3), (48, 96), 28_627_432),
    "small_convstem": (96, (3, 3, 27, 3), (48, 96), 50_261_992),
    "large": (192, (3, 3, 27, 3), None, 197_767_336),
    "base_convstem": (128, (3, 3, 27, 3), (64, 96, 128), 88_753_416),
    "large_convstem": (192, (3, 3, 27, 3), (96, 144, 192), 198_134_680),
}
NARROW = {"width": 8, "depth": 1, "patch_size": 1}


def build(name="tiny", activation="gelu", num_classes=10, image_size=8, **options):
    return models.build(
        f"convnext_{name}",
        activation=activation,
        num_classes=num_classes,
        image_size=image_size,
        **options,
    )


def closed_form(width, depths, stem, classes=1000):
    """Kernels and biases of every convolution, two a norm's channel, one a scale's."""
    total = 4 * 4 * 3 * width + 3 * width if stem is None else 0
    for before, after in zip((3, *(stem or ())), stem or (), strict=False):
        total += 9 * before * after + 3 * after
    for stage, depth in enumerate(depths):
        filters = width * 2**stage
        total += 2 * filters * filters + 2 * filters if stage else 0
        total += depth * (49 * filters + filters + 2 * filters + filters)
        total += depth * (2 * 4 * filters * filters + 4 * filters + filters)
    return total + 2 * filters + filters * classes + classes


@pytest.mark.parametrize(
    "name", [n if n == "tiny_convstem" else pytest.param(n, marks=pytest.mark.slow) for n in TABLE]
)
def test_the_built_network_has_the_papers_parameters(name):
    with keras.StatelessScope():
        network = build(name, num_classes=1000, image_size=224)
    assert models.num_parameters(network) == TABLE[name][-1]


@pytest.mark.parametrize("name", TABLE)
def test_widths_depths_and_stems_give_the_papers_parameters(name):
    assert closed_form(*TABLE[name][:3]) == TABLE[name][-1]
    width, depths, stem, _ = TABLE[name]
    body = convnext.NETWORKS[f"convnext_{name}"]
    rate = {"tiny": 0.1, "small": 0.4, "base": 0.5, "large": 0.5}[name.split("_")[0]]
    assert body.keywords == {"width": width, "stochastic_depth": rate}
    assert tuple(3 * times for times in body.args[1]) == depths


def test_logits_equal_those_of_kerass_network_with_the_same_weights():
    image_size = (35, 40)  # of which the last rows and columns belong to no patch
    theirs = ConvNeXt(
        depths=(1, 1, 3, 1),
        projection_dims=(8, 16, 32, 64),
        include_preprocessing=False,
        weights=None,
        input_shape=(*image_size, 3),
        classes=10,
        classifier_activation=None,
    )
    ours = build(image_size=image_size, width=8, depth=1)
    rng = np.random.default_rng(1)
    for weight, target in zip(theirs.weights, ours.weights, strict=True):
        scale = 1 / np.sqrt(np.prod(weight.shape[:-1])) if weight.shape.rank > 1 else 0.5
        value = rng.normal(0, scale, weight.shape)
        weight.assign(value)
        # A kernel of one group a channel is [7, 7, 1, C] there and [7, 7, C, 1] as a depthwise one.
        target.assign(value if value.shape == target.shape else value.swapaxes(2, 3))
    pixels = tinted((*image_size, 3))
    expected = theirs(pixels * 2 / 255 - 1).numpy()
    assert np.ptp(expected, axis=0).min() > 0.03 * np.abs(expected).max()
    np.testing.assert_allclose(ours(pixels), expected, atol=1e-4 * np.abs(expected).max())


def stem_in_numpy(network, pixels, num_strided):
    """Follows the stem of 2303.01870 in float64: 3x3 with a ring of zeros, norm, relu."""
    x, index = pixels.astype(np.float64) * 2 / 255 - 1, 1
    while f"stem_conv{index}" in {layer.name for layer in network.layers}:
        kernel, bias = map(np.float64, network.get_layer(f"stem_conv{index}").get_weights())
        gamma, beta = map(np.float64, network.get_layer(f"stem_conv{index}_norm").get_weights())
        stride = 2 if index <= num_strided else 1
        x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
        x = np.einsum("nhwcij,ijcf->nhwf", windows[:, ::stride, ::stride], kernel) + bias
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x, index = np.maximum(gamma * x + beta, 0), index + 1
    return x, index - 1


@pytest.mark.parametrize(
    ("name", "patch_size", "num_strided", "num_convolutions"),
    [("base", 4, 2, 3), ("tiny", 2, 1, 2)],
)
def test_the_convolutional_stem_is_that_of_the_paper(
    name, patch_size, num_strided, num_convolutions
):
    options = {"width": 8, "depth": 1, "patch_size": patch_size}
    network = build(f"{name}_convstem", "relu", image_size=(33, 32), **options)
    last = network.get_layer(f"stem_conv{num_convolutions}_act").output
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 33, 32, 3)).astype(np.float32)
    expected, found = stem_in_numpy(network, pixels, num_strided)
    assert found == num_convolutions
    assert expected.shape[1:] == (-(-33 // patch_size), 32 // patch_size, 8)
    np.testing.assert_allclose(keras.Model(network.input, last)(pixels), expected, atol=1e-4)


def test_the_activation_is_handed_in_and_can_be_exchanged():
    sites = []

    def activation(site):
        sites.append(site)
        return keras.layers.Activation("swish", name=site)

    network = build("tiny_convstem", activation, **NARROW)
    assert len(sites) == len(set(sites)) == 2 + 6  # of the stem and the blocks
    assert injection.hidden_activations(network) == dict.fromkeys(sites, "silu")
    injected = injection.inject(network, "gelu")
    assert set(injection.hidden_activations(injected).values()) == {"gelu"}


def test_a_narrow_network_tells_images_apart_as_it_begins():
    telling(build("tiny_convstem", layer_scale=1.0, num_classes=3, **NARROW))


def test_weights_begin_as_the_papers():
    network = build(width=32, depth=1, image_size=32, num_classes=100)
    for layer in network.layers:
        if isinstance(layer, LayerScale):
            np.testing.assert_array_equal(layer.gamma, np.float32([1e-6] * layer.gamma.shape[0]))
        elif isinstance(layer, keras.layers.LayerNormalization):
            assert layer.epsilon == 1e-6
        elif hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            np.testing.assert_allclose(kernel.std(), 0.02, rtol=5 / np.sqrt(2 * kernel.size))
            np.testing.assert_array_equal(layer.bias, np.zeros(layer.bias.shape))
    assert not [x for x in build(layer_scale=0, **NARROW).layers if isinstance(x, LayerScale)]


def test_stochastic_depth_grows_linearly_with_the_block():
    layers = build(stochastic_depth=0.5, **NARROW).layers
    rates = [layer.rate for layer in layers if isinstance(layer, StochasticDepth)]
    np.testing.assert_allclose(rates, 0.5 * np.arange(1, 6) / 5)  # the first block stays always
    assert not [
        x for x in build(stochastic_depth=0, **NARROW).layers if isinstance(x, StochasticDepth)
    ]


def test_a_branch_is_left_out_by_image_and_seed_in_an_update_and_nowhere_else():
    layer, ones = StochasticDepth(0.3), tf.ones((4000, 2, 2, 3))

    def drawn(seed, training=True):
        with activations.drawing(tf.constant(seed)):
            return np.asarray(layer(ones, training=training)), np.asarray(
                layer(ones, training=training)
            )

    first, second = drawn([1, 2])
    flat = first.reshape(4000, -1)
    assert (flat == flat[:, :1]).all()
    np.testing.assert_allclose(np.unique(flat), [0, 1 / 0.7], rtol=1e-6)
    assert abs((flat[:, 0] > 0).mean() - 0.7) < 5 * np.sqrt(0.21 / 4000)
    assert (first != second).any() and (first != drawn([1, 3])[0]).any()
    np.testing.assert_array_equal(first, drawn([1, 2])[0])
    np.testing.assert_array_equal(drawn([1, 2], training=False)[0], ones)
    np.testing.assert_array_equal(layer(ones, training=True), ones)  # as in an attack


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 2}, "8 x 8 .* too small for patch_size=2.*need 16;.*_tiny:patch_size=1[.]"),
        ({"image_size": (40, 31)}, "40 x 31 pixels .*=4, .* need 32; .*_tiny:patch_size=2[.]"),
        ({"image_size": 7}, "need 32; give an image_size of 8 or more and patch_size=1"),
        ({"name": "tiny_convstem", "patch_size": 3, "image_size": 64}, "is 3.*use one of 1, 2, 4"),
        ({"name": "tiny_convstem", "patch_size": 8, "image_size": 64}, "is 8.*use one of 1, 2, 4"),
        ({"stochastic_depth": 1.0, "patch_size": 1}, "stochastic_depth is 1.0; .* below 1"),
        ({"depth": 0}, "are 96, 0 and 4; give 1 or more"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
