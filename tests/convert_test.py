"""A converted network answers as the graph that its checkpoint was saved from."""

import collections
import hashlib
import json
import os
import types

import keras
import numpy as np
import pytest

from flags import evaluate as own_flags
from sat_tf import convert, loading
from sat_tf.evaluation import settings
from sat_tf.released import names as released
from sat_tf.released.choice import Choice
from sat_tf.released.plan import Tensor, plan
from sat_tf.released.reader import Checkpoint
from tests import programs
from tests.released_graphs import (
    B3_STAGES,
    assert_same_logits,
    efficientnet_logits,
    efficientnet_tensors,
    given,
    random_images,
    random_values,
    resnet_logits,
    resnet_tensors,
    tensors,
    write_checkpoint,
)


def run(monkeypatch, **values):
    monkeypatch.setattr(convert.flags, "FLAGS", given(**values))
    convert.main()


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
    asked = f"--workdir={smooth_run.path}", "--json=r.json"
    chosen = settings.complete(programs.parsed(own_flags.define, *asked))
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
        assert collections.Counter(matched.ignored.values()) == {
            "not averaged (--ema)" if ema else "averaged (--noema)": 311,
            "state of the training": 1, "slot of the optimiser": 1,
        }  # fmt: skip
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
        ({"linear/b": np.float32(np.where(np.arange(1000) == 7, np.nan, 0))}, "/b .* not finite"),
        ({"linear/b": np.float32(np.where(np.arange(1000) == 7, np.inf, 0))}, "/b .* not finite"),
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


def test_the_first_six_names_are_listed_and_the_others_counted():
    assert released.some("abc") == "a, b, c" and released.some("abcdef") == "a, b, c, d, e, f"
    assert released.some("abcdefgh") == "a, b, c, d, e, f and 2 more"
    assert released.some(iter("abc"), 1) == "a and 2 more"
