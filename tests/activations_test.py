"""Activations equal independent float64 formulas, in value and derivative, in every precision."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import activations
from sat_tf.activations import specs

SPECS = (
    *activations.NAMES,
    "swish:beta=2",
    "elu:alpha=1.6",
    "celu:alpha=0.5",
    "celu:alpha=1.6",
    "parametric_softplus:alpha=3",
)
SMOOTH = tuple(s for s in SPECS if s not in ("relu", "elu:alpha=1.6"))
GRID = np.unique(np.concatenate([np.linspace(-30, 30, 601), np.geomspace(1e-6, 1e4, 60)]))
GRID = np.unique(np.concatenate([GRID, -GRID]))


def _sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def _phi(x):
    return np.vectorize(lambda t: 0.5 * math.erfc(-t / math.sqrt(2)))(x)


def _gelu_tanh(x):
    with np.errstate(over="ignore"):
        u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    cosh2 = np.cosh(np.clip(u, -300, 300)) ** 2
    # 1 + tanh(u) = 2 sigmoid(2u), whose tail does not cancel.
    return x * _sigmoid(2 * u), _sigmoid(2 * u) + 0.5 * x * du / cosh2


def _exponential(x, scale, rate):
    below = np.exp(np.minimum(x, 0) * rate)
    value = np.where(x > 0, x, scale * np.expm1(np.minimum(x, 0) * rate))
    return value, np.where(x > 0, 1, scale * rate * below)


def _swish(x, beta):
    s = _sigmoid(beta * x)
    return x * s, s + beta * x * s * _sigmoid(-beta * x)


def _softplus(x, alpha):
    return np.logaddexp(0, alpha * x) / alpha, _sigmoid(alpha * x)


def _mish(x):
    gate = np.tanh(np.logaddexp(0, x))
    return x * gate, gate + x * (1 - gate**2) * _sigmoid(x)


def _smoothrelu(x, a):
    above = np.maximum(x, 0)
    return above - np.log1p(a * above) / a, a * above / (1 + a * above)


def _pssilu(x, a, b):
    s = _sigmoid(a * x)
    return x * (s - b) / (1 - b), (s - b + a * x * s * _sigmoid(-a * x)) / (1 - b)


ORACLES = {
    "relu": lambda x: (np.maximum(x, 0), (x > 0).astype(float)),
    "swish": lambda x: _swish(x, 1),
    "silu": lambda x: _swish(x, 1),
    "swish:beta=2": lambda x: _swish(x, 2),
    "gelu": lambda x: (
        x * _phi(x),
        _phi(x) + x * np.exp(-(np.clip(x, -50, 50) ** 2) / 2) / math.sqrt(2 * math.pi),
    ),
    "gelu_tanh": _gelu_tanh,
    "elu": lambda x: _exponential(x, 1, 1),
    "elu:alpha=1.6": lambda x: _exponential(x, 1.6, 1),
    "celu": lambda x: _exponential(x, 1, 1),
    "celu:alpha=0.5": lambda x: _exponential(x, 0.5, 2),
    "celu:alpha=1.6": lambda x: _exponential(x, 1.6, 1 / 1.6),
    "softplus": lambda x: _softplus(x, 1),
    "parametric_softplus": lambda x: _softplus(x, 10),
    "parametric_softplus:alpha=3": lambda x: _softplus(x, 3),
    "mish": _mish,
    "smoothrelu": lambda x: _smoothrelu(x, 400),
    "pssilu": lambda x: _pssilu(x, 1, np.float64(np.float32(1e-8))),
}


def _layer(spec, dtype):
    layer = activations.make(spec)
    return type(layer).from_config({**layer.get_config(), "dtype": dtype})


def _value_and_derivative(spec, x, dtype):
    layer, x = _layer(spec, dtype), tf.cast(np.asarray(x, np.float64), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    return x, y, tape.gradient(y, x)


def _float64(tensor):
    return tf.cast(tensor, tf.float64).numpy()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("spec", SPECS)
def test_value_and_derivative_equal_the_formula_in_float64(spec, dtype):
    x, y, dy = _value_and_derivative(spec, GRID, dtype)
    expected = ORACLES[spec](_float64(x))
    # Half precision is that of float32 and one rounding at the end.
    (eps, _), (own, tiny) = _eps("float64" if dtype == "float64" else "float32"), _eps(dtype)
    rounding = 0.0 if own == eps else own
    size = np.abs(_float64(x))
    # tf.nn.elu is exact to the last bit of 1, tf.math.erf nearly so, the others to that of x.
    worst = {"elu": 1, "celu": 1, "gelu": 2 * np.minimum(size, 6)}
    scale = worst.get(spec.split(":")[0], np.minimum(1, size))
    assert y.dtype == dy.dtype == tf.as_dtype(dtype)
    error = np.abs(_float64(y) - expected[0]) - rounding * np.abs(expected[0])
    assert np.all(error <= 4 * eps * (np.abs(expected[0]) + scale) + tiny)
    # f' holds x (1 - gate), and 1 - gate is exact to the last bit of 1.
    error = np.abs(_float64(dy) - expected[1]) - rounding * np.abs(expected[1])
    assert np.all((error <= 8 * eps * (1 + np.minimum(size, 20)) + tiny)[size > 0])


def _eps(dtype):
    dtype = tf.as_dtype(dtype)
    bits = {tf.float64: 52, tf.float32: 23, tf.bfloat16: 7, tf.float16: 10}[dtype]
    return 2.0**-bits, 2.0**-24 if dtype == tf.float16 else 2.0**-126


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    "dtype, large", [("float64", 1e150), ("float32", 1e30), ("bfloat16", 1e30), ("float16", 1e4)]
)
def test_huge_inputs_give_finite_values_and_the_slopes_of_the_two_ends(spec, dtype, large):
    x, y, dy = _value_and_derivative(spec, [-large, large], dtype)
    assert np.all(np.isfinite(_float64(y)))
    np.testing.assert_allclose(_float64(y)[1], _float64(x)[1], rtol=2e-3)
    np.testing.assert_allclose(_float64(dy), [0, 1], atol=1e-6 if dtype != "float16" else 1e-3)


def _derivative_jump(spec):
    """The change of f' over a step of 2e-9 across 0, in float64."""
    _, _, dy = _value_and_derivative(spec, [-1e-9, 1e-9], "float64")
    return abs(float(dy[1] - dy[0]))


@pytest.mark.parametrize("spec", SMOOTH)
def test_derivative_is_continuous_at_zero(spec):
    assert _derivative_jump(spec) < 1e-6


@pytest.mark.parametrize("spec, jump", [("relu", 1.0), ("elu:alpha=1.6", 0.6)])
def test_derivative_of_relu_and_of_elu_beside_alpha_one_jumps_at_zero(spec, jump):
    assert _derivative_jump(spec) == pytest.approx(jump, abs=1e-6)


@pytest.mark.parametrize("spec", SMOOTH)
def test_second_derivative_equals_the_slope_of_the_derivative(spec):
    x = tf.constant(np.linspace(-4.05, 4.05, 82))
    layer = _layer(spec, "float64")
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = layer(x)
        dy = inner.gradient(y, x)
    step = 1e-6
    slopes = [ORACLES[spec](x.numpy() + s)[1] for s in (step, -step)]
    expected = (slopes[0] - slopes[1]) / (2 * step)
    np.testing.assert_allclose(outer.gradient(dy, x), expected, atol=1e-7)


@pytest.mark.parametrize("spec, names", [("smoothrelu", ["a"]), ("pssilu:a=0.7,b=0.2", ["a", "b"])])
@pytest.mark.parametrize("sign", [1, -1])
def test_gradients_of_trained_scalars_equal_finite_differences(spec, names, sign):
    layer = _layer(spec, "float64")
    x = tf.constant(np.linspace(-3, 3, 25))
    layer.build(x.shape)
    layer.set_weights([sign * w for w in layer.get_weights()])
    weighting = tf.constant(np.cos(np.arange(25.0)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(weighting * layer(x))
    gradients = tape.gradient(loss, [w.value for w in layer.trainable_variables])
    assert len(gradients) == len(names)
    raw = [float(w[0]) for w in layer.get_weights()]

    def loss_at(values):
        if spec == "smoothrelu":
            y = _smoothrelu(x.numpy(), values[0] ** 2)[0]
        else:
            y = _pssilu(x.numpy(), abs(values[0]), abs(values[1]))[0]
        return float(np.sum(weighting.numpy() * y))

    for i, gradient in enumerate(gradients):
        step = 1e-5 * max(1, abs(raw[i]))
        up, down = ([v + (j == i) * d for j, v in enumerate(raw)] for d in (step, -step))
        expected = (loss_at(up) - loss_at(down)) / (2 * step)
        assert float(gradient[0]) == pytest.approx(expected, rel=1e-5, abs=1e-10)


@pytest.mark.parametrize("name", activations.TRAINED)
def test_a_trained_activation_has_the_scalars_and_defaults_of_the_table(name):
    kind, layer = activations.TRAINED[name], activations.make(name)
    layer.build((None, 4))
    assert tuple(weight.name for weight in layer.weights) == kind.scalars
    values = [weight.numpy()[0] for weight in layer.weights]
    np.testing.assert_array_equal(values, np.float32(list(kind.defaults.values())))
    other = ",".join(f"{key}=0.5" for key in kind.defaults)
    layer = activations.make(f"{name}:{other}")
    layer.build((None, 4))
    assert all(weight.numpy() == 0.5 for weight in layer.weights)


def test_smoothrelu_starts_at_the_paper_s_400_and_tends_to_relu():
    layer = activations.make("smoothrelu")
    assert float(layer(tf.constant([1.0]))[0]) == pytest.approx(0.985, abs=5e-4)
    assert [w.name for w in layer.weights] == ["smoothrelu_beta"]
    layer.set_weights([np.array([1e4])])
    x = tf.linspace(-2.0, 2.0, 41)
    np.testing.assert_allclose(layer(x), tf.nn.relu(x), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_relu_with_another_backward_keeps_its_value_and_takes_the_other_s_derivative(dtype):
    x, y, dy = _value_and_derivative("relu:backward=parametric_softplus", GRID, dtype)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    eps, tiny = _eps(dtype)
    rtol = max(eps, 1e-5)  # half precision is computed in float32 and rounded once
    np.testing.assert_allclose(_float64(dy), _sigmoid(10 * _float64(x)), rtol=rtol, atol=4 * tiny)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_relu_passes_nothing_at_zero_in_its_own_right_and_as_another_s_backward(dtype):
    for spec in ("relu", "swish:backward=relu"):
        _, _, dy = _value_and_derivative(spec, [-1.0, -0.0, 0.0, 1e-3], dtype)
        np.testing.assert_array_equal(_float64(dy), [0, 0, 0, 1])


def test_parameters_of_forward_and_backward_are_told_apart():
    spec = "elu:alpha=1.6,backward=celu,backward_alpha=0.5"
    x, y, dy = _value_and_derivative(spec, GRID, "float64")
    np.testing.assert_allclose(y, ORACLES["elu:alpha=1.6"](GRID)[0], atol=1e-15, rtol=1e-12)
    np.testing.assert_allclose(dy, ORACLES["celu:alpha=0.5"](GRID)[1], atol=1e-15, rtol=1e-12)


def test_another_name_of_a_function_names_it_backward_too():
    for spec in ("relu:backward=silu", "relu:backward= SiLU "):
        assert activations.parse(spec) == ("relu", {"backward": "swish"})
    assert activations.parse("silu") == ("swish", {})


def doubled_relu(x, slope=2.0):
    """A function of a tensor, named by its dotted path in the tests below."""
    return slope * tf.nn.relu(x)


def make_leaky(slope=0.5):
    """A function that makes a layer, named by its dotted path in the tests below."""
    return keras.layers.LeakyReLU(negative_slope=slope)


def by_place(x, /):
    """A function whose tensor has no name to be given by; named by its dotted path below."""
    return 3 * x


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("tensorflow:nn.selu", tf.nn.selu),
        (f"{__name__}:by_place", lambda x: 3 * x),
        (f"{__name__}:doubled_relu", lambda x: 2 * tf.nn.relu(x)),
        (f"{__name__}:doubled_relu:slope=3", lambda x: 3 * tf.nn.relu(x)),
        (f"{__name__}:make_leaky:slope=0.25", lambda x: tf.nn.leaky_relu(x, 0.25)),
        ("keras.layers:PReLU", lambda x: tf.nn.relu(x)),
    ],
)
def test_dotted_path_names_a_function_a_layer_or_its_maker(spec, expected, tmp_path):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, activations.make(spec, name="site")(inputs))
    x = tf.random.normal([7, 5])
    np.testing.assert_allclose(model(x), expected(x), rtol=1e-6)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), model(x))


@pytest.mark.parametrize("spec", [*SPECS, "relu:backward=celu,backward_alpha=2"])
def test_saved_model_loads_with_its_spec_and_weights(spec, tmp_path):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, activations.make(spec, name="site")(inputs))
    model.set_weights([w + 0.25 for w in model.get_weights()])
    x = tf.random.normal([7, 5])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("site").get_config() == model.get_layer("site").get_config()
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("spec", ["swish", "celu:alpha=1.6", "gelu_tanh", "smoothrelu", "pssilu"])
def test_compiled_graph_equals_eager(spec):
    layer = activations.make(spec)
    x = tf.random.normal([64])

    def derivative(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, tape.gradient(y, x)

    eager = derivative(x)
    for compiled in (tf.function(derivative), tf.function(derivative, jit_compile=True)):
        for a, b in zip(compiled(x), eager, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_mixed_precision_layer_keeps_its_scalar_in_float32():
    layer = _layer("smoothrelu", "mixed_bfloat16")
    assert layer(tf.ones([3])).dtype == tf.bfloat16
    assert layer.weights[0].dtype == "float32"


@pytest.mark.parametrize("spec", ["smoothrelu:beta=20.3", "pssilu:a=0.703,b=0.203"])
def test_mixed_precision_computes_with_the_float32_value_of_trained_scalars(spec):
    # What comes in and goes back is exact in bfloat16; the scalars are not.
    x, slopes = tf.constant([0.5, 1.0, 2.0]), []
    for policy in ("float32", "mixed_bfloat16"):
        layer = _layer(spec, policy)
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(tf.cast(layer(x), tf.float32))
        slopes.append(tape.gradient(y, layer.trainable_variables))
    for exact, mixed in zip(*slopes, strict=True):
        np.testing.assert_allclose(mixed, exact, rtol=1e-5)


def test_foreign_layer_computes_in_the_precision_of_its_site():
    layer = activations.make("keras.layers:PReLU")
    layer.dtype_policy = keras.DTypePolicy("float64")
    assert layer(tf.constant([[1 / 3]], tf.float64)).dtype == tf.float64
    assert layer.weights[0].dtype == "float64"


def test_factory_gives_each_site_its_own_layer_and_pssilu_one_for_all():
    own = activations.factory("smoothrelu")
    assert own("first") is not own("second")
    assert own("first").name == "first"
    shared = activations.factory("pssilu")
    assert shared("first") is shared("second")
    given = activations.factory("pssilu:a=0.7,b=0.2")("first")
    assert given.initial == {"a": 0.7, "b": 0.2} and given.name == "pssilu"
    half = _layer("pssilu:a=0.7", "mixed_bfloat16")
    twin = half.twin()
    assert (twin.pair, twin.dtype_policy, twin.initial) == (
        half.pair, half.dtype_policy, half.initial
    )  # fmt: skip


@pytest.mark.parametrize(
    "spec, said",
    [
        ("swihs", "parametric_softplus"),
        ("swihs:beta=1", "parametric_softplus"),
        ("celu:alpa=1", "alpha"),
        ("celu:alpha", "alpha"),
        ("celu:alpha=x", "'x'"),
        ("celu:alpha=nan", "'nan'"),
        ("celu:alpha=0", "above 0"),
        ("celu:alpha=1,alpha=2", "twice"),
        ("relu:alpha=1", "backward"),
        ("relu:backward=smoothrelu", "parametric_softplus"),
        ("swish:backward=elu,backward_beta=2", "backward_alpha"),
        ("no_such_module:f", "no_such_module"),
        ("math:no_such_function", "no_such_function"),
        ("math:pi", "float"),
        (f"{__name__}:doubled_relu:slope=wide", "'wide'"),
        ("", "relu"),
    ],
)
def test_unknown_names_and_parameters_are_refused_with_what_is_valid(spec, said):
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        activations.make(spec)


def stretched_near_zero(x):
    """Not finite at 0 only, where a sqrt has no slope; named by its dotted path below."""
    return tf.sqrt(tf.nn.relu(x))


def looped():
    """Makes itself when it is made, as a program would that is named as an activation."""
    return activations.make(f"{__name__}:looped")


@pytest.mark.parametrize(
    "path, said",
    [
        ("os:system", "cannot be used: TypeError"),
        ("os:abort", "not called"),
        ("sys:exit", "not called"),
        ("builtins:exec", "cannot be used"),
        ("math:sin", "cannot be used"),
        ("tensorflow:zeros", "cannot be used"),
        ("tensorflow:argmax", "expected a tensor of shape"),
        ("tensorflow:round", "no gradient"),
        ("tensorflow:ones_like", "no gradient"),
        ("keras:layers.Dense", "cannot be used"),
        ("keras:layers.GlobalAveragePooling2D", "expected a tensor of shape"),
        ("keras:Model", "expected a tensor|cannot be used"),
        ("collections:OrderedDict", "none of Keras layers"),
        (".:x", "cannot be imported"),
        ("..a:b", "cannot be imported"),
        (f"{__name__}:stretched_near_zero", "not finite"),
        ("tensorflow:math.log", "not finite"),  # its slopes are
        (f"{__name__}:looped", "calls itself"),
    ],
)
def test_an_own_activation_is_tried_on_numbers_before_it_is_used(path, said):
    with pytest.raises(ValueError, match=said) as refusal:
        activations.parse(path)
    assert "\n" not in str(refusal.value)


def test_an_own_activation_is_tried_once_a_process(monkeypatch):
    monkeypatch.setattr(specs, "_external", lambda *tried: tried_on.append(tried) or tf.identity)
    tried_on = []
    for slope in (7, 7, 8):
        activations.parse(f"{__name__}:doubled_relu:slope={slope}")
    assert [parameters["slope"] for _, parameters in tried_on] == [7, 8]


def test_trying_an_own_activation_leaves_the_weights_of_others_alone():
    drawn = []
    for spec in ("relu", f"{__name__}:make_leaky:slope=0.125"):
        keras.utils.set_random_seed(3)
        activations.parse(spec)
        dense = keras.layers.Dense(4)
        dense.build((None, 4))
        drawn.append(dense.kernel.numpy())
    np.testing.assert_array_equal(*drawn)
