"""Networks of keras.applications take pixels, and nothing is fetched that was not asked for."""

import sys
import urllib.error
import warnings

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils

from sat_tf import loading
from sat_tf.loading import applications

SMALLEST = "MobileNetV2:alpha=0.35"


@pytest.mark.parametrize("name", applications.NAMES)
def test_the_preprocessing_of_every_network_stands_inside(name):
    make = getattr(keras.applications, name)
    inputs = keras.Input((4, 4, 3))
    inside = keras.Model(inputs, keras.layers.Identity()(applications._prepared(make, inputs)))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype(np.float32)
    expected = sys.modules[make.__module__].preprocess_input(pixels.copy())
    np.testing.assert_allclose(inside(pixels), expected, rtol=1e-5, atol=1e-4)


def test_weights_come_from_a_file_and_grey_images_are_repeated(tmp_path):
    keras.utils.set_random_seed(0)
    # Of 64 pixels four places are left, of 32 one, whose mean and maximum are the same.
    reference = keras.applications.MobileNetV2(
        alpha=0.35, include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    for weight in reference.weights:
        if weight.name == "moving_variance":  # of 1 the maps that come out are 1e-11
            weight.assign(keras.ops.full(weight.shape, 0.1))
    reference.save_weights(tmp_path / "mobile.weights.h5")
    spec = f"{SMALLEST},weights={tmp_path}/mobile.weights.h5"
    made = applications.build(spec, weights=None, num_classes=4, image_size=64, num_channels=1)
    assert made.input_shape == (None, 64, 64, 1) and made.output_shape == (None, 4)
    assert made.name.startswith("mobilenet")
    for own, theirs in zip(made.weights[:-2], reference.weights, strict=True):
        np.testing.assert_array_equal(own.value, theirs.value)
    grey = np.random.default_rng(2).uniform(0, 255, (2, 64, 64, 1)).astype(np.float32)
    prepared = keras.Model(made.inputs[0], made.get_layer("preprocess").output)(grey)
    np.testing.assert_allclose(prepared, np.repeat(grey, 3, -1) / 127.5 - 1, atol=1e-6)
    features = keras.Model(made.inputs[0], made.layers[-2].output)(grey)
    kernel, bias = made.get_weights()[-2:]
    np.testing.assert_allclose(made(grey), features @ kernel + bias, atol=1e-6)
    maps = np.float64(reference(prepared))
    assert np.ptp(maps, axis=(1, 2)).mean() > 0.1  # or a mean is a maximum
    np.testing.assert_allclose(features, maps.mean((1, 2)), rtol=1e-3, atol=1e-5)


def test_the_whole_classifier_gives_logits_of_pixels_that_it_prepares(monkeypatch):
    asked = []

    def make(alpha=1.0, weights="imagenet", classifier_activation="softmax"):
        asked.append((alpha, weights))
        inputs = keras.Input((2, 3, 3))
        dense = keras.layers.Dense(4, activation=classifier_activation, name="last")
        return keras.Model(inputs, dense(keras.layers.Flatten()(inputs)), name="mobile")

    make.__module__ = keras.applications.MobileNet.__module__
    monkeypatch.setattr(keras.applications, "MobileNet", make)
    made = applications.build("MobileNet:alpha=0.5", weights="a")
    applications.build("MobileNet:weights=b", weights="a")
    assert asked == [(0.5, "a"), (1.0, "b")] and made.name == "mobile"
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 2, 3, 3)).astype(np.float32)
    kernel, bias = made.get_weights()
    expected = (pixels / 127.5 - 1).reshape(2, -1) @ kernel + bias
    np.testing.assert_allclose(made(pixels), expected, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_grey_pixels_stay_float32_under_mixed_precision(policy):
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        made = applications.build(
            SMALLEST, weights=None, num_classes=4, image_size=32, num_channels=1
        )
    finally:
        keras.mixed_precision.set_global_policy(before)
    grey = np.linspace(128.1, 254.9, 1024, dtype=np.float32).reshape(1, 32, 32, 1)
    prepared = keras.Model(made.inputs[0], made.get_layer("preprocess").output)(grey)
    np.testing.assert_allclose(prepared, np.repeat(grey, 3, -1) / 127.5 - 1, atol=1e-6)


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """Notes what Keras wants to fetch into an empty cache, offline."""
    wanted = []

    def fail(origin, *_):
        wanted.append(origin)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(file_utils, "urlretrieve", fail)
    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    return wanted


def test_nothing_is_fetched_that_was_not_asked_for(fetched, tmp_path, capfd):
    source = f"keras.applications:{SMALLEST}"
    fetch = file_utils.urlretrieve
    said = f"not at {tmp_path}.*train is given --download, with --initial_network=.*:weights=FILE$"
    with pytest.raises(ValueError, match=said):
        loading.load(source)
    assert not fetched and file_utils.urlretrieve is fetch
    assert capfd.readouterr().out == ""  # Keras would say that it is fetching
    with pytest.raises(ValueError, match=r"MobileNetV2 cannot be made: .*no route to host$"):
        loading.load(source, download=True)
    assert len(fetched) == 1 and not list(tmp_path.rglob("*.h5"))


def test_an_error_is_all_that_is_said_and_a_warning_is_said_where_there_is_none(
    fetched, monkeypatch
):
    asked = {"num_classes": 4, "image_size": 32}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="are not at"):
            applications.build("MobileNetV2", weights="imagenet", **asked)
        assert not said  # Keras warns of the size
        odd = lambda _, images: warnings.warn("odd", stacklevel=1) or images  # noqa: E731
        monkeypatch.setattr(applications, "_prepared", odd)
        applications.build(SMALLEST, weights=None, **asked)
    assert [str(one.message) for one in said] == ["odd"]


@pytest.mark.parametrize(
    "spec, size, said",
    [
        ("MobileNetV4", 32, "'MobileNetV4'; use one of: ConvNeXtBase, .*Xception$"),
        ("MobileNetV2:alfa=1", 32, "option of MobileNetV2 is 'alfa'; use one of: alpha, weights"),
        ("MobileNetV2:alpha=1,classes=3", 32, "option of MobileNetV2 is 'classes'"),
        (SMALLEST, 8, "MobileNetV2 cannot be made: Input size must be at least 32x32"),
        (f"{SMALLEST},weights=none.h5", 32, "MobileNetV2 cannot be made: "),
    ],
)
def test_what_keras_does_not_have_is_refused_in_a_line(spec, size, said):
    with pytest.raises(ValueError, match=said):
        applications.build(spec, weights=None, num_classes=3, image_size=size)
