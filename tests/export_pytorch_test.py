"""A network written for PyTorch answers there as it does here."""

import importlib
import importlib.util
import inspect
import json
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

from export import expectations, pytorch, torch_convnext, torch_module
from sat_tf import activations, convert, loading, models
from sat_tf.robustbench import conversion, networks
from sat_tf.robustbench.files import TorchCheckpoint
from tests import pytorch_in_numpy
from tests.released_graphs import given

TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def of_models(name, activation, **options):
    return models.build(name, activation=activation, num_classes=10, image_size=32, **options)


def converted(family, inner=0, activation="relu", **more):
    shape = {"num_blocks": (1, 2), "stem": 6, "stem_kernel": 3, "width": 6, "inner": inner}
    shape |= {"last_norm": True, "raw_shortcut": False, "num_channels": 3, "num_classes": 7}
    found = networks.Architecture(family, **shape | more)
    return networks.build(found, activation=activation, image_size=33, **IMAGENET)


NETWORKS = {
    "padded shortcuts": lambda: of_models("resnet8", "gelu", width=4),
    "projections": lambda: of_models("resnet18", "swish:beta=0.7", width=4),
    "wide": lambda: of_models("wrn-10-1", "elu:alpha=0.5"),
    "grey": lambda: models.build(
        "resnet8", activation="celu:alpha=2", num_classes=3, image_size=8, num_channels=1, width=4
    ),
    "DeepMind's": lambda: converted("dm-preactresnet", activation="mish", raw_shortcut=True),
    "without a last norm": lambda: converted("preactresnet", last_norm=False, raw_shortcut=True),
    "bottlenecks, pooled": lambda: converted(
        "torchvision-resnet", inner=9, stem_kernel=7, last_norm=False
    ),
    "ConvNeXt": lambda: of_models("convnext_tiny", "gelu", width=4, depth=1),
    "ConvNeXt's stem": lambda: of_models("convnext_base_convstem", "swish", width=8, depth=1),
    "ConvNeXt's stem of 2 pixels": lambda: of_models(
        "convnext_tiny_convstem", "relu", width=4, depth=1, patch_size=2, layer_scale=0
    ),
}  # fmt: skip


def randomised(network):
    """Gives every weight a value that is no beginning."""
    rng = np.random.default_rng(0)
    for weight in network.weights:
        low, high = (
            (0.5, 1.5) if "gamma" in weight.path or "variance" in weight.path else (-0.3, 0.3)
        )
        if "kernel" not in weight.path:
            weight.assign(rng.uniform(low, high, weight.shape))
        elif weight.path.startswith("st"):  # stem and stages of a ConvNeXt, which begin near 0
            fan_in = 49 if "depthwise" in weight.path else np.prod(weight.shape[:-1])
            weight.assign(rng.normal(0, 2 / np.sqrt(fan_in), weight.shape))
        elif len(weight.shape) == 2:  # logits that tell images apart
            weight.assign(rng.normal(0, 1, weight.shape))
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pytorch")


@TORCH
def test_logits_are_those_of_the_network(folder):
    """One process of PyTorch for all, as a start of it takes seconds."""
    pairs = []
    for number, make in enumerate(NETWORKS.values()):
        network, files = randomised(make()), folder / str(number)
        pytorch.export(network, files, {}, verified=False)
        images = expectations.probes(*network.input_shape[1:])
        logits = expectations.logits_of(network, images)
        assert np.abs(logits - logits[0]).max() > 0.1  # the images matter
        answers = folder / f"{number}.npz"
        np.savez(answers, images=np.moveaxis(images, -1, 1), logits=logits, tolerance=1e-4)
        pairs += [str(files), str(answers)]
    code = f"{inspect.getsource(pytorch.compare)}\nimport sys\n"
    code += "for files, answers in zip(sys.argv[1::2], sys.argv[2::2]): compare(files, answers)"
    ended = subprocess.run([sys.executable, "-c", code, *pairs], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@TORCH
def test_another_answer_is_seen_and_leaves_nothing(folder, monkeypatch):
    network = randomised(NETWORKS["grey"]())
    arrays = torch_module.state_dict(network)
    arrays["blocks.1.norms.0.running_mean"] = arrays["blocks.1.norms.0.running_mean"] + 0.01
    monkeypatch.setattr(torch_module, "state_dict", lambda network: arrays)
    with pytest.raises(ValueError, match="not verified: ValueError: its logits are .* off"):
        pytorch.export(network, folder / "wrong", {})
    assert not (folder / "wrong").exists() and not list(folder.glob(".wrong*"))


def writer(network):
    return torch_convnext if torch_convnext.is_convnext(network) else torch_module


@pytest.mark.parametrize("name", NETWORKS)
def test_a_module_has_every_number_once_and_computes_the_logits(name, monkeypatch):
    """By NumPy in PyTorch's place, which need not be installed."""
    network = randomised(NETWORKS[name]())
    arrays = writer(network).state_dict(network)
    for module, stand_in in pytorch_in_numpy.modules().items():
        monkeypatch.setitem(sys.modules, module, stand_in)
    exec(compile(writer(network).source(network), name, "exec"), found := {})
    ours = found["Network"]()
    ours.load_state_dict(arrays)
    images = expectations.probes(*network.input_shape[1:])[[0, 8, 14]]
    logits = expectations.logits_of(network, images)
    assert np.abs(logits - logits[0]).max() > 0.1  # the images matter
    theirs = ours(np.moveaxis(images, -1, 1) / 255)
    np.testing.assert_allclose(theirs, logits, rtol=0, atol=2e-4 * np.abs(logits).max())
    assert len(arrays) == len(network.weights) + 2  # mean and deviation of the images
    total = sum(np.prod(weight.shape) for weight in network.weights)
    assert sum(one.size for one in arrays.values()) == total + 2 * network.input_shape[-1]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("ConvNeXt")])
def test_a_convnext_can_be_read_as_timms_and_as_it_was(name, monkeypatch, tmp_path):
    network = randomised(NETWORKS[name]())
    arrays = torch_convnext.state_dict(network)
    half = {key: one.astype(np.float16) for key, one in arrays.items()}
    pytorch._save(arrays, tmp_path / "told.safetensors", torch_convnext.told(network))
    pytorch._save(arrays, tmp_path / "foreign.safetensors", {})
    images = expectations.probes(*network.input_shape[1:])[[0, 8, 14]]
    logits = expectations.logits_of(network, images)
    tolerance = {"rtol": 0, "atol": 1e-4 * max(1, np.abs(logits).max())}

    with pytest.raises(ValueError, match="classes of cifar10, whose images have 32.*--image_size"):
        conversion.convert(given(checkpoint=str(tmp_path / "foreign.safetensors")))
    flags = {"image_size": 32, "activation": network.get_layer("stage0_block0_act").function}
    if name.endswith("2 pixels"):
        flags["model"] = "convnext-convstem:patch_size=2"
    for file, said in (("told", {}), ("foreign", flags)):
        path = str(tmp_path / f"{file}.safetensors")
        again = conversion.convert(given(checkpoint=path, **said))
        assert again.facts["image_size"] == 32 and "eval_resize" not in again.facts
        convert.fill(again.network, again.checkpoint, again.plan, "rgb")
        np.testing.assert_allclose(again.network(images, training=False), logits, **tolerance)
    save_file(half, tmp_path / "half.safetensors")
    read = TorchCheckpoint(str(tmp_path / "half.safetensors"))
    assert not read.told and {one.dtype for one in read.tensors.values()} == {"float32"}
    if name != "ConvNeXt":  # which has timm's activation
        return
    for module, stand_in in pytorch_in_numpy.modules().items():
        monkeypatch.setitem(sys.modules, module, stand_in)
    monkeypatch.delitem(sys.modules, "tests.robustbench_convnext", raising=False)
    theirs = importlib.import_module("tests.robustbench_convnext").Network(
        4, (1, 1, 3, 1), None, 10
    )
    monkeypatch.delitem(sys.modules, "tests.robustbench_convnext")
    mean, std = arrays.pop("mean"), arrays.pop("std")
    assert set(theirs.state_dict()) == set(arrays)
    theirs.load_state_dict(arrays)
    found = theirs((np.moveaxis(images, -1, 1) / 255 - mean) / std)
    np.testing.assert_allclose(found, logits, **tolerance)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: of_models("vit_tiny", "gelu", width=4, num_heads=2, depth=1, patch_size=4),
         "no counterpart; the ResNets, .* and ConvNeXts"),
        (lambda: of_models("efficientnet-b0", "swish"), "its layer stem_conv.* has no counterpart"),
        (lambda: of_models("resnet8", "smoothrelu"), "activation SmoothReLU has no counterpart"),
        (
            lambda: keras.Sequential(
                [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
            ),
            "has no counterpart",
        ),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_named_and_nothing_is_written(make, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        pytorch.export(make(), tmp_path / "new", {}, verified=False)
    assert not list(tmp_path.iterdir())


def export_given(monkeypatch, **values):
    names = ("workdir", "network", "directory", "report")
    flags = type("Flags", (), {**dict.fromkeys(names), "verify": False, **values})
    monkeypatch.setattr(pytorch.flags, "FLAGS", flags)
    pytorch.main()


@pytest.mark.parametrize(
    ("installed", "verified", "asked"),
    [
        ((), True, "pip install safetensors torch; --noverify needs no torch$"),
        ((), False, "pip install safetensors$"),
        (("safetensors",), True, "pip install torch; --noverify needs no torch$"),
    ],
)
def test_a_missing_package_is_asked_for_before_anything_is_written(
    installed, verified, asked, monkeypatch, tmp_path
):
    network = of_models("resnet8", "relu", width=2)

    def early(*given):
        raise AssertionError("written before it was refused")

    monkeypatch.setattr(pytorch.importlib.util, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr(pytorch, "_save", early)
    with pytest.raises(ValueError, match=asked):
        pytorch.export(network, tmp_path / "deep" / "new", {}, verified)
    assert not list(tmp_path.iterdir())


def test_the_program_writes_the_figures_of_a_report_of_this_network_alone(monkeypatch, tmp_path):
    source = "zoo:digits_resnet8_swish"
    report = {
        "network": {"weights_sha256": loading.weights_hash(loading.load(source))},
        "attacks": [{"name": name, "settings": {"epsilon": 8.0, "norm": "linf"}}
                    for name in ("apgd-ce", "apgd-t", "fab-t", "square")],
        "clean_accuracy": 0.9, "adversarial_accuracy": 0.51, "num_images": 1000,
        "versions": {"sat_tf": "1"}, "checks": [],
    }  # fmt: skip
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    export_given(monkeypatch, network=source, directory=str(tmp_path / "new"), report=str(path))
    assert sorted(os.listdir(tmp_path / "new")) == [
        "model_info.json", "network.py", "network.safetensors"
    ]  # fmt: skip
    info = json.loads((tmp_path / "new" / "model_info.json").read_text())
    assert (info["clean_acc"], info["autoattack_acc"], info["eps"]) == ("90.00", "51.00", "8/255")
    union = {"network": report["network"], "norms": [], "adversarial_accuracy": 0.4}
    (tmp_path / "union.json").write_text(json.dumps(union))
    for words, values in (
        ("is there already", {"directory": str(tmp_path / "new")}),
        ("gs:// is no directory", {"directory": "gs://bucket/new"}),
        (
            "no attacks in one ball.*report of one norm",
            {"report": str(tmp_path / "union.json"), "directory": "new"},
        ),
        ("--directory is missing", {}),
        ("either --workdir", {"workdir": str(tmp_path)}),
        ("is no report of this network", {"report": str(other(tmp_path)), "directory": "new"}),
    ):
        with pytest.raises(ValueError, match=words):
            export_given(monkeypatch, **{"network": source} | values)
    assert not pathlib.Path("new").exists() and not pathlib.Path("gs:").exists()


def other(folder):
    (folder / "other.json").write_text('{"network": {"weights_sha256": "0"}, "attacks": []}')
    return folder / "other.json"


@pytest.mark.parametrize(
    "spec", [*torch_module._ACTIVATIONS, "swish:beta=0.3", "elu:alpha=2", "celu:alpha=0.4",
             "parametric_softplus:alpha=3"]
)  # fmt: skip
def test_every_activation_is_the_same_function_by_the_name_of_pytorch(spec):
    layer, x = activations.make(spec, name="conv0_act"), np.linspace(-30, 30, 601)
    functions = types.SimpleNamespace(**pytorch_in_numpy.FUNCTIONAL)
    names = {"x": x, "F": functions, "torch": pytorch_in_numpy.modules()["torch"]}
    found = eval(torch_module.activation_of({"conv0_act": layer}), names)
    np.testing.assert_allclose(found, layer(x.astype(np.float32)), rtol=1e-4, atol=1e-5)


def test_a_logit_may_be_rounded_as_its_arithmetic_rounds():
    one = keras.layers.Dense(2, dtype="float32")
    half = keras.Sequential([one, keras.layers.Dense(2, dtype="mixed_bfloat16")])
    logits = [np.float32([[0.1, -30.0]]), np.float32([[4.0, 8.0]])]
    assert expectations.tolerance(one, logits) == pytest.approx(30 * 1e-4)
    assert expectations.tolerance(half, logits) == pytest.approx(30 * 5e-2)
    assert expectations.tolerance(one, [logits[1] / 80]) == pytest.approx(1e-4)


@pytest.mark.parametrize("verify", [True, False])
def test_the_program_exports_the_run_that_it_is_export_given(monkeypatch, tmp_path, verify):
    about = {"model": "resnet8", "dataset": "pets"}
    (tmp_path / "metrics.json").write_text(json.dumps(about))
    seen = []
    monkeypatch.setattr(pytorch.loading, "load", lambda source: source)
    monkeypatch.setattr(pytorch, "export", lambda *given: seen.append(given))
    export_given(monkeypatch, workdir=str(tmp_path), directory="new", verify=verify)
    ((network, directory, info, verified),) = seen
    assert (network, directory) == (str(tmp_path), pathlib.Path("new"))
    assert (info["name"], info["dataset"], info["clean_acc"]) == ("resnet8", "pets", None)
    assert verified is verify
