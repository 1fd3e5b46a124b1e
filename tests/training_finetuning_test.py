"""Fine-tuning: the body goes on where it was, the head is that of the data's classes."""

import dataclasses
import json
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks, injection, models
from sat_tf.data import Info
from sat_tf.training import AdversarialTrainer, averages, finetuning, networks
from sat_tf.training.recipe import Recipe

INFO = Info("pets", ("cat", "dog", "hare"), (8, 8, 1), {"train": 9, "validation": 2, "test": 2})
GIVEN = {
    "model": None, "activation": "keep", "initial_network": None, "freeze": [], "download": False,
    "body_learning_rate_multiplier": 1.0, "image_size": None, "workdir": None,
    "synchronized_batch_norm": False,
}  # fmt: skip


def given(**values):
    return types.SimpleNamespace(**{**GIVEN, **values})


def body_and_head(end, num_classes=5):
    pixels = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(pixels)
    features = keras.layers.Flatten()(keras.layers.BatchNormalization(name="norm")(x))
    if end == "layer":
        x = keras.layers.Dense(num_classes, name="top")(features)
        return features, keras.Model(pixels, keras.layers.Softmax()(x))
    x = keras.layers.Dense(num_classes, name="top", activation=end)(features)
    return features, keras.Model(pixels, x)


def network_of(end=None, num_classes=5, form="functional"):
    keras.utils.set_random_seed(4)
    features, made = body_and_head(end, num_classes)
    body = keras.Model(made.inputs[0], features)
    if form == "nested":
        pixels = keras.Input((8, 8, 1))
        made = keras.Model(pixels, made(pixels), name="outer")
    if form == "sequential":
        made = keras.Sequential([keras.Input((8, 8, 1)), *made.layers[1:]])
    return body, made


def make():
    return network_of()[1]


def soft():
    return network_of("softmax")[1]


def convolved():
    pixels = keras.Input((8, 8, 1))
    return keras.Model(pixels, keras.layers.Flatten()(keras.layers.Conv2D(5, 8)(pixels)))


class OfItsOwn(keras.Model):
    input_shape, output_shape = (None, 8, 8, 1), (None, 5)


def own_code():
    return OfItsOwn(name="own")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(0, 255, (6, 8, 8, 1)).astype(np.float32)


@pytest.mark.parametrize("form", ["functional", "sequential", "nested"])
@pytest.mark.parametrize("end", [None, "softmax", "layer"])
def test_other_classes_get_a_head_on_the_same_features(images, end, form):
    body, source = network_of(end, form=form)
    made = finetuning.with_logits(source, 3)
    top = finetuning.head(made)
    kernel, bias = map(np.float64, top.get_weights())
    assert top.name == "top" and kernel.shape == (144, 3) and not bias.any()
    assert 0.005 < kernel.std() < 0.02  # small: the first steps of the body are too
    expected = np.float64(body(images)) @ kernel + bias
    np.testing.assert_allclose(made(images), expected, rtol=1e-4, atol=1e-3)
    others = finetuning.head(finetuning.with_logits(source, 5, same_classes=False))
    kept = finetuning.head(source)
    assert others.kernel.shape == kept.kernel.shape and np.any(others.kernel != kept.kernel)


@pytest.mark.parametrize("form", ["functional", "sequential", "nested"])
@pytest.mark.parametrize("end", [None, "softmax", "layer"])
def test_equal_classes_keep_the_head_and_lose_a_softmax(images, end, form):
    _, source = network_of(end, form=form)
    images = images / 255
    before = np.float64(source(images))
    made = finetuning.with_logits(source, 5)
    logits = np.float64(made(images))
    if end is None:
        assert made is source
    else:
        assert not np.allclose(logits.sum(1), 1)  # no probabilities any more
        logits = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(logits, before, rtol=1e-4, atol=1e-6)


def test_a_head_that_is_kept_keeps_its_settings_and_a_new_one_gives_float32():
    pixels = keras.Input((8, 8, 1))
    options = {"use_bias": False, "kernel_regularizer": "l2", "name": "top"}
    head = keras.layers.Dense(5, activation="softmax", **options)
    source = keras.Model(pixels, head(keras.layers.Flatten()(pixels)), name="mine")
    made = finetuning.with_logits(source, 5)
    assert finetuning.head(made).get_config() == {**head.get_config(), "activation": "linear"}
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        other = finetuning.with_logits(source, 3)
    finally:
        keras.mixed_precision.set_global_policy(before)
    assert finetuning.head(other).compute_dtype == "float32"
    assert made.name == other.name == "mine"


def test_equally_many_classes_of_other_names_are_others(tmp_path):
    _, source = network_of()
    source.save(tmp_path / "network.keras")
    names = {"class_names": list("abcde")}
    for known, kept in ((names, True), ({}, True), ({"class_names": list("abdce")}, False)):
        (tmp_path / "metrics.json").write_text(json.dumps(known))
        letters = dataclasses.replace(INFO, class_names=tuple("abcde"))
        made = networks.make(given(initial_network=str(tmp_path)), letters)
        old, new = (finetuning.head(one).get_weights()[0] for one in (source, made))
        assert np.array_equal(old, new) == kept


def trained(network, images, optimizer=None):
    trainer = AdversarialTrainer(network, attacks.PGD(epsilon=8, step_size=8, steps=1))
    trainer.compile(optimizer or keras.optimizers.SGD(0.1), weight_decay=0.01)
    trainer.fit(images, np.arange(len(images)) % 3, batch_size=3, epochs=1, verbose=0)


@pytest.mark.parametrize("form", ["functional", "nested"])
def test_what_is_frozen_stays_to_the_bit_and_all_else_is_trained(images, form):
    prefix = "functional*/" if form == "nested" else ""
    for patterns, still in (
        (["*"], {"conv", "norm"}),
        ([f"{prefix}n?rm"], {"norm"}),
        ([f"{prefix}conv"], {"conv"}),
        ([], set()),
    ):
        _, source = network_of(form=form)
        source.trainable = False  # as a run that froze it would leave it
        made = finetuning.with_logits(source, 3)
        finetuning.freeze(made, patterns)
        layers = [layer for _, layer in finetuning._layers(made) if layer.weights]
        before = {layer.name: [np.array(w) for w in layer.weights] for layer in layers}
        assert models.num_parameters(made) == 4 * 9 + 4 + 2 * 4 + 144 * 3 + 3
        trained(made, images)
        for layer in layers:
            pairs = zip(before[layer.name], layer.weights, strict=True)
            same = [np.array_equal(old, new) for old, new in pairs]
            assert same == [layer.name in still] * len(same), (patterns, layer.name)


def test_replicas_share_the_statistics_of_what_is_trained_alone(monkeypatch):
    """The mean of three equal float32 numbers need not be that number."""
    context = types.SimpleNamespace(
        num_replicas_in_sync=3, all_reduce=lambda _, values: [value + 1 for value in values]
    )
    monkeypatch.setattr(tf.distribute, "get_replica_context", lambda: context)
    for patterns, moved in ((["*"], 0), ([], 1)):
        _, network = network_of()
        finetuning.freeze(network, patterns)
        (layer,) = [one for one in network.layers if hasattr(one, "moving_mean")]
        before = [np.array(v) for v in (layer.moving_mean, layer.moving_variance)]
        averages.average_statistics_over_replicas(network)
        for old, new in zip(before, (layer.moving_mean, layer.moving_variance), strict=True):
            np.testing.assert_array_equal(new, old + moved)


def test_a_network_that_ends_without_weights_has_no_head_to_tell_from_its_body():
    pixels = keras.Input((4, 4, 1))
    logits = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(pixels))
    network = keras.Model(pixels, logits)
    finetuning.freeze(network, [])
    for refused in (lambda: finetuning.freeze(network, ["*"]), lambda: finetuning.in_body(network)):
        with pytest.raises(ValueError, match="ends with GlobalAveragePooling2D .* has no weights"):
            refused()


def test_a_pattern_that_freezes_nothing_is_refused_with_what_there_is():
    _, source = network_of()
    for pattern in ("stem*", "top"):  # the head is trained whatever a pattern says
        with pytest.raises(ValueError, match=f"{re.escape(pattern)}' .* no layer .*: conv, norm"):
            finetuning.freeze(source, ["conv", pattern])


def test_the_body_has_its_own_learning_rate(images):
    """SGD with momentum in float64: v <- mu v - r g, w <- w + v, where r is m r in the body."""
    _, network = network_of(num_classes=3)
    optimizer = keras.optimizers.SGD(0.25, momentum=0.5)
    in_body = finetuning.in_body(network)
    names = [weight.path.split("/")[-2] for weight in network.trainable_variables]
    assert in_body == [name != "top" for name in names] and in_body.count(False) == 2
    finetuning.slow_down(optimizer, in_body, 0.125)
    weights = network.trainable_variables
    expected, velocity = [np.float64(w) for w in weights], [0.0] * len(weights)
    for step in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(network(images[step : step + 3], training=False) ** 2)
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        for index, gradient in enumerate(gradients):
            rate = 0.25 * (0.125 if in_body[index] else 1)
            velocity[index] = 0.5 * velocity[index] - rate * np.float64(gradient)
            expected[index] += velocity[index]
    for weight, value in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-3, atol=1e-4 * np.abs(value).max())


def test_a_named_network_of_another_size_takes_the_weights_of_its_architecture(tmp_path):
    small = models.build("resnet8", activation="smoothrelu", num_classes=3, image_size=8,
                         num_channels=1)  # fmt: skip
    for variable in small.variables:
        variable.assign(tf.random.stateless_normal(variable.shape, [1, 2]))
    small.save(tmp_path / "small.keras")
    values = given(model="resnet8", activation="smoothrelu", image_size=12,
                   initial_network=str(tmp_path / "small.keras"))  # fmt: skip
    made = networks.make(values, INFO)
    assert made.input_shape[1] == 12
    for old, new in zip(small.variables, made.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    # Another activation has no scalars to take, other classes have a head of their own.
    values.activation = "relu"
    two = dataclasses.replace(INFO, class_names=("a", "b"))
    other = networks.make(values, two)
    scalars = [layer for layer in small.layers if layer.name.endswith("act")]
    assert len(other.variables) == len(small.variables) - len(scalars) < len(small.variables)
    body = {w.path: w for w in other.variables if not w.path.startswith("logits")}
    assert len(body) == len(other.variables) - 2
    for old in small.variables:
        if old.path in body:
            np.testing.assert_array_equal(old, body[old.path])
    for wrong, said in (
        ("resnet8:width=4", r"is no resnet8: conv0 \(kernel \[3, 3, 1, 16\]\) stands there where"),
        ("resnet14", r"where resnet14 has group0_block1_conv1 \(kernel"),
    ):
        values.model = wrong
        with pytest.raises(ValueError, match=said):
            networks.make(values, INFO)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"initial_network": "tests.training_finetuning_test:convolved"}, "ends with Flatten"),
        ({"initial_network": "tests.training_finetuning_test:own_code"}, "is a OfItsOwn, whose"),
        ({"initial_network": "nothing"}, "'nothing' is not there"),
        ({"initial_network": "tests.training_finetuning_test:make", "image_size": 9},
         "takes images of 8 x 8 pixels and --image_size=9"),
        ({"model": "tests.training_finetuning_test:make"}, "has 5 classes and pets has 3"),
        ({"model": "tests.training_finetuning_test:make", "image_size": 9},
         "takes images of 8 x 8 pixels and --image_size=9"),
        ({"model": "mine.keras"}, "give --initial_network=mine.keras"),
        ({"model": "tests"}, "give --initial_network=tests"),  # a directory, as a run's
        ({"model": "resnet8"}, "has none to keep"),
        ({"model": "resnet8", "freeze": ["conv"]}, "--freeze is of a network that was trained"),
        ({"model": "resnet8", "body_learning_rate_multiplier": 0.1}, "random weights: give"),
        ({"model": "keras:ResNet51", "image_size": 32}, "'ResNet51'; use one of: ConvNeXtBase"),
        ({"initial_network": "tests", "workdir": "./tests"}, "cannot be trained in its own place"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_words(values, said):
    with pytest.raises(ValueError, match=said):
        networks.make(given(**values), INFO)


def test_ones_own_network_is_trained_by_name_with_the_activation_injected(images):
    five = dataclasses.replace(INFO, class_names=tuple("abcde"))
    values = given(model="tests.training_finetuning_test:make", activation="swish")
    made = networks.make(values, five)
    assert networks.activation(values, made) == "swish"
    z = np.float64(network_of()[0].layers[1].kernel)  # the convolution, whose relu is swish now
    patches = np.lib.stride_tricks.sliding_window_view(images[..., 0], (3, 3), axis=(1, 2))
    z = np.einsum("nhwij,ijf->nhwf", patches, z[:, :, 0])
    normed = z / (1 + np.exp(-np.clip(z, -500, 500))) / np.sqrt(1 + 1e-3)
    kernel = np.float64(finetuning.head(make()).kernel)
    np.testing.assert_allclose(made(images), normed.reshape(6, -1) @ kernel, rtol=1e-3, atol=0.05)


def test_a_recipe_keeps_what_it_begins_with_and_learns_its_size():
    fields = {field.name: None for field in dataclasses.fields(Recipe)}
    fields |= {"dataset": "digits", "norm": "linf", "norms": [], "epsilons": []}
    plain = Recipe(**fields).completed()
    assert (plain.model, plain.activation) == ("resnet8", "swish")
    initial = Recipe(**fields | {"initial_network": "run"}).completed()
    assert (initial.model, initial.activation) == (None, "keep")
    named = Recipe(**fields | {"initial_network": "run", "model": "resnet14"}).completed()
    assert (named.model, named.activation) == ("resnet14", "swish")
    network = make()
    anyhow = dataclasses.replace(INFO, image_shape=(None, None, 1))
    assert networks.sized(initial, anyhow, network).image_size == 8
    assert networks.sized(initial, INFO, network) == initial
    assert networks.activation(initial, network) == "relu"


def deep(name, count):
    x = pixels = keras.Input((4, 4, 1))
    for number in range(count):
        x = keras.layers.Dense(4, name=f"layer{number}")(x)
    logits = keras.layers.Dense(3, name="top")(keras.layers.Flatten()(x))
    return keras.Model(pixels, logits, name=name)


def test_a_network_with_a_layer_more_or_less_is_of_another_architecture():
    shapes = re.escape("layer2 (kernel [4, 4], bias [4])")
    for own, theirs, said in (
        (2, 3, f"it is no own: {shapes} stands there where own has nothing"),
        (3, 2, f"it is no own: nothing stands there where own has {shapes}"),
    ):
        with pytest.raises(ValueError, match=said):
            finetuning.take_weights(deep("own", own), deep("theirs", theirs), "it")


def test_all_activations_that_a_network_keeps_are_named():
    pixels = keras.Input((4,))
    x = keras.layers.Dense(4, activation="swish")(keras.layers.ReLU()(pixels))
    several = keras.Model(pixels, keras.layers.Dense(3)(keras.layers.ReLU()(x)))
    plain = keras.Model(pixels, keras.layers.Dense(3)(pixels))
    found = [networks.activation(given(), one) for one in (several, plain, own_code())]
    assert found == ["relu and silu", "keep", "keep"]
    assert networks.activation(given(activation="celu"), several) == "celu"


SOURCES = [
    {"initial_network": "a.keras"},
    {"initial_network": "keras.applications:N"},
    {"model": "keras:N"},
    {"model": "tests.training_finetuning_test:make"},
    {"initial_network": "a.keras", "model": "keras:N"},
]


@pytest.mark.parametrize("values", SOURCES)
def test_the_activation_is_injected_whatever_the_network_comes_from(values, monkeypatch):
    monkeypatch.setattr(networks.loading, "load", lambda *_, **__: make())
    monkeypatch.setattr(networks.applications, "build", lambda *_, **__: make())
    five = dataclasses.replace(INFO, class_names=tuple("abcde"))
    for activation, found in (("swish", ["swish"]), ("keep", ["relu"])):
        made = networks.make(given(activation=activation, **values), five)
        assert list(injection.hidden_activations(made).values()) == found


def test_what_is_no_network_of_images_to_one_output_is_refused_as_an_initial_one(monkeypatch):
    pixels = keras.Input((8, 8, 1))
    top = keras.layers.Dense(5)
    two = keras.Model(pixels, [top(keras.layers.Flatten()(pixels))] * 2)
    monkeypatch.setattr(networks.applications, "build", lambda *_, **__: make())
    for found, values, said in (
        (object(), {}, "it is a SavedModel, which cannot be trained; give the run"),
        (two, {}, "it: the network gives 2 tensors"),
        (two, {"model": "keras:N"}, "the network gives 2 tensors"),
    ):
        monkeypatch.setattr(networks.loading, "load", lambda *_, found=found, **__: found)
        with pytest.raises(ValueError, match=said):
            networks.make(given(initial_network="it", **values), INFO)


def test_every_source_is_asked_for_as_the_recipe_says(monkeypatch):
    asked = []

    def noted(*arguments, **options):
        asked.append((*arguments, options))
        return make()

    monkeypatch.setattr(networks.loading, "load", noted)
    monkeypatch.setattr(networks.applications, "build", noted)
    five = dataclasses.replace(INFO, class_names=tuple("abcde"))
    form = {"num_classes": 5, "image_size": 8, "num_channels": 1}
    for download in (False, True):
        for values in (
            {"initial_network": "a.keras"},
            {"initial_network": "keras.applications:N:a=1"},
            {"model": "keras:N:a=1"},
            {"initial_network": "keras.applications:N:a=1", "model": "keras:N:a=1"},
        ):
            networks.make(given(download=download, **values), five)
        fetched = {"download": download}
        assert asked == [
            ("a.keras", fetched),
            ("N:a=1", {"weights": "imagenet", **fetched, **form}),
            ("N:a=1", {"weights": None, **form}),  # random ones need no file
            ("keras.applications:N:a=1", fetched),  # whose weights the network by name takes
            ("N:a=1", {"weights": None, **form}),
        ]
        asked.clear()
