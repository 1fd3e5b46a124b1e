"""Injection replaces every hidden activation, nothing else, and keeps all weights and names."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.injection import copy, hidden_activations, inject
from sat_tf.injection.layer_state import renew
from tests.injection_refusals_test import Seen

layers, ops = keras.layers, keras.ops


def _network(hidden="relu"):
    """Sites of every sort, a squeeze-and-excite gate, nested models and a head."""
    inputs = keras.Input((8, 8, 3), name="pixels")
    x = layers.Conv2D(4, 3, padding="same", activation=hidden, name="conv1")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Activation(hidden, name="act")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    gate = layers.Conv2D(2, 1, activation=hidden, name="reduce")(gate)
    gate = layers.Conv2D(4, 1, activation="sigmoid", name="expand")(gate)
    x = layers.multiply([x, gate], name="excite")
    inner = keras.Input((8, 8, 4), name="inner_pixels")
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(inner)
    y = layers.Activation(hidden, name="inner_act")(y)
    x = layers.add([x, keras.Model(inner, y, name="block")(x)], name="residual")
    x = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(5, 3, activation=hidden, name="conv2")], name="stack"
    )(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(6, activation="tanh", name="tanh")(x)
    x = layers.Activation(hidden, name="late")(x)
    outputs = layers.Dense(3, activation="softmax", name="head")(x)
    return keras.Model(inputs, outputs, name="network")


SITES = ("conv1", "act", "reduce", "block/inner_act", "stack/conv2", "late")
INJECTED_SITES = (
    "conv1_relu",
    "act",
    "reduce_relu",
    "block/inner_act",
    "stack/conv2_relu",
    "late",
)


@pytest.fixture
def images():
    return tf.random.normal([2, 8, 8, 3])


def _randomise(model):
    rng = np.random.default_rng(0)
    for weight in model.weights:
        value = rng.normal(0, 0.3, weight.shape)
        weight.assign(1 + np.abs(value) if weight.name == "moving_variance" else value)
    return model


def test_every_sort_of_site_is_found_and_no_gate_or_head():
    assert hidden_activations(_network()) == dict.fromkeys(SITES, "relu")


@pytest.mark.parametrize("spec", ["swish", "celu:alpha=1.6", "smoothrelu", "keras.layers:PReLU"])
def test_only_the_new_activation_remains(spec, images):
    injected = inject(_network(), spec)
    found = hidden_activations(injected)
    assert found == dict.fromkeys(INJECTED_SITES, spec)
    assert injected(images).shape == (2, 3)


def test_weights_keep_their_values_and_paths():
    network = _randomise(_network())
    injected = inject(network, "swish")
    assert injected.name == network.name
    assert [w.path for w in injected.weights] == [w.path for w in network.weights]
    for old, new in zip(network.weights, injected.weights, strict=True):
        assert new is not old
        np.testing.assert_array_equal(new, old)


def test_injecting_the_activation_it_has_changes_no_output(images):
    network = _randomise(_network("swish"))
    np.testing.assert_allclose(inject(network, "swish")(images), network(images), rtol=1e-6)


def test_injected_network_equals_one_built_with_the_activation(images):
    network, expected = _randomise(_network()), _randomise(_network("gelu"))
    np.testing.assert_allclose(inject(network, "gelu")(images), expected(images), rtol=1e-6)
    assert np.abs(network(images) - expected(images)).max() > 1e-4


def _adapted_network():
    """Layers whose state is no weight, at the top, in a nested model and in a Sequential."""
    rng = np.random.default_rng(3)

    def adapted(layer, data):
        layer.adapt(data)
        return layer

    first = adapted(layers.Normalization(), rng.normal(120, 40, [50, 8, 8, 3]))
    second = adapted(layers.Normalization(axis=None), rng.normal(-2, 3, [50, 8, 8, 4]))
    third = adapted(layers.Normalization(), rng.normal(3, 2, [50, 4]))
    bins = adapted(layers.Discretization(num_bins=4, output_mode="one_hot"), rng.normal(size=200))
    words = adapted(layers.IntegerLookup(output_mode="one_hot"), [[2, 0, 1, 1]])
    inputs, inner = keras.Input((8, 8, 3)), keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(first(inputs))
    x = keras.Model(inner, layers.ReLU()(second(inner)), name="nested")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = keras.Sequential([keras.Input((4,)), third, layers.Dense(4, activation="relu")])(x)
    x = layers.Concatenate()([x, bins(x[:, :1]), words(ops.cast(3 * x[:, 1:2], "int64"))])
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("make", [lambda network: inject(network, "relu"), copy])
def test_state_that_is_no_weight_comes_along(make):
    network = _adapted_network()
    images = tf.random.uniform([6, 8, 8, 3], 0, 255)
    expected = network(images).numpy()
    assert np.ptp(expected, axis=0).min() > 0.1
    np.testing.assert_array_equal(make(network)(images), expected)


@pytest.mark.slow
def test_an_efficientnet_of_keras_keeps_the_normalisation_it_was_adapted_to():
    network = keras.applications.EfficientNetB0(
        weights=None, input_shape=(32, 32, 3), classes=3, classifier_activation=None
    )
    images = tf.random.uniform([4, 32, 32, 3], 0, 255)
    before = network(images).numpy()
    (normalise,) = [one for one in network.layers if isinstance(one, layers.Normalization)]
    normalise.adapt(np.random.default_rng(0).normal([0.2, 0.5, 0.7], 0.3, [64, 8, 8, 3]))
    expected = network(images).numpy()
    largest = np.abs(expected).max()
    assert np.abs(expected - before).max() > 0.1 * largest > 0
    found = inject(network, "swish")(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * largest)


def test_constants_made_from_assigned_weights_are_renewed_in_nested_models_too():
    inputs, inner, innermost = (keras.Input((3,)) for _ in range(3))
    normalise = layers.Normalization()
    normalise.adapt(np.float32([[0, 0, 0], [1, 1, 1]]))
    deep = keras.Model(innermost, normalise(innermost))
    network = keras.Model(inputs, keras.Model(inner, deep(inner))(inputs))
    mean, variance, _ = normalise.weights
    mean.assign([2.0, 3.0, 4.0])
    variance.assign([4.0, 9.0, 16.0])
    renew(network)
    x = np.float32([[8, 9, 10]])
    np.testing.assert_allclose(network(x), [[3.0, 2.0, 1.5]], rtol=1e-6)


@pytest.mark.parametrize("spec", ["swish", "smoothrelu", "pssilu", "keras.layers:PReLU"])
def test_a_copy_has_its_own_variables_in_the_same_order_and_the_same_values(spec, images):
    network = _randomise(inject(_network(), spec))
    made = copy(network)
    assert [w.name for w in made.weights] == [w.name for w in network.weights]
    assert not {id(w) for w in made.weights} & {id(w) for w in network.weights}
    assert hidden_activations(made) == hidden_activations(network)
    expected = network(images).numpy()
    np.testing.assert_array_equal(made(images), expected)
    for weight in network.weights:
        weight.assign(weight + 1)
    np.testing.assert_array_equal(made(images), expected)
    again = _randomise(copy(network))  # the pair of pssilu is one again, not one a site
    np.testing.assert_array_equal(again(images), _randomise(network)(images))


def test_a_copy_keeps_what_is_frozen_and_a_model_whose_graph_cannot_be_seen(images):
    network = _network()
    network.get_layer("block").trainable = False
    assert len(copy(network).trainable_weights) == len(network.trainable_weights)
    hidden = Seen(name="unseen")
    inputs = keras.Input((8, 8, 3))
    network = keras.Model(inputs, layers.ReLU()(hidden(inputs)))
    for one in (network, hidden):
        np.testing.assert_array_equal(copy(one)(images), one(images))


def test_original_is_left_as_it_was(images):
    network = _randomise(_network())
    before = network(images)
    inject(network, "swish")
    inject(inject(network, "relu"), "swish", share_weights=True)
    np.testing.assert_array_equal(network(images), before)
    assert hidden_activations(network) == dict.fromkeys(SITES, "relu")


def test_gates_and_heads_keep_their_function():
    injected = inject(_network(), "swish")
    for name in ("expand", "tanh", "head"):
        assert (
            injected.get_layer(name).activation.__name__
            == {"expand": "sigmoid", "tanh": "tanh", "head": "softmax"}[name]
        )


def test_every_site_has_its_own_trained_scalar():
    injected = inject(_network(), "smoothrelu")
    scalars = [w.path for w in injected.trainable_weights if "smoothrelu_beta" in w.path]
    assert len(set(scalars)) == len(SITES)


@pytest.mark.parametrize("first_part", ["layers", "a nested model"])
def test_pssilu_shares_one_pair_over_the_network_also_after_a_file(first_part, tmp_path, images):
    network = _randomise(_network())
    if first_part == "a nested model":
        inputs = keras.Input((8, 8, 3))
        logits = layers.Dense(3, activation="relu", name="last")(network(inputs))
        network = _randomise(keras.Model(inputs, logits))
    injected = inject(network, "pssilu")
    assert len(injected.trainable_variables) == len(network.trainable_variables) + 2
    injected.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    loaded.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(again(images), injected(images))
    for shared in (injected, loaded, again):
        a, b = (w for w in shared.trainable_variables if "pssilu" in w.name)
        a.assign([1e6])  # where the function is ReLU
        b.assign([0.0])
        np.testing.assert_allclose(shared(images), network(images), rtol=1e-5, atol=1e-6)


def test_pssilu_in_a_sequential_network_survives_a_file_with_all_its_sites(tmp_path):
    hidden = [layers.Dense(4, activation="relu") for _ in range(3)]
    network = _randomise(keras.Sequential([keras.Input((4,)), *hidden, layers.Dense(2)]))
    injected = inject(network, "pssilu:a=3,b=0.2")
    assert len(injected.trainable_variables) == len(network.trainable_variables) + 2
    injected.save(tmp_path / "network.keras")
    x = expected = np.random.default_rng(1).normal(size=(5, 4))
    for layer in hidden:
        y = expected @ layer.kernel.numpy() + layer.bias.numpy()
        expected = y * (1 / (1 + np.exp(-3 * y)) - 0.2) / 0.8
    expected = expected @ network.layers[-1].kernel.numpy() + network.layers[-1].bias.numpy()
    for model in (injected, keras.models.load_model(tmp_path / "network.keras")):
        np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)


def test_view_shares_every_weight_and_differs_only_in_its_gradient(images):
    network = inject(_randomise(_network()), "relu")
    view = inject(network, "relu:backward=parametric_softplus", share_weights=True)
    assert [id(w) for w in view.weights] == [id(w) for w in network.weights]
    _randomise(network)
    np.testing.assert_array_equal(view(images), network(images))

    def gradient(model):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(model(images)[:, 0])
        return tape.gradient(loss, images)

    assert np.abs(gradient(view) - gradient(network)).max() > 0
    assert hidden_activations(network) == dict.fromkeys(INJECTED_SITES, "relu")


def test_view_refuses_a_kernel_with_a_fused_activation():
    with pytest.raises(ValueError, match="'conv1'.*inject\\(model, 'relu'\\)"):
        inject(_network(), "swish", share_weights=True)


def test_frozen_layers_and_precision_stay_as_they_were():
    inputs = keras.Input((4,))
    x = layers.Dense(4, trainable=False, dtype="mixed_bfloat16", activation="relu")(inputs)
    x = layers.ReLU(dtype="bfloat16", name="site")(x)
    network = keras.Model(inputs, layers.Dense(2, dtype="float32")(x))
    injected = inject(network, "swish")
    assert injected.get_layer("site").compute_dtype == "bfloat16"
    assert len(injected.trainable_weights) == len(network.trainable_weights) == 2
    network.trainable = False
    network.layers[-1].trainable = True  # which a frozen network does not look at
    for made in (inject(network, "swish"), copy(network)):
        assert made.trainable_weights == [] and not made.trainable


@pytest.mark.parametrize("spec", ["smoothrelu", "pssilu"])
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_trained_scalars_are_float32_where_a_layer_computes_in_half_precision(spec, kind):
    inputs = keras.Input((4,))
    x = layers.Dense(4, activation="relu", dtype=f"mixed_{kind}", name="fused")(inputs)
    x = layers.Activation("relu", dtype=f"mixed_{kind}", name="own")(x)
    injected = inject(keras.Model(inputs, layers.Dense(2, dtype="float32")(x)), spec)
    scalars = [w for w in injected.trainable_weights if spec in w.path]
    assert scalars and {w.dtype for w in scalars} == {"float32"}
    assert {layer.compute_dtype for layer in injected.layers[2:-1]} == {kind}


@pytest.mark.parametrize("spec", ["smoothrelu", "pssilu"])
def test_trained_scalars_are_frozen_where_the_network_was(spec):
    inputs = keras.Input((4,))  # an operation is frozen with its model alone
    operation = keras.Model(inputs, layers.Dense(2)(ops.relu(inputs)))
    for network in (_network(), operation):
        network.trainable = False
        assert inject(network, spec).trainable_weights == []
    network = _network()
    for layer in network.layers:
        layer.trainable = False
    assert inject(network, spec).trainable_weights == []
    network = _network()
    network.get_layer("block").trainable = False
    network.get_layer("reduce").trainable = False
    frozen = {w.path for w in _network().trainable_weights} - {
        w.path for w in network.trainable_weights
    }
    injected = inject(network, spec)
    trained = {w.path for w in injected.trainable_weights}
    assert frozen and not frozen & trained
    scalars = {w.path.split("/")[-2] for w in injected.trainable_weights if spec in w.path}
    expected = {"conv1_relu", "act", "conv2_relu", "late"} if spec == "smoothrelu" else set()
    assert scalars == expected


def test_models_layers_and_sites_keep_their_names_at_every_depth():
    def names(model):
        found = [model.name]
        for layer in model.layers:
            found += names(layer) if isinstance(layer, keras.Model) else [layer.name]
        return found

    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.ReLU(name="r")], name="a")
    for _ in range(2):
        x = keras.Input((4,), name="x")
        inner = keras.Model(x, layers.ReLU(name="r")(inner(x)), name=f"{inner.name}a")
    parts = [inner, layers.ReLU(name="r"), layers.ReLU(name="last")]
    network = keras.Sequential([keras.Input((4,), name="in"), *parts], name="s")
    for spec in ("swish", "smoothrelu"):
        injected = inject(network, spec)
        assert names(injected) == names(network)
        assert list(hidden_activations(injected)) == [
            "aaa/aa/a/r",
            "aaa/aa/r",
            "aaa/r",
            "r",
            "last",
        ]
        assert set(hidden_activations(injected).values()) == {spec}
    shared = inject(network, "pssilu")
    assert shared.name == network.name
    assert set(hidden_activations(shared).values()) == {"pssilu"}
    assert len(shared.trainable_weights) == len(network.trainable_weights) + 2


def test_a_name_that_is_taken_gets_a_mark_and_none_is_lost():
    inputs = keras.Input((4,))
    x = layers.Dense(4, activation="relu", name="dense")(inputs)
    x = layers.Dense(4, name="dense_relu")(x)
    injected = inject(keras.Model(inputs, layers.ReLU(name="dense_relu_")(x)), "swish")
    assert list(hidden_activations(injected)) == ["dense_relu__", "dense_relu_"]


def test_injected_network_can_be_saved_and_loaded(tmp_path, images):
    injected = inject(_randomise(_network()), "smoothrelu")
    injected.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(images), injected(images))


def test_unknown_activation_is_refused_with_the_names():
    with pytest.raises(ValueError, match="parametric_softplus"):
        inject(_network(), "swihs")
