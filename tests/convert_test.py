"""A converted network answers as the graph that its checkpoint was saved from."""

import hashlib
import json
import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import convert, loading, models
from sat_tf.evaluation import settings
from sat_tf.released import names as released
from sat_tf.released.choice import Choice, choose
from sat_tf.released.plan import Tensor, plan
from sat_tf.released.reader import Checkpoint

RESNET_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
B0_STAGES = (  # repeats, kernel, stride, expansion, filters
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
B3_STAGES = (
    (2, 3, 1, 1, 24), (3, 3, 2, 6, 32), (3, 5, 2, 6, 48), (5, 3, 2, 6, 96), (5, 5, 1, 6, 136),
    (6, 5, 2, 6, 232), (2, 3, 1, 6, 384),
)  # fmt: skip
NOISE = {"global_step": ((), np.int64), "learning_rate": ((), np.float32)}


# The scheme as the reference graphs were saved, written down a second time.


def resnet_tensors(depth=50, smooth=False, width=64, groups=1, inner=1):
    shapes = {"conv0/W": (7, 7, 3, 64), "linear/W": (2048, 1000), "linear/b": (1000,)}
    shapes |= norm_tensors("conv0/bn", 64)
    sites = ["conv0"]
    channels = 64
    for group, blocks in enumerate(RESNET_BLOCKS[depth]):
        filters = width * 2**group
        for block in range(blocks):
            scope, k = f"group{group}/block{block}", filters * inner
            convolutions = {
                "conv1": (1, 1, channels, k),
                "conv2": (3, 3, k // groups, k),
                "conv3": (1, 1, k, 4 * filters),
            }
            if block == 0:
                convolutions["convshortcut"] = (1, 1, channels, 4 * filters)
            for name, shape in convolutions.items():
                shapes[f"{scope}/{name}/W"] = shape
                shapes |= norm_tensors(f"{scope}/{name}/bn", shape[-1])
            sites += [f"{scope}/conv1", f"{scope}/conv2", scope]
            channels = 4 * filters
    return shapes | ({f"{site}/smoothrelu_beta": (1,) for site in sites} if smooth else {})


def norm_tensors(scope, channels):
    names = ("gamma", "beta", "mean/EMA", "variance/EMA")
    return {f"{scope}/{name}": (channels,) for name in names}


def efficientnet_tensors(scope="efficientnet-b0", stages=B0_STAGES, stem=32, head=1280):
    shapes = {f"{scope}/stem/conv2d/kernel": (3, 3, 3, stem)}
    shapes |= tpu_norm_tensors(f"{scope}/stem/tpu_batch_normalization", stem)
    index, channels = 0, stem
    for repeats, kernel, _, expansion, filters in stages:
        for _ in range(repeats):
            block, wide = f"{scope}/blocks_{index}", channels * expansion
            convs, norms = ["conv2d", "conv2d_1"], ["", "_1", "_2"]
            if expansion > 1:
                shapes[f"{block}/{convs.pop(0)}/kernel"] = (1, 1, channels, wide)
                shapes |= tpu_norm_tensors(f"{block}/tpu_batch_normalization{norms.pop(0)}", wide)
            shapes[f"{block}/depthwise_conv2d/depthwise_kernel"] = (kernel, kernel, wide, 1)
            shapes |= tpu_norm_tensors(f"{block}/tpu_batch_normalization{norms.pop(0)}", wide)
            small = max(1, channels // 4)
            shapes[f"{block}/se/conv2d/kernel"] = (1, 1, wide, small)
            shapes[f"{block}/se/conv2d/bias"] = (small,)
            shapes[f"{block}/se/conv2d_1/kernel"] = (1, 1, small, wide)
            shapes[f"{block}/se/conv2d_1/bias"] = (wide,)
            shapes[f"{block}/{convs.pop(0)}/kernel"] = (1, 1, wide, filters)
            shapes |= tpu_norm_tensors(f"{block}/tpu_batch_normalization{norms.pop(0)}", filters)
            index, channels = index + 1, filters
    shapes[f"{scope}/head/conv2d/kernel"] = (1, 1, channels, head)
    shapes |= tpu_norm_tensors(f"{scope}/head/tpu_batch_normalization", head)
    return shapes | {
        f"{scope}/head/dense/kernel": (head, 1000),
        f"{scope}/head/dense/bias": (1000,),
    }


def tpu_norm_tensors(scope, channels):
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    return {f"{scope}/{name}": (1, 1, 1, 1, channels) for name in names}


def random_values(shapes, seed=0, largest_gamma=1.25):
    """Draws what keeps the signal alive through all layers without amplifying rounding."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, shape in shapes.items():
        last = name.rpartition("/")[2]
        if last in ("W", "kernel", "depthwise_kernel"):
            fan_in = np.prod(shape[:3] if last != "depthwise_kernel" else shape[:2])
            value = rng.normal(0, (2 / fan_in) ** 0.5, shape)
        elif last == "gamma":
            value = rng.uniform(0.7, largest_gamma, shape)
        elif "variance" in name:
            value = rng.uniform(0.5, 0.9, shape)
        elif last == "smoothrelu_beta":
            value = rng.uniform(1.0, 3.0, shape)
        else:
            value = rng.normal(0, 0.2, shape)
        values[name] = value.astype(np.float32)
    return values


def write_checkpoint(prefix, values):
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    return str(prefix)


# The graphs, from tensors of those names alone: TensorFlow's operations, no layer of ours, float64.


def precise(values):
    return {name: value.astype(np.float64) for name, value in values.items()}


def normalised(x, values, scope, statistics=("moving_mean", "moving_variance")):
    mean, variance, gamma, beta = (
        values[f"{scope}/{name}"].reshape(-1) for name in (*statistics, "gamma", "beta")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def smoothrelu(x, beta):
    slope = beta**2
    return tf.where(x > 0, x - tf.math.log1p(slope * tf.maximum(x, 0)) / slope, 0)


def resnet_logits(values, images, depth=50):
    """Takes what the graph takes: whatever channel order conv0/W was trained with."""
    values = precise(values)

    def act(x, site):
        beta = values.get(f"{site}/smoothrelu_beta")
        return x * tf.sigmoid(x) if beta is None else smoothrelu(x, beta)

    def conv(x, scope, stride=1):
        kernel = values[f"{scope}/W"]
        if stride > 1 and len(kernel) > 1:
            pad = len(kernel) // 2
            x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        x = tf.nn.conv2d(x, kernel, stride, "VALID" if stride > 1 else "SAME")
        return normalised(x, values, f"{scope}/bn", ("mean/EMA", "variance/EMA"))

    x = act(conv(images * (2 / 255) - 1, "conv0", 2), "conv0")
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    for group, blocks in enumerate(RESNET_BLOCKS[depth]):
        for block in range(blocks):
            scope = f"group{group}/block{block}"
            stride = 2 if group and not block else 1
            shortcut = x if block else conv(x, f"{scope}/convshortcut", stride)
            x = act(conv(x, f"{scope}/conv1"), f"{scope}/conv1")
            x = act(conv(x, f"{scope}/conv2", stride), f"{scope}/conv2")
            x = act(conv(x, f"{scope}/conv3") + shortcut, scope)
    return tf.reduce_mean(x, [1, 2]) @ values["linear/W"] + values["linear/b"]


def efficientnet_logits(values, images, scope="efficientnet-b0", end=""):
    values = {name.removesuffix(end): value for name, value in precise(values).items()}

    def swish(x):
        return x * tf.sigmoid(x)

    def conv(x, name, stride=1):
        return tf.nn.conv2d(x, values[f"{scope}/{name}/kernel"], stride, "SAME")

    def norm(x, name):
        return normalised(x, values, f"{scope}/{name}")

    x = conv(images * (2 / 255) - 1, "stem/conv2d", 2)
    x = swish(norm(x, "stem/tpu_batch_normalization"))
    index = 0
    for repeats, _, stride, expansion, _ in B0_STAGES:
        for repeat in range(repeats):
            block, shortcut, n = f"blocks_{index}", x, 0
            if expansion > 1:
                x = swish(norm(conv(x, f"{block}/conv2d"), f"{block}/tpu_batch_normalization"))
                n = 1
            strides = [1, *[1 if repeat else stride] * 2, 1]
            kernel = values[f"{scope}/{block}/depthwise_conv2d/depthwise_kernel"]
            x = tf.nn.depthwise_conv2d(x, kernel, strides, "SAME")
            x = swish(norm(x, f"{block}/tpu_batch_normalization{'_1' if n else ''}"))
            gate = tf.reduce_mean(x, [1, 2], keepdims=True)
            gate = swish(
                conv(gate, f"{block}/se/conv2d") + values[f"{scope}/{block}/se/conv2d/bias"]
            )
            gate = conv(gate, f"{block}/se/conv2d_1") + values[f"{scope}/{block}/se/conv2d_1/bias"]
            x = x * tf.sigmoid(gate)
            x = conv(x, f"{block}/conv2d{'_1' if n else ''}")
            x = norm(x, f"{block}/tpu_batch_normalization_{1 + n}")
            x = x + shortcut if repeat else x
            index += 1
    x = swish(norm(conv(x, "head/conv2d"), "head/tpu_batch_normalization"))
    dense = f"{scope}/head/dense"
    return tf.reduce_mean(x, [1, 2]) @ values[f"{dense}/kernel"] + values[f"{dense}/bias"]


def given(**values):
    names = "checkpoint output model activation image_size channel_order ema"
    return types.SimpleNamespace(**{**dict.fromkeys(names.split()), "list": False, **values})


def run(monkeypatch, **values):
    monkeypatch.setattr(convert.flags, "FLAGS", given(**values))
    convert.main()


def random_images(size, num_images=2):
    """Coarse colours: the means over the last maps would hide fine noise."""
    colours = np.random.default_rng(3).uniform(0, 255, (num_images, 2, 2, 3))
    return colours.repeat(size // 2, 1).repeat(size // 2, 2)


def assert_same_logits(found, expected):
    differences = np.std(expected[0] - expected[1])  # the images matter, not the biases alone
    assert differences > 0.1 * np.std(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * differences)


@pytest.fixture(scope="module")
def smooth_run(tmp_path_factory):
    """One ResNet-50 of full size with trained activations, and all that may lie beside it."""
    tmp = tmp_path_factory.mktemp("smooth")
    values = random_values(resnet_tensors(smooth=True), largest_gamma=1.45)
    beside = {
        "global_step": np.int64(500),
        "learning_rate": np.float32(0.1),
        "conv0/W/Momentum": np.zeros((7, 7, 3, 64), np.float32),
        "EMA/train-error/biased": np.float32(0.5),
    }
    prefix = write_checkpoint(tmp / "Res50-smoothrelu", values | beside)
    (tmp / "Res50-smoothrelu.meta").write_bytes(b"a graph, of which nothing is read")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, checkpoint=prefix, image_size=64, output=str(tmp / "runs" / "smooth"))
    return types.SimpleNamespace(
        values=values, beside=beside, prefix=prefix, path=tmp / "runs" / "smooth"
    )


@pytest.fixture(scope="module")
def network(smooth_run):
    return loading.load(str(smooth_run.path))


@pytest.fixture(scope="module")
def b0():
    return convert.build(Choice("efficientnet-b0", "swish", 64, "rgb", None))


def weights_of(network):
    return {weight.path: tuple(weight.shape) for weight in network.weights}


def tensors(shapes):
    return {name: Tensor(shape) for name, shape in shapes.items()}


def contents(arrays):
    """A multiset of arrays, whatever their names; of a batch norm, whatever its ones."""
    return sorted(hashlib.sha256(np.ascontiguousarray(one).tobytes()).hexdigest() for one in arrays)


def test_resnet_answers_rgb_images_as_the_released_graph_answers_bgr_images(smooth_run, network):
    images = random_images(64)
    expected = resnet_logits(smooth_run.values, images[..., ::-1]).numpy()
    assert_same_logits(network(images.astype(np.float32), training=False).numpy(), expected)
    unlike = resnet_logits(smooth_run.values, images).numpy()
    assert np.std(unlike - expected) > 0.01 * np.std(expected)


def test_every_tensor_is_in_the_network_once(smooth_run, network):
    expected = dict(smooth_run.values)
    expected["conv0/W"] = expected["conv0/W"][:, :, ::-1]
    assert len(network.weights) == len(expected) == 316
    assert contents(w.numpy() for w in network.weights) == contents(expected.values())


def test_rgb_order_leaves_the_first_kernel_as_it_is(smooth_run, network):
    checkpoint = Checkpoint(smooth_run.prefix)
    matched = convert.match(network, checkpoint.tensors, None)
    kernel, found = smooth_run.values["conv0/W"], {}
    for order in ("rgb", "bgr"):  # the other tests want the last
        convert.fill(network, checkpoint, matched, order)
        found[order] = network.get_layer("conv0").kernel.numpy()
    np.testing.assert_array_equal(found["rgb"], kernel)
    np.testing.assert_array_equal(found["bgr"], kernel[:, :, [2, 1, 0]])


def test_metrics_tell_what_the_files_were_and_how_the_images_are_read(smooth_run):
    metrics = json.loads((smooth_run.path / "metrics.json").read_text("utf-8"))
    assert sorted(os.listdir(smooth_run.path)) == ["metrics.json", "network.keras"]
    assert os.listdir(smooth_run.path.parent) == ["smooth"]
    expected = {
        "model": "resnet50", "activation": "smoothrelu", "dataset": "imagenet2012",
        "num_classes": 1000, "image_size": 64, "eval_resize": "shorter_side", "norm": "linf",
        "epsilon": 4.0, "num_parameters": 25_557_032 + 49,
    }  # fmt: skip
    assert {key: metrics[key] for key in expected} == expected
    names = ["Res50-smoothrelu.data-00000-of-00001", "Res50-smoothrelu.index"]
    files = {name: smooth_run.path.parents[1] / name for name in names}
    assert metrics["converted"]["checkpoint"] == "Res50-smoothrelu"
    assert metrics["converted"]["channel_order"] == "bgr"
    assert metrics["converted"]["tensors_used"] == 316
    assert set(metrics["converted"]["tensors_ignored"]) == set(smooth_run.beside)
    assert metrics["converted"]["sha256"] == {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()
    }


def test_evaluation_takes_data_set_and_ball_from_the_converted_network(smooth_run):
    names = "network dataset data_dir image_size eval_resize epsilon norm json input_range"
    flags = dict.fromkeys(names.split()) | {"split": "validation", "curve": [], "json": "r.json"}
    chosen = settings.complete(types.SimpleNamespace(**flags, workdir=str(smooth_run.path)))
    assert (chosen.dataset, chosen.epsilon, chosen.norm) == ("imagenet2012", 4.0, "linf")
    assert (chosen.image_size, chosen.eval_resize) == (64, "shorter_side")


def test_efficientnet_answers_as_the_released_graph(tmp_path, b0):
    raw = random_values(efficientnet_tensors())
    end = "/ExponentialMovingAverage"
    other = random_values(efficientnet_tensors(), seed=1)
    averaged = {f"{name}{end}": value for name, value in other.items()}
    beside = {"global_step": np.int64(1), "efficientnet-b0/head/dense/bias/RMSProp_1": raw[
        "efficientnet-b0/head/dense/bias"]}  # fmt: skip
    checkpoint = Checkpoint(write_checkpoint(tmp_path / "model.ckpt-1", raw | averaged | beside))
    images = random_images(64)
    for ema, values, ending in ((False, raw, ""), (True, averaged, end)):
        matched = convert.match(b0, checkpoint.tensors, ema)
        convert.fill(b0, checkpoint, matched, "rgb")
        expected = efficientnet_logits(values, images, end=ending).numpy()
        assert_same_logits(b0(images.astype(np.float32), training=False).numpy(), expected)
        assert contents(w.numpy() for w in b0.weights) == contents(values.values())
        assert len(matched.used) == 311 and len(matched.ignored) == 313
    with pytest.raises(ValueError, match="311 not known: .*choose --ema or --noema"):
        convert.match(b0, checkpoint.tensors, None).check()


def test_batch_norms_of_one_axis_fit_as_well(b0):
    flat = {
        name: Tensor(shape[-1:] if len(shape) == 5 else shape)
        for name, shape in efficientnet_tensors().items()
    }
    plan("efficientnet-b0", weights_of(b0), flat).check()


def test_names_are_those_of_the_saved_graphs(network, b0):
    smooth = weights_of(network)
    plain = {path: shape for path, shape in smooth.items() if "smoothrelu" not in path}
    for model, weights, expected, count in (
        ("resnet50", plain, resnet_tensors(), 267),
        ("resnet50", smooth, resnet_tensors(smooth=True), 316),
        ("efficientnet-b0", weights_of(b0), efficientnet_tensors(), 311),
    ):
        assert_names(model, weights, expected, count)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "expected", "count"),
    [
        ("resnet101", resnet_tensors(101), 522),
        ("resnext50-32x4d", resnet_tensors(groups=32, inner=2), 267),
        ("resnext50-32x8d", resnet_tensors(groups=32, inner=4), 267),
        ("efficientnet-b3", efficientnet_tensors("efficientnet-b3", B3_STAGES, 40, 1536), 496),
    ],
)
def test_names_of_larger_networks_are_those_of_the_saved_graphs(model, expected, count):
    network = convert.build(Choice(model, "swish", 64, "rgb", None))
    assert_names(model, weights_of(network), expected, count)


def assert_names(model, weights, expected, count):
    found = plan(model, weights, tensors(expected))
    found.check()
    assert sorted(found.used.values()) == sorted(expected)
    assert len(found.used) == len(expected) == count and not found.ignored


def test_the_released_l1_has_a_scope_of_its_own():
    names = released.tensor_names("efficientnet-l1", ["logits/bias"], ema=True)
    expected = "efficientnet-bL1/head/dense/bias/ExponentialMovingAverage"
    assert names == {"logits/bias": expected}


def without(name):
    return lambda found: found.pop(name)


def having(name, *tensor):
    return lambda found: found.update({name: Tensor(*tensor)})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without("group1/block0/convshortcut/W"), "1 missing: group1/block0/convshortcut/W"),
        (without("conv0/smoothrelu_beta"), "missing: conv0/smoothrelu_beta"),
        (having("linear/c", (3,)), "1 not known: linear/c"),
        (having("linear/c/Momentum", (3,)), "1 not known: linear/c/Momentum"),
        (having("linear/W/Other", (3,)), "1 not known: linear/W/Other"),
        (having("group4/block0/conv1/W", (3,)), "not known: group4/block0/conv1/W"),
        (
            having("linear/W", (1000, 2048)),
            r"another shape: linear/W \(float32 \[1000, 2048\], expected float32 \[2048, 1000\]",
        ),
        (having("linear/b", (1, 1, 1, 1, 1000)), "another shape: linear/b"),
        (having("linear/b", (1000,), "float64"), r"linear/b \(float64 \[1000\]"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(network, damage, words):
    found = tensors(resnet_tensors(smooth=True))
    damage(found)
    with pytest.raises(ValueError, match=words) as caught:
        plan("resnet50", weights_of(network), found).check()
    assert "\n" not in str(caught.value)


def test_another_activation_than_that_of_the_checkpoint_is_refused(network):
    smooth = weights_of(network)
    plain = {path: shape for path, shape in smooth.items() if "smoothrelu" not in path}
    with pytest.raises(ValueError, match="49 not known: .* trained with --activation=smoothrelu"):
        plan("resnet50", plain, tensors(resnet_tensors(smooth=True))).check()
    with pytest.raises(ValueError, match="49 missing: .* not trained with --activation=smoothrelu"):
        plan("resnet50", smooth, tensors(resnet_tensors())).check()
    with pytest.raises(ValueError, match="no released checkpoint of resnet50 has the weights pss"):
        plan("resnet50", plain | {"pssilu/pssilu_a": (1,)}, {})


def flipped(files):
    data = bytearray(files[".data-00000-of-00001"].read_bytes())
    data[len(data) // 2] ^= 255
    files[".data-00000-of-00001"].write_bytes(data)


def truncated(files):
    os.truncate(files[".data-00000-of-00001"], 10_000)


def halved_index(files):
    os.truncate(files[".index"], files[".index"].stat().st_size // 2)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (flipped, "tensor .* cannot be read .*Checksum"),
        (truncated, "tensor .* cannot be read"),
        (lambda files: files[".data-00000-of-00001"].unlink(), "tensor .* cannot be read"),
        (lambda files: files[".index"].unlink(), "there is no .*Res50-smoothrelu.index"),
        (lambda files: files[".index"].write_bytes(b"no index"), ".index is damaged"),
        (halved_index, ".index is damaged"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_written(
    smooth_run, network, tmp_path, monkeypatch, spoil, words
):
    source, files = smooth_run.path.parents[1], {}
    for end in (".index", ".data-00000-of-00001"):
        files[end] = tmp_path / f"Res50-smoothrelu{end}"
        files[end].write_bytes((source / files[end].name).read_bytes())
    spoil(files)
    assert_refused(tmp_path, monkeypatch, network, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"linear/b": np.full(1000, np.nan, np.float32)}, "linear/b .* not finite"),
        ({"linear/b": np.zeros(10, np.float32)}, "another shape: linear/b"),
        ({"strange": np.zeros(10, np.float32)}, "1 not known: strange"),
    ],
)
def test_a_wrong_tensor_is_named_and_nothing_written(
    smooth_run, network, tmp_path, monkeypatch, change, words
):
    write_checkpoint(tmp_path / "Res50-smoothrelu", smooth_run.values | change)
    assert_refused(tmp_path, monkeypatch, network, words)


def assert_refused(tmp_path, monkeypatch, network, words):
    monkeypatch.setattr(convert, "build", lambda choice: network)
    before, output = set(os.listdir(tmp_path)), str(tmp_path / "new")
    with pytest.raises(ValueError, match=words):
        run(monkeypatch, checkpoint=str(tmp_path / "Res50-smoothrelu"), output=output)
    assert set(os.listdir(tmp_path)) == before


def test_a_directory_that_holds_something_is_left_alone(smooth_run, monkeypatch):
    before = (smooth_run.path / "network.keras").stat()
    with pytest.raises(ValueError, match="is there already"):
        run(monkeypatch, checkpoint=smooth_run.prefix, output=str(smooth_run.path))
    assert (smooth_run.path / "network.keras").stat() == before


def test_a_full_disk_leaves_no_directory(tmp_path, monkeypatch):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert.workdir, "write_metrics", full)
    with pytest.raises(OSError, match="No space"):
        convert.write(tmp_path / "new", network, {})
    assert os.listdir(tmp_path) == []


def test_list_prints_every_tensor_and_writes_nothing(smooth_run, network, monkeypatch, capsys):
    monkeypatch.setattr(convert, "build", lambda choice: network)
    before = set(os.listdir(smooth_run.path.parents[1]))
    run(monkeypatch, checkpoint=smooth_run.prefix, list=True)
    printed = capsys.readouterr().out
    line = "conv0/W  float32 [7, 7, 3, 64]  ->  conv0/kernel [7, 7, 3, 64]"
    assert line in printed.splitlines()
    for name in [*smooth_run.values, *smooth_run.beside]:
        assert sum(row.startswith(f"{name}  ") for row in printed.splitlines()) == 1
    assert "316 tensors used once each, 4 ignored" in printed
    assert set(os.listdir(smooth_run.path.parents[1])) == before


def test_released_names_say_what_they_hold(tmp_path):
    assert len(released.RELEASES) == 24
    for name, release in released.RELEASES.items():
        for prefix in (name, tmp_path / name / "model.ckpt-109474"):
            chosen = choose(given(checkpoint=str(prefix)))
            assert chosen.model in models.NAMES
            assert (chosen.model, chosen.activation) == (release.model, release.activation)
            assert chosen.image_size == release.image_size
            assert bool(chosen.ema) == (name == "efficientnet-bL1-enhanced")
            expected = ("rgb", "center_crop") if "efficient" in name else ("bgr", "shorter_side")
            assert (chosen.channel_order, chosen.eval_resize) == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "--model is not given and model is no released name; use one of: resnet50"),
        ({"model": "resnet18"}, "--model=resnet18 is not known; use one of: resnet50"),
        ({"model": "resnet50"}, "--activation is not given"),
        ({"model": "resnet50", "activation": "swosh"}, "unknown activation 'swosh'"),
        ({"model": "efficientnet-b0", "activation": "relu"}, "=relu contradicts efficientnet-b0"),
        ({"model": "efficientnet-b0", "channel_order": "bgr"}, "bgr does not apply"),
        ({"model": "resnet50", "activation": "relu", "ema": True}, "--ema does not apply"),
        ({"checkpoint": "a/Res50-relu", "activation": "swish"}, "Res50-relu, which has relu"),
        ({"checkpoint": "Res50-gelu", "activation": "gelu"}, "Res50-gelu, which has gelu_tanh"),
        ({"checkpoint": "Res50-relu", "model": "resnet101"}, "Res50-relu, which is resnet50"),
    ],
)
def test_what_contradicts_the_name_or_the_family_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        choose(given(**{"checkpoint": "model", **values}))


def test_a_name_of_its_own_takes_the_flags(tmp_path):
    values = {"model": "resnet50", "activation": "silu", "image_size": 299, "channel_order": "rgb"}
    chosen = choose(given(checkpoint=str(tmp_path / "model"), **values))
    assert chosen == Choice("resnet50", "silu", 299, "rgb", None)
    chosen = choose(given(checkpoint="model", model="efficientnet-b3"))
    assert chosen == Choice("efficientnet-b3", "swish", 300, "rgb", None)


def start(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.slow
def test_the_program_says_in_one_line_what_is_wrong(tmp_path):
    missing = tmp_path / "Res50-silu"
    ended = start("sat_tf.convert", f"--checkpoint={missing}", f"--output={tmp_path / 'new'}")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and f"there is no {missing}.index" in ended.stderr


@pytest.mark.slow
def test_a_converted_network_is_evaluated_and_exported(tmp_path):
    prefix = write_checkpoint(tmp_path / "Res50-relu", random_values(resnet_tensors()))
    run_path, images = tmp_path / "run", tmp_path / "images"
    for split in ("train", "val"):
        for label in ("n01440764", "n01443537"):
            (images / split / label).mkdir(parents=True)
            for index in range(2):
                pixels = np.random.default_rng(index).integers(0, 256, (70, 90, 3), np.uint8)
                png = tf.io.encode_png(pixels).numpy()
                (images / split / label / f"{index}.png").write_bytes(png)
    (tmp_path / "classes").write_text("0\n1\n")
    steps = (
        ("sat_tf.convert", f"--checkpoint={prefix}", "--image_size=64", f"--output={run_path}"),
        (
            "sat_tf.evaluate", f"--workdir={run_path}", f"--dataset=folder:{images}",
            "--attacks=pgd-2", f"--classes={tmp_path / 'classes'}",
        ),
        ("export.saved_model", f"--workdir={run_path}", f"--directory={tmp_path / 'serving'}"),
    )  # fmt: skip
    for step in steps:
        ended = start(*step)
        assert ended.returncode == 0, ended.stderr
    (report_path,) = run_path.glob("report_pgd-2_dataset-folder-*.json")
    report = json.loads(report_path.read_text("utf-8"))
    assert report["classes"] == 1000
    extra = tmp_path / "serving" / "1" / "assets.extra" / "metadata.json"
    facts = json.loads(extra.read_text("utf-8"))
    assert facts["resize"] == "shorter_side"
    assert facts["training"]["converted"]["checkpoint"] == "Res50-relu"
