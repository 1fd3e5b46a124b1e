"""Vision transformers against their papers' counts and a float64 forward pass in plain NumPy."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import injection, models
from sat_tf.models.branches import StochasticDepth
from tests.telling import telling, tinted

# Width, patch, stem and trained weights at 224 pixels and 1000 classes; DeiT's counts, and that of
# 2303.01870 for the small one with convolutions, given there as 22.8 million.
TABLE = {
    "tiny": (192, None, 5_717_416),
    "small": (384, None, 22_050_664),
    "small_convstem": (384, (48, 96, 192, 384), 22_777_576),
}
NARROW = {"width": 12, "num_heads": 3, "depth": 2, "patch_size": 4}


def build(name="tiny", activation="gelu", num_classes=10, image_size=8, **options):
    return models.build(
        f"vit_{name}",
        activation=activation,
        num_classes=num_classes,
        image_size=image_size,
        **options,
    )


def closed_form(width, stem, classes=1000):
    total = 16 * 16 * 3 * width + width if stem is None else width * width + width
    for before, after in zip((3, *(stem or ())), stem or (), strict=False):
        total += 9 * before * after + 3 * after
    total += width + (1 + 14 * 14) * width
    total += 12 * (4 * (width * width + width) + 8 * width * width + 5 * width + 4 * width)
    return total + 2 * width + width * classes + classes


@pytest.mark.parametrize(
    "name", [n if n == "tiny" else pytest.param(n, marks=pytest.mark.slow) for n in TABLE]
)
def test_the_built_network_has_the_papers_parameters(name):
    with keras.StatelessScope():
        network = build(name, num_classes=1000, image_size=224)
    assert models.num_parameters(network) == TABLE[name][-1]


@pytest.mark.parametrize("name", TABLE)
def test_widths_and_stems_give_the_papers_parameters(name):
    width, stem, published = TABLE[name]
    assert closed_form(width, stem) == published


class Numpy:
    """The forward pass of 2010.11929 in float64, with a network's weights."""

    def __init__(self, network):
        self.weights = {w.path: np.float64(w) for w in network.weights}

    def of(self, scope, *names):
        return [self.weights[f"{scope}/{name}"] for name in names]

    def norm(self, x, scope):
        gamma, beta = self.of(scope, "gamma", "beta")
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return gamma * x + beta

    def dense(self, x, scope):
        kernel, bias = self.of(scope, "kernel", "bias")
        return x @ kernel + bias

    def attention(self, x, scope):
        """Heads one by one: softmax of queries and keys over the root of their length."""
        (wq, bq), (wk, bk), (wv, bv), (wo, bo) = (
            self.of(f"{scope}/{part}", "kernel", "bias")
            for part in ("query", "key", "value", "attention_output")
        )
        total = bo
        for head in range(wq.shape[1]):
            q, k, v = (x @ w[:, head] + b[head] for w, b in ((wq, bq), (wk, bk), (wv, bv)))
            scores = q @ k.swapaxes(1, 2) / np.sqrt(wq.shape[2])
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            total = total + shares / shares.sum(-1, keepdims=True) @ v @ wo[head]
        return total

    def logits(self, pixels, depth, patch):
        x = np.float64(pixels) * 2 / 255 - 1
        kernel, bias = self.of("stem_conv", "kernel", "bias")
        windows = np.lib.stride_tricks.sliding_window_view(x, (patch, patch), axis=(1, 2))
        x = np.einsum("nhwcij,ijcf->nhwf", windows[:, ::patch, ::patch], kernel) + bias
        token, position = self.of("tokens", "token", "position")
        x = x.reshape(len(x), -1, x.shape[-1])
        x = np.concatenate([np.tile(token, (len(x), 1, 1)), x], axis=1) + position
        for scope in (f"block{index}" for index in range(depth)):
            y = self.norm(x, f"{scope}_attention_norm")
            x = x + self.attention(y, f"{scope}_attention")
            y = self.norm(x, f"{scope}_mlp_norm")
            y = np.maximum(self.dense(y, f"{scope}_mlp_expand"), 0)
            x = x + self.dense(y, f"{scope}_mlp_project")
        return self.dense(self.norm(x[:, 0], "head_norm"), "logits")


def randomised(network):
    """Gives weights of a size that any mistaken order or pairing would show in the logits."""
    rng = np.random.default_rng(1)
    for weight in network.trainable_variables:
        if weight.name == "gamma":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        else:
            fan_in = weight.shape[0] if len(weight.shape) > 1 else 4
            weight.assign(rng.normal(0, 1 / np.sqrt(fan_in), weight.shape))
    bias = network.get_layer("logits").bias
    bias.assign_sub(tf.reduce_mean(network(tinted(network.input_shape[1:])), axis=0))
    return telling(network)


def test_logits_equal_a_forward_pass_in_numpy():
    network = randomised(build(activation="relu", image_size=(8, 12), **NARROW))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 8, 12, 3)).astype(np.float32)
    expected = Numpy(network).logits(pixels, depth=2, patch=4)
    np.testing.assert_allclose(network(pixels), expected, atol=1e-4 * np.abs(expected).max())


def test_the_convolutional_stem_doubles_its_width_up_to_that_of_a_token():
    network = build("small_convstem", image_size=32, depth=1, width=24, patch_size=16)
    convolutions = [x for x in network.layers if isinstance(x, keras.layers.Conv2D)]
    assert [x.filters for x in convolutions] == [3, 6, 12, 24, 24]
    assert [x.kernel_size[0] for x in convolutions] == [3, 3, 3, 3, 1]
    assert [x.output.shape[1] for x in convolutions] == [16, 8, 4, 2, 2]
    assert network.get_layer("tokens").output.shape == (None, 5, 24)


def test_the_activation_is_handed_in_and_can_be_exchanged():
    sites = []

    def activation(site):
        sites.append(site)
        return keras.layers.Activation("swish", name=site)

    network = build("tiny_convstem", activation, **NARROW)
    assert len(sites) == len(set(sites)) == 2 + 2  # of the stem and the blocks
    assert injection.hidden_activations(network) == dict.fromkeys(sites, "silu")
    injected = injection.inject(network, "gelu")
    assert set(injection.hidden_activations(injected).values()) == {"gelu"}


def test_weights_begin_as_the_papers_and_depth_is_dropped_linearly():
    network = build(width=48, num_heads=3, depth=3, image_size=32, patch_size=4)
    for weight in network.trainable_variables:
        value = weight.numpy()
        if weight.name in ("kernel", "token", "position"):
            np.testing.assert_allclose(value.std(), 0.02, rtol=5 / np.sqrt(2 * value.size))
        else:
            np.testing.assert_array_equal(value, float(weight.name == "gamma"))
    rates = [x.rate for x in network.layers if isinstance(x, StochasticDepth)]
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.1, 0.1])
    kernels = {w.path: w.numpy() for w in network.weights if w.name == "kernel"}
    assert np.abs(kernels["block0_attention/query/kernel"]
                  - kernels["block0_attention/key/kernel"]).max() > 0.01  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10, "num_heads": 3}, "are 10, 3, 12 and 16; .* a width that num_heads divides"),
        ({"image_size": (8, 10), "patch_size": 4}, "8 x 10 pixels are not cut evenly by .*=4"),
        ({"name": "tiny_convstem", "patch_size": 3, "image_size": 9}, "is 3; .* one of 1, 2, 4"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(("image_size", "fitting"), [(8, 2), ((20, 12), 2), (9, 1), (40, 4)])
def test_the_patch_size_that_a_refusal_suggests_cuts_the_images(image_size, fitting):
    with pytest.raises(ValueError, match="not cut evenly by patch_size=16") as refused:
        build(image_size=image_size)
    suggested = re.search(r"--model=vit_tiny:patch_size=(\d+),", str(refused.value))
    assert int(suggested[1]) == fitting
    if image_size == 8:
        build("tiny_convstem", image_size=8, **NARROW | {"depth": 1, "patch_size": fitting})
