"""A network written for PyTorch answers there as it does here."""

import importlib.util
import inspect
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from export import expectations, pytorch, torch_module
from sat_tf import loading, models
from sat_tf.robustbench import networks

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


@pytest.mark.parametrize("name", NETWORKS)
def test_a_module_is_python_and_has_every_number_once(name):
    network = randomised(NETWORKS[name]())
    compile(torch_module.source(network), name, "exec")
    arrays = torch_module.state_dict(network)
    assert len(arrays) == len(network.weights) + 2  # mean and deviation of the images
    total = sum(np.prod(weight.shape) for weight in network.weights)
    assert sum(one.size for one in arrays.values()) == total + 2 * network.input_shape[-1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
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


def given(monkeypatch, **values):
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
    given(monkeypatch, network=source, directory=str(tmp_path / "new"), report=str(path))
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
            given(monkeypatch, **{"network": source} | values)
    assert not pathlib.Path("new").exists() and not pathlib.Path("gs:").exists()


def other(folder):
    (folder / "other.json").write_text('{"network": {"weights_sha256": "0"}, "attacks": []}')
    return folder / "other.json"
