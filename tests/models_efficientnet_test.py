"""EfficientNet against the paper's facts and against Keras's own EfficientNet."""

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import models
from sat_tf.models import efficientnet

# Stem, filters and repeats of the seven stages, head, dropout, and the trainable parameters:
# published counts for B0-B7, the paper code's for L1.
TABLE = {
    "b0": (32, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 1280, 0.2, 5_288_548),
    "b1": (32, (16, 24, 40, 80, 112, 192, 320), (2, 3, 3, 4, 4, 5, 2), 1280, 0.2, 7_794_184),
    "b2": (32, (16, 24, 48, 88, 120, 208, 352), (2, 3, 3, 4, 4, 5, 2), 1408, 0.3, 9_109_994),
    "b3": (40, (24, 32, 48, 96, 136, 232, 384), (2, 3, 3, 5, 5, 6, 2), 1536, 0.3, 12_233_232),
    "b4": (48, (24, 32, 56, 112, 160, 272, 448), (2, 4, 4, 6, 6, 8, 2), 1792, 0.4, 19_341_616),
    "b5": (48, (24, 40, 64, 128, 176, 304, 512), (3, 5, 5, 7, 7, 9, 3), 2048, 0.4, 30_389_784),
    "b6": (56, (32, 40, 72, 144, 200, 344, 576), (3, 6, 6, 8, 8, 11, 3), 2304, 0.5, 43_040_704),
    "b7": (64, (32, 48, 80, 160, 224, 384, 640), (4, 7, 7, 10, 10, 13, 4), 2560, 0.5, 66_347_960),
    "l1": (
        128,
        (64, 96, 160, 312, 440, 752, 1248),
        (4, 8, 8, 12, 12, 15, 4),
        4992,
        0.5,
        272_630_564,
    ),
}
QUICK = ("b0", "b2")  # b2 is wider and deeper


def build(name, activation="swish", num_classes=1000, image_size=224, **options):
    return models.build(
        f"efficientnet-{name}",
        activation=activation,
        num_classes=num_classes,
        image_size=image_size,
        **options,
    )


@functools.cache
def shapes_only(name, **arguments):
    """Builds without allocating the weights: enough to count them and to read shapes."""
    with keras.StatelessScope():
        return build(name, **arguments)


def closed_form(stem, filters, repeats, head, classes=1000):
    """Trainable parameters: kernels, two a norm's channel, biases of the gates and the logits."""
    total, before = 9 * 3 * stem + 2 * stem, stem
    for stage, (after, count) in enumerate(zip(filters, repeats, strict=True)):
        kernel = (3, 3, 5, 3, 5, 5, 3)[stage]
        for _ in range(count):
            inner, squeezed = before * (6 if stage else 1), before // 4
            total += before * inner + 2 * inner if stage else 0
            total += kernel * kernel * inner + 2 * inner
            total += 2 * inner * squeezed + squeezed + inner
            total += inner * after + 2 * after
            before = after
    return total + before * head + 2 * head + head * classes + classes


@pytest.mark.parametrize("name", TABLE)
def test_scaling_gives_the_published_widths_repeats_dropout_and_parameters(name):
    stem, filters, repeats, head, dropout, parameters = TABLE[name]
    width, depth, rate = efficientnet.NETWORKS[f"efficientnet-{name}"].args
    assert efficientnet.scaled_filters(32, width) == stem
    assert efficientnet.scaled_filters(1280, width) == head
    stages = efficientnet.scaled_stages(width, depth)
    assert tuple(stage.filters for stage in stages) == filters
    assert tuple(stage.repeats for stage in stages) == repeats
    assert closed_form(stem, filters, repeats, head) == parameters
    assert rate == dropout


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TABLE]
)
def test_the_built_network_has_the_published_parameters(name):
    weights = shapes_only(name).trainable_weights
    assert sum(int(np.prod(w.shape)) for w in weights) == TABLE[name][-1]


def test_b0_holds_the_tensors_of_the_released_checkpoint_under_readable_names():
    paths = [w.path for w in shapes_only("b0").weights]
    assert len(paths) == len(set(paths)) == 311
    for path in (
        "stem_conv_bn/gamma",
        "blocks_0_depthwise/kernel",
        "blocks_1_expand_bn/moving_mean",
        "blocks_15_se_reduce/bias",
        "blocks_15_project/kernel",
        "head_conv/kernel",
        "logits/bias",
    ):
        assert path in paths


@pytest.mark.parametrize(
    ("size", "maps"),
    [({}, (112, 56, 28, 14, 7)), ({"image_size": 300}, (150, 75, 38, 19, 10))],
)
def test_every_stride_halves_a_map_and_rounds_up(size, maps):
    network = shapes_only("b0", **size)
    strided = ("stem_conv", *(f"blocks_{i}_depthwise" for i in (1, 3, 5, 11)))
    assert tuple(network.get_layer(name).output.shape[1] for name in strided) == maps


def test_the_activation_reaches_stem_blocks_gates_and_head_and_spares_the_sigmoids():
    sites = []

    def activation(name):
        sites.append(name)
        return keras.layers.Activation("tanh", name=name)

    network = shapes_only("b0", activation=activation)
    assert len(sites) == len(set(sites)) == 1 + (16 + 15 + 16) + 1
    assert sum(name.endswith("_se_act") for name in sites) == 16
    sigmoid = keras.activations.sigmoid
    gates = [x.name for x in network.layers if getattr(x, "activation", None) is sigmoid]
    assert gates == [f"blocks_{i}_se_gate" for i in range(16)]


@pytest.mark.parametrize("image_size", [64, 75])
def test_logits_equal_those_of_kerass_efficientnet_with_the_same_weights(image_size):
    ours = build("b0", num_classes=10, image_size=image_size)
    theirs = keras.applications.EfficientNetB0(
        weights=None,
        input_shape=(image_size, image_size, 3),
        classes=10,
        classifier_activation=None,
    )
    theirs = keras.Model(theirs.get_layer("stem_conv_pad").input, theirs.output)
    rng = np.random.default_rng(1)
    for layer in ours.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            count = layer.gamma.shape[0]
            scale, centre = rng.uniform(0.5, 1.5, (2, count)), rng.normal(0, 0.1, (2, count))
            layer.set_weights([scale[0], centre[0], centre[1], scale[1]])
    theirs.set_weights(ours.get_weights())
    for layer in theirs.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = 1e-5
    pixels = rng.uniform(0, 255, (2, image_size, image_size, 3)).astype(np.float32)
    expected = theirs(pixels * 2 / 255 - 1).numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(ours(pixels), expected, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def b0():
    return build("b0", image_size=32)


def test_initial_values_are_the_papers(b0):
    for layer in b0.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
        elif isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            # The last axis counts filters, and is 1 for a depthwise kernel.
            size, _, _, filters = layer.kernel.shape
            kernel = layer.kernel.numpy()
            expected = np.sqrt(2 / (size * size * filters))
            np.testing.assert_allclose(kernel.std(), expected, rtol=5 / np.sqrt(2 * kernel.size))
    kernel = b0.get_layer("logits").kernel.numpy()
    assert 0.999 / np.sqrt(1000) < np.abs(kernel).max() <= 1 / np.sqrt(1000)
    widest = b0.get_layer("head_conv").kernel.numpy()
    assert np.abs(widest).max() > 3 * widest.std()  # untruncated


def test_stochastic_depth_grows_with_the_block_and_spares_blocks_without_a_skip():
    network = shapes_only("b0")
    rates = {x.name: x.rate for x in network.layers if isinstance(x, keras.layers.Dropout)}
    assert rates.pop("dropout") == TABLE["b0"][4]
    skips = (2, 4, 6, 7, 9, 10, 12, 13, 14)
    assert rates == {f"blocks_{i}_drop": pytest.approx(0.2 * i / 16) for i in skips}
    still = shapes_only("b0", survival_probability=1.0, dropout=0.0)
    rates = {x.name: x.rate for x in still.layers if isinstance(x, keras.layers.Dropout)}
    assert rates == {"dropout": 0.0}


def test_stochastic_depth_drops_whole_images_and_scales_the_kept_ones():
    layer = build("b0", image_size=32, survival_probability=0.2).get_layer("blocks_14_drop")
    ones = tf.ones((4000, 2, 2, 3))
    dropped = layer(ones, training=True).numpy().reshape(4000, -1)
    keep = 1 - 0.8 * 14 / 16
    assert (dropped == dropped[:, :1]).all()
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / keep], rtol=1e-6)
    assert abs((dropped[:, 0] > 0).mean() - keep) < 5 * np.sqrt(keep * (1 - keep) / 4000)
    np.testing.assert_array_equal(layer(ones, training=False), ones)


def test_logits_are_float32_of_any_batch_and_return_from_a_file(b0, tmp_path):
    b0.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    assert [x.name for x in loaded.layers] == [x.name for x in b0.layers]
    for batch in (1, 3):
        pixels = tf.random.uniform((batch, 32, 32, 3), 0, 255)
        logits = b0(pixels)
        assert logits.shape == (batch, 1000)
        assert logits.dtype == tf.float32
        np.testing.assert_array_equal(loaded(pixels), logits)


def test_an_impossible_probability_is_refused():
    with pytest.raises(ValueError, match="survival_probability is 1.2.*at most 1"):
        build("b0", survival_probability=1.2)


@pytest.mark.slow
def test_l1_runs_on_one_image_within_24_gibibytes():
    """Took 10.6 GiB, and 9 s to build and 14 s to run on one core."""
    program = """
import resource, time
import tensorflow as tf
from sat_tf import models
start = time.monotonic()
network = models.build("efficientnet-l1", activation="swish", num_classes=1000, image_size=600)
built = time.monotonic()
logits = network(tf.random.uniform((1, 600, 600, 3), 0, 255))
assert logits.shape == (1, 1000) and bool(tf.reduce_all(tf.math.is_finite(logits)))
seconds = built - start, time.monotonic() - built
print(*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        capture_output=True,
        text=True,
        timeout=900,
    )
    build_s, forward_s, gibibytes = map(float, run.stdout.split())
    print(f"build {build_s:.0f} s, forward {forward_s:.0f} s, peak {gibibytes:.1f} GiB")
    assert gibibytes < 24
