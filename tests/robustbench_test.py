"""A network converted from RobustBench's names answers as the PyTorch module that they name."""

import dataclasses
import importlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from safetensors.numpy import save_file

from sat_tf import convert, loading, models
from sat_tf.robustbench import conversion, files
from sat_tf.robustbench.families import FAMILIES
from sat_tf.robustbench.networks import Architecture, architecture, build
from tests import pytorch_in_numpy
from tests.released_graphs import given

ROOT = pathlib.Path(__file__).parent.parent
TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)
# File: what the flags have to say, the model's name, its family.
FILES = {
    "carmon": ({"normalization": ["none"]}, "wrn-10-2", "wideresnet"),
    "rice": ({}, "wrn-10-2", "wideresnet"),
    "rebuffi_wide": ({}, "wrn-10-1", "dm-wideresnet"),
    "rebuffi_preact": ({}, "preactresnet18", "dm-preactresnet"),
    "wong": ({"normalization": ["cifar10"]}, "preactresnet18", "preactresnet"),
    "rice_l2": (
        {"normalization": ["0.4914", "0.4822", "0.4465", "0.2471", "0.2435", "0.2616"]},
        "preactresnet18", "preactresnet",
    ),
    "resnet18": ({"normalization": ["half"]}, "resnet18", "resnet"),
    "imagenet18": (
        {"normalization": ["imagenet"], "image_size": 64}, "resnet18", "torchvision-resnet"
    ),
    "imagenet50": ({"image_size": 64}, "resnet26", "torchvision-resnet"),
}  # fmt: skip
CONVNEXTS = {
    "liu": ({"normalization": ["imagenet"]}, "convnext-1-2-3-1-8", "convnext"),
    "singh_t": ({"normalization": ["none"]}, "convnext-2-1-1-1-8_convstem", "convnext-convstem"),
    "singh_b": ({"normalization": ["none"]}, "convnext-1-1-2-2-8_convstem", "convnext-convstem"),
    "unscaled": ({"normalization": ["none"]}, "convnext-1-1-1-2-4", "convnext"),
}
FILES |= {name: (flags | {"image_size": 64}, *more) for name, (flags, *more) in CONVNEXTS.items()}


def run(monkeypatch, **values):
    monkeypatch.setattr(convert.flags, "FLAGS", given(**{"from": "robustbench"} | values))
    convert.main()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("torch")
    command = [sys.executable, "-m", "tests.robustbench_modules", str(path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return path


@TORCH
@pytest.mark.parametrize("name", FILES)
def test_logits_are_those_of_the_torch_module(folder, name, monkeypatch, tmp_path):
    flags, model, family = FILES[name]
    output = tmp_path / "run"
    run(monkeypatch, checkpoint=str(folder / f"{name}.pt"), output=str(output), **flags)
    network = loading.load(str(output))
    with np.load(folder / f"{name}.npz") as stored:
        images, expected = stored["images"], stored["logits"]
    found = network(255 * images.transpose(0, 2, 3, 1), training=False).numpy()
    assert np.abs(np.diff(expected, axis=0)).max() > 0.1  # the images matter
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    metrics = json.loads((output / "metrics.json").read_text("utf-8"))
    assert metrics["model"] == network.name == model
    assert metrics["activation"] == FAMILIES[family].activation
    if metrics["num_classes"] == 1000:
        assert (metrics["dataset"], metrics["epsilon"]) == ("imagenet2012", 4.0)
        assert metrics["eval_resize"] == "shorter_side"


@TORCH
def test_a_pickle_with_code_is_refused_and_not_run(folder, monkeypatch, tmp_path):
    trap = tmp_path / "trap.pt"
    trap.write_bytes(f"cpathlib\nPath\n(V{tmp_path / 'run_by_it'}\ntRb.".encode())
    with pytest.raises(ValueError, match="cannot be read by torch.load"):
        run(monkeypatch, checkpoint=str(trap), output=str(tmp_path / "new"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["trap.pt"]


def state_dict(network, family):
    """A network of ours under PyTorch's names."""
    arrays = {}
    for weight in network.weights:
        value = weight.numpy()
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        name = FAMILIES[family].tensor(weight.path)
        arrays[name] = np.ascontiguousarray(value.T if value.ndim == 2 else value)
    return arrays


@pytest.fixture(scope="module")
def wide():
    """A network of ours whose every weight is told from its beginning, and as a state_dict."""
    network = models.build("wrn-10-1", activation="relu", num_classes=10, image_size=32)
    rng = np.random.default_rng(0)
    for weight in network.weights:
        if "kernel" not in weight.path:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    half = np.full((1, 3, 1, 1), 0.5, np.float32)
    return network, state_dict(network, "wideresnet") | {"mu": half, "sigma": half}


def saved(tmp_path, arrays):
    save_file(arrays, tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def test_a_safetensors_file_becomes_the_network_of_ours_that_it_is(
    wide, monkeypatch, tmp_path, capsys
):
    network, arrays = wide
    wrapped = {f"model.module.model.{name}": one for name, one in arrays.items()}
    wrapped |= {"model.module.model.bn1.num_batches_tracked": np.array(7)}
    output = tmp_path / "run"
    run(monkeypatch, checkpoint=saved(tmp_path, wrapped), output=str(output))
    head, *ignored, account, last = capsys.readouterr().out.splitlines()
    assert head == f"{len(network.weights)} tensors used once each, 3 ignored"
    assert ignored == [
        "ignored, normalisation, in the network as constants: mu, sigma",
        "ignored, counter of the training: bn1.num_batches_tracked",
    ]
    assert account == (
        "WideResNet (Carmon, Rice): wrn-10-1, relu, 32 pixels, mean 0.5 0.5 0.5, "
        "deviation 0.5 0.5 0.5"
    )
    assert last == f"{output}: measure it with python -m sat_tf.evaluate --workdir={output}"
    found = loading.load(str(output))
    assert [(one.path, one.shape) for one in found.weights] == [
        (one.path, one.shape) for one in network.weights
    ]
    images = np.random.default_rng(1).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(
        found(images, training=False), network(images, training=False), rtol=0, atol=1e-5
    )
    converted = json.loads((output / "metrics.json").read_text("utf-8"))["converted"]
    assert set(converted["tensors_ignored"]) == {"mu", "sigma", "bn1.num_batches_tracked"}


def without(arrays, *names):
    return {name: one for name, one in arrays.items() if name not in names}


CIFAR10 = {"normalization": ["cifar10"]}
WRONG = {
    "another architecture": (
        lambda arrays: {"patch_embed.proj.weight": arrays["fc.weight"]}, {},
        "holds 1 tensors .patch_embed.* another architecture than the known ones .WideResNet",
    ),
    "a tensor is missing": (
        lambda arrays: without(arrays, "block2.layer.0.bn2.running_var"), {},
        "1 missing: block2.layer.0.bn2.running_var",
    ),
    "a tensor is not known": (
        lambda arrays: arrays | {"block1.layer.0.se.weight": arrays["fc.weight"]}, {},
        "1 not known: block1.layer.0.se.weight",
    ),
    "another shape": (
        lambda arrays: arrays | {"block3.layer.0.conv2.weight": np.ones((64, 64, 1, 1), "f4")},
        {}, r"of another shape: block3.layer.0.conv2.weight \(float32 \[1, 1, 64, 64\], expected",
    ),
    "numbers that are none": (
        lambda arrays: arrays | {"bn1.weight": np.full(64, np.nan, np.float32)}, {},
        "tensor bn1.weight .* not finite",
    ),
    "a number without end": (
        lambda arrays: arrays | {"bn1.weight": np.full(64, -np.inf, np.float32)}, {},
        "tensor bn1.weight .* not finite",
    ),
    "no normalisation": (
        lambda arrays: without(arrays, "mu", "sigma"), {}, "give --normalization=none.half.cifar10",
    ),
    "an unknown normalisation": (
        lambda arrays: without(arrays, "mu", "sigma"), {"normalization": ["svhn"]},
        "--normalization=svhn is not known",
    ),
    "half a normalisation": (
        lambda arrays: without(arrays, "mu", "sigma"), {"normalization": ["0.5", "0.5"]},
        "mean 0.5 and deviation 0.5 came for images of 3 channels",
    ),
    "a mean that is no number": (
        lambda arrays: without(arrays, "mu", "sigma"),
        {"normalization": ["nan", "0", "0", "1", "1", "1"]}, "a finite number for each",
    ),
    "a deviation without end": (
        lambda arrays: without(arrays, "mu", "sigma"),
        {"normalization": ["0", "0", "0", "1", "inf", "1"]}, "a finite number for each",
    ),
    "two normalisations": (lambda arrays: arrays, CIFAR10, "holds mu and sigma of its own"),
    "another model": (lambda arrays: arrays, {"model": "resnet"}, "which holds wideresnet"),
    "no such option": (
        lambda arrays: arrays, {"model": "wideresnet:raw_shortcut=true"},
        "option that wideresnet has not",
    ),
    "the paper's flag": (lambda arrays: arrays, {"ema": True}, "--ema is of the paper's"),
    "a prefix made two of them one": (
        lambda arrays: arrays | {"module.mu": arrays["mu"]}, {}, "holds mu twice"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named_and_nothing_is_written(case, wide, monkeypatch, tmp_path):
    change, flags, words = WRONG[case]
    path = saved(tmp_path, change(wide[1]))
    with pytest.raises(ValueError, match=words):
        run(monkeypatch, checkpoint=path, output=str(tmp_path / "new"), **flags)
    assert [one.name for one in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_file_that_is_none_or_needs_a_package_is_named(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="there is no file .*nowhere.pt"):
        run(monkeypatch, checkpoint=str(tmp_path / "nowhere.pt"), output=str(tmp_path / "new"))
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(ValueError, match="cannot be read as .safetensors"):
        run(monkeypatch, checkpoint=str(damaged), output=str(tmp_path / "new"))
    if importlib.util.find_spec("torch") is None:
        pickled = damaged.rename(tmp_path / "model.pt")
        with pytest.raises(ValueError, match="needs the package torch.*pip install torch"):
            run(monkeypatch, checkpoint=str(pickled), output=str(tmp_path / "new"))


@pytest.fixture
def timm(monkeypatch):
    """tests.robustbench_convnext by NumPy in PyTorch's place, which need not be installed."""
    for module, stand_in in pytorch_in_numpy.modules().items():
        monkeypatch.setitem(sys.modules, module, stand_in)
    monkeypatch.delitem(sys.modules, "tests.robustbench_convnext", raising=False)
    yield importlib.import_module("tests.robustbench_convnext")
    sys.modules.pop("tests.robustbench_convnext", None)


def random_state(timm, name, seed=0):
    """A narrow module, all its numbers drawn, and them as the arrays of a file."""
    network, rng = timm.Network(*timm.NARROW[name]), np.random.default_rng(seed)
    drawn = {
        key: rng.uniform(*timm.spread(key, one.shape), one.shape).astype(np.float32)
        for key, one in network.state_dict().items()
    }
    network.load_state_dict(drawn)
    return network, drawn


@pytest.mark.parametrize("name", CONVNEXTS)
def test_a_convnext_answers_as_timms_module(name, timm, monkeypatch, tmp_path):
    theirs, arrays = random_state(timm, name)
    flags, model, _ = FILES[name]
    prefix = {"liu": "model.", "singh_t": "module.base_model."}.get(name, "")
    path = saved(tmp_path, {f"{prefix}{key}": one for key, one in arrays.items()})
    output = tmp_path / "run"
    run(monkeypatch, checkpoint=path, output=str(output), **flags)
    network = loading.load(str(output))
    assert network.name == model
    assert models.num_parameters(network) == sum(one.size for one in arrays.values())
    mean, std = (
        np.reshape(one, (3, 1, 1)) for one in conversion.NORMALIZATIONS[flags["normalization"][0]]
    )
    colours = np.random.default_rng(1).uniform(0, 255, (3, 3, 4, 4))
    images = colours.repeat(16, 2).repeat(16, 3)
    expected = theirs((images / 255 - mean) / std)
    assert np.abs(np.diff(expected, axis=0)).max() > 0.1  # the images matter
    found = network(np.moveaxis(images, 1, -1).astype(np.float32), training=False)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


# Published at 1000 classes by Liu et al.; those of 2303.01870 are given as 28.6, 50.3, 88.8 and
# 198.1 million.
COUNTS = {
    "tiny": 28_589_128, "small": 50_223_688, "base": 88_591_464, "large": 197_767_336,
    "tiny_convstem": 28_627_432, "small_convstem": 50_261_992, "base_convstem": 88_753_416,
    "large_convstem": 198_134_680,
}  # fmt: skip


def test_the_published_convnexts_are_counted_and_called_by_their_size(timm):
    assert set(COUNTS) == set(timm.SIZES)
    for size, (width, depths, filters) in timm.SIZES.items():
        state = timm.Network(width, depths, filters).state_dict()
        assert sum(one.size for one in state.values()) == COUNTS[size]
        order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
        shapes = {
            key: tuple(one.shape[axis] for axis in order[one.ndim]) for key, one in state.items()
        }
        family = "convnext" if filters is None else "convnext-convstem"
        found = architecture(family, shapes)
        assert found.name == f"convnext_{size}" and found.patch_size == 4 and found.for_imagenet
        assert (found.width, found.num_blocks, found.num_classes) == (width, depths, 1000)


def changed(**more):
    return lambda arrays: arrays | more


WRONG_CONVNEXTS = {
    "a tensor is missing": (
        lambda arrays: without(arrays, "stages.2.blocks.1.mlp.fc2.bias"), {},
        "1 missing: stages.2.blocks.1.mlp.fc2.bias",
    ),
    "of another version": (
        changed(**{"stages.0.blocks.0.mlp.grn.weight": np.ones(32, np.float32)}), {},
        "1 not known: stages.0.blocks.0.mlp.grn.weight",
    ),
    "another kernel": (
        changed(**{"stages.3.blocks.0.conv_dw.weight": np.ones((64, 1, 5, 5), np.float32)}), {},
        r"stages.3.blocks.0.conv_dw.weight \(float32 \[5, 5, 1, 64\], expected float32 \[7, 7",
    ),
    "five stages": (
        changed(**{"stages.4.blocks.0.gamma": np.ones(8, np.float32)}), {},
        r"has four stages .* this one's blocks are 1, 2, 3, 1, 1, the kernels of its stem \[4, 4",
    ),
    "no head": (
        lambda arrays: without(arrays, "head.fc.weight"), {},
        "the nearest, ConvNeXt .timm, Liu., would have head.fc.weight as well",
    ),
    "an option that its file tells": (
        lambda arrays: arrays, {"model": "convnext:patch_size=4"},
        "convnext has not; known are preactresnet:raw_shortcut=bool, convnext-convstem:patch_size=",
    ),
    "no normalisation": (lambda arrays: arrays, {"normalization": None}, "normalisation .* missin"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_CONVNEXTS)
def test_a_convnext_that_does_not_fit_is_named(case, timm, monkeypatch, tmp_path):
    change, flags, words = WRONG_CONVNEXTS[case]
    path = saved(tmp_path, change(random_state(timm, "liu")[1]))
    flags = FILES["liu"][0] | flags
    with pytest.raises(ValueError, match=words):
        run(monkeypatch, checkpoint=path, output=str(tmp_path / "new"), **flags)
    assert [one.name for one in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_shortcut_of_a_preactresnet_starts_where_its_last_norm_or_the_model_says():
    family, ours = FAMILIES["preactresnet"], ("conv0", "group0_block0_conv1", "logits")
    shapes = {family.tensor(f"{one}/kernel"): (3, 3, 3, 8) for one in ours}
    for last_norm in (False, True):
        shapes |= {"bn.weight": (8,)} if last_norm else {}
        for said in (None, False, True):
            found = architecture("preactresnet", shapes, raw_shortcut=said)
            assert found.raw_shortcut == (not last_norm if said is None else said)
    assert conversion._model("preactresnet:raw_shortcut=false") == (
        "preactresnet", {"raw_shortcut": False}
    )  # fmt: skip


# Of RobustBench's modules: side of a shortcut's kernel, zeros before and after a strided 3x3, the
# layer that a shortcut starts at, and the activation.
FORMS = {
    "wideresnet": (1, (1, 1), "group1_block0_conv1_act", "relu"),
    "dm-wideresnet": (1, (0, 1), "group1_block0_conv1_act", "swish"),
    "dm-preactresnet": (3, (0, 1), "group0_block0_add", "swish"),
    "preactresnet": (1, (1, 1), "group1_block0_conv1_act", "relu"),
    "resnet": (1, (1, 1), "group0_block0_act", "relu"),
    "torchvision-resnet": (1, (1, 1), "group0_block0_act", "relu"),
}


@pytest.mark.parametrize("inner, name", [(64, "resnet50"), (128, "resnet50-2")])
def test_a_resnet_of_imagenet_is_read_off_its_shapes_and_told(inner, name, monkeypatch):
    shapes = {
        f"layer{group}.{index}.conv1.weight": (1, 1, 64, inner)
        for group, number in ((1, 3), (2, 4), (3, 6), (4, 3))
        for index in range(number)
    }
    shapes |= {
        "conv1.weight": (7, 7, 3, 48), "bn1.weight": (48,), "fc.weight": (2048, 1000),
        "layer1.0.bn1.weight": (inner,), "layer1.0.conv2.weight": (3, 3, inner, inner),
        "layer1.0.conv3.weight": (1, 1, inner, 256),
    }  # fmt: skip
    tensors = {one: types.SimpleNamespace(shape=shape) for one, shape in shapes.items()}
    file, built = types.SimpleNamespace(tensors=tensors, told={}), []
    monkeypatch.setattr(conversion, "TorchCheckpoint", {"m.pt": file}.get)
    monkeypatch.setattr(
        conversion, "build", lambda *found, **options: built.append((*found, options)) or "net"
    )
    monkeypatch.setattr(conversion, "_plan", lambda *given: given[::3])
    asked = {"checkpoint": "m.pt", "normalization": ["imagenet"]}
    expected = Architecture(
        "torchvision-resnet", (3, 4, 6, 3), stem=48, stem_kernel=7, width=64, inner=inner,
        last_norm=False, raw_shortcut=False, num_channels=3, num_classes=1000,
    )  # fmt: skip
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    flags, own = {"activation": "relu", "image_size": 96}, {"image_size": "64"}
    for file.told, said, size in (
        ({}, {}, 224), (own, {}, 64), (own | {"activation": "swish"}, flags, 96)
    ):  # fmt: skip
        found = conversion.convert(given(**asked, **said))
        assert (found.checkpoint, found.network, found.plan) == (file, "net", ("net", ()))
        options = {"activation": "relu", "image_size": size, "mean": mean, "std": std}
        assert built.pop() == (expected, options)
        assert (found.facts["model"], found.facts["image_size"]) == (name, size)
        assert found.account == (
            f"torchvision's ResNet (ImageNet): {name}, relu, {size} pixels, "
            "mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225"
        )
    with pytest.raises(ValueError, match="--activation=swish does not apply .* relu alone"):
        conversion.convert(given(**asked, activation="swish"))


@pytest.mark.parametrize("family", FORMS)
def test_every_family_has_the_blocks_of_its_modules(family):
    kernel, zeros, start, activation = FORMS[family]
    before = family.endswith(("wideresnet", "preactresnet"))
    raw = family == "dm-preactresnet"
    found = Architecture(
        family, (1, 1), stem=4, stem_kernel=7 if family.startswith("torch") else 3, width=4,
        inner=0, last_norm=before, raw_shortcut=raw, num_channels=3, num_classes=5,
    )  # fmt: skip
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.25, 0.125])
    net = build(found, activation=activation, image_size=16, mean=mean, std=std)
    assert FAMILIES[family].activation == activation
    shortcut = net.get_layer("group1_block0_convshortcut")
    assert shortcut.kernel_size == (kernel,) * 2 and shortcut.strides == (2, 2)
    first = net.get_layer("group1_block0_convshortcut_pad") if kernel > 1 else shortcut
    assert first.input._keras_history.operation.name == start
    pads = [layer for layer in net.layers if layer.name.startswith("group") and "pad" in layer.name]
    assert len(pads) == (2 if kernel > 1 else 1)
    assert {layer.padding for layer in pads} == {(zeros, zeros)}
    assert ("last_bn" in [layer.name for layer in net.layers]) == before
    stem, of_imagenet = net.get_layer("conv0"), family.startswith("torch")
    assert (stem.kernel_size[0], stem.strides[0]) == ((7, 2) if of_imagenet else (3, 1))
    assert shortcut.output.shape[1:3] == ((2, 2) if of_imagenet else (8, 8))
    if of_imagenet:
        pool = net.get_layer("pool0")
        assert (pool.pool_size, pool.strides, pool.padding) == ((3, 3), (2, 2), "valid")
        assert net.get_layer("pool0_pad").padding == ((1, 1), (1, 1))
    is_wide = family.endswith("wideresnet")
    published = dataclasses.replace(
        found, num_blocks=(4, 4, 4) if is_wide else (2, 2, 2, 2), width=160 if is_wide else 64
    )
    kind = "preactresnet" if family.endswith("preactresnet") else "resnet"
    assert published.name == ("wrn-28-10" if is_wide else f"{kind}18")
    x = np.random.default_rng(0).uniform(0, 255, (2, 3, 3, 3))
    np.testing.assert_allclose(
        net.get_layer("normalise")(x.astype(np.float32)), (x / 255 - mean) / std, atol=1e-4
    )


def test_a_file_without_statistics_takes_the_published_ones_by_name():
    published = {  # of images in [0, 1], once more
        "none": [0, 0, 0, 1, 1, 1], "half": [0.5] * 6,
        "cifar10": [0.4914, 0.4822, 0.4465, 0.2471, 0.2435, 0.2616],
        "cifar100": [0.5071, 0.4865, 0.4409, 0.2673, 0.2564, 0.2762],
        "imagenet": [0.485, 0.456, 0.406, 0.229, 0.224, 0.225],
    }  # fmt: skip
    assert {name: [*mean, *std] for name, (mean, std) in conversion.NORMALIZATIONS.items()} == (
        published
    )


@pytest.mark.parametrize("names", [
    ("mean", "std"), ("mu", "sigma"), ("normalize.mean", "normalize.std"),
    ("normalizer.new_mean", "normalizer.new_std"),
])  # fmt: skip
def test_a_files_own_mean_and_deviation_are_told_apart(names):
    mean, std = (0.5, 0.25, 0.125), (0.75, 1.5, 2.0)
    arrays = {
        name: np.reshape(one, (1, 1, 3, 1)) for name, one in zip(names, (mean, std), strict=True)
    }
    file = types.SimpleNamespace(tensors=arrays, read=arrays.get)
    assert conversion._statistics(given(), file, 3) == (names, mean, std)


def test_of_a_pickle_the_network_is_taken_and_its_halves_as_float32(monkeypatch, tmp_path):
    class Tensor:
        def __init__(self, values, dtype="float32"):
            self.values, self.dtype = np.float32(values), dtype

        def float(self):
            return Tensor(self.values)

        def numpy(self):
            assert self.dtype != "bfloat16"  # which NumPy does not have
            return self.values.astype(self.dtype)

    network = {"w": Tensor([1.5, 2.0], "bfloat16"), "b": Tensor([3.0], "float16"), "epoch": 7}
    other = {"w": Tensor([9.0]), "last": Tensor([9.0])}
    loads = []
    stand_in = types.SimpleNamespace(
        Tensor=Tensor, float16="float16", bfloat16="bfloat16",
        load=lambda *given, **options: loads.append((*given, options)) or content,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch", stand_in)
    for key in ("state_dict", "model_state_dict", "model", "net", "last"):
        last = {} if key == "last" else {"last": other}
        content = {"best": other, **last, "epoch": 3, key: network}
        files.unpickle("a.pt", str(tmp_path / "arrays.npz"))
        with np.load(tmp_path / "arrays.npz") as found:
            arrays = dict(found)
        assert {name: (one.dtype, one.tolist()) for name, one in arrays.items()} == {
            "w": (np.float32, [1.5, 2.0]), "b": (np.float32, [3.0])
        }  # fmt: skip
    assert loads[0] == ("a.pt", {"map_location": "cpu", "weights_only": True})


CIFARS = {"norm": "linf", "epsilon": 8.0, "class_order": "TFDS's"}


@pytest.mark.parametrize(
    "family, num_classes, told",
    [
        ("resnet", 10, {"dataset": "cifar10", **CIFARS}),
        ("resnet", 100, {"dataset": "cifar100", **CIFARS}),
        ("resnet", 7, {}),
        (
            "torchvision-resnet", 1000,
            {"dataset": "imagenet2012", "epsilon": 4.0, "norm": "linf",
             "eval_resize": "shorter_side", "class_order": "sorted WordNet ids, n01440764 first"},
        ),
    ],
)  # fmt: skip
def test_what_a_file_is_for_is_told_by_its_classes(family, num_classes, told):
    found = types.SimpleNamespace(
        name="x", num_classes=num_classes, for_imagenet=family.startswith("torch")
    )
    facts = conversion._facts(found, "relu", 48, (0.5,), (0.25,))
    always = {"model": "x", "activation": "relu", "num_classes": num_classes, "image_size": 48,
              "normalization": {"mean": (0.5,), "std": (0.25,)}}  # fmt: skip
    assert facts == always | told


# Two layers of the second group's first block, the last norm or that of the stem, and the ends, as
# the modules call them: {of ours: of theirs}.
NAMES = {
    "wideresnet": ("block2.layer.0", {"conv1": "conv1", "conv2_bn": "bn2"}, "convShortcut",
                   {"conv0": "conv1", "last_bn": "bn1", "logits": "fc"}),
    "dm-wideresnet": ("layer.1.block.0", {"conv1": "conv_0", "conv2_bn": "batchnorm_1"}, "shortcut",
                      {"conv0": "init_conv", "last_bn": "batchnorm", "logits": "logits"}),
    "dm-preactresnet": ("layer_1.0", {"conv2": "conv_2d_2", "conv1_bn": "batchnorm_0"}, "shortcut",
                        {"conv0": "conv_2d", "last_bn": "batchnorm", "logits": "logits"}),
    "preactresnet": ("layer2.0", {"conv1": "conv1", "conv1_bn": "bn1"}, "shortcut.0",
                     {"conv0": "conv1", "last_bn": "bn", "logits": "linear"}),
    "resnet": ("layer2.0", {"conv3": "conv3", "conv2_bn": "bn2"}, "shortcut.0",
               {"conv0": "conv1", "conv0_bn": "bn1", "logits": "linear"}),
    "torchvision-resnet": ("layer2.0", {"conv3": "conv3", "conv3_bn": "bn3"}, "downsample.0",
                           {"conv0": "conv1", "conv0_bn": "bn1", "logits": "fc"}),
}  # fmt: skip
KINDS = {"kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
         "moving_variance": "running_var"}  # fmt: skip


def test_every_family_is_compared():
    compared = {family for _, _, family in FILES.values()}
    assert compared == set(FAMILIES) and {*FORMS, "convnext", "convnext-convstem"} == compared


@pytest.mark.parametrize("family", NAMES)
def test_every_tensor_has_the_name_of_its_module(family):
    block, parts, shortcut, ends = NAMES[family]
    names = {f"group1_block0_{ours}": f"{block}.{theirs}" for ours, theirs in parts.items()}
    names |= {"group1_block0_convshortcut": f"{block}.{shortcut}", **ends}
    for ours, theirs in names.items():
        kinds = list(KINDS)[1:] if ours.endswith("_bn") else ["kernel"]
        for kind in kinds:
            tensor = FAMILIES[family].tensor(f"{ours}/{kind}")
            assert tensor == f"{theirs}.{KINDS[kind]}"
    assert FAMILIES[family].tensor("logits/bias") == f"{ends['logits']}.bias"
    if shortcut.endswith(".0"):
        norm = "group1_block0_convshortcut_bn"
        known = "convshortcut_bn" in FAMILIES[family].parts
        assert known == ("resnet" in family and family != "preactresnet")
        if known:
            expected = f"{block}.{shortcut[:-1]}1.running_var"
            assert FAMILIES[family].tensor(f"{norm}/moving_variance") == expected
