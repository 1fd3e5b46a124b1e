"""A network as ONNX or LiteRT answers in their own runtimes as it does here, or is not written."""

import importlib.util
import json
import pathlib
import types

import keras
import numpy as np
import pytest

from export import formats, litert, onnx
from sat_tf import loading

SOURCE = "zoo:digits_resnet8_swish"
TO_INT8 = {"output": "a.tflite", "int8": True}
NOTHING = dict.fromkeys(["workdir", "network", "output", "int8", *litert._OF_INT8])


def missing(suffix):
    return [name for name in formats.FORMATS[suffix][1] if not importlib.util.find_spec(name)]


@pytest.fixture(scope="module")
def network():
    return loading.load(SOURCE)


@pytest.mark.parametrize("suffix", formats.FORMATS)
def test_a_file_gives_the_logits_and_one_of_another_network_is_refused(
    suffix, network, tmp_path, monkeypatch
):
    if lacking := missing(suffix):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    formats.export(network, tmp_path / f"digits{suffix}")
    images = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 1)).astype(np.float32)
    logits = network(images, training=False).numpy()
    assert np.abs(logits - logits[0]).max() > 0.1  # the images matter
    found = formats.runtimes.ask(tmp_path / f"digits{suffix}", images).logits
    np.testing.assert_allclose(found, logits, atol=1e-4)
    true = formats.expectations.logits_of
    monkeypatch.setattr(formats.expectations, "logits_of", lambda *given: true(*given) + 1)
    with pytest.raises(ValueError, match="is not verified: its logits are 1 off"):
        formats.export(network, tmp_path / f"wrong{suffix}")
    assert sorted(one.name for one in tmp_path.iterdir()) == [f"digits{suffix}"]


@pytest.mark.parametrize("suffix", formats.FORMATS)
def test_a_missing_package_is_asked_for_by_name(suffix, network, tmp_path, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    asked = " ".join(formats.FORMATS[suffix][1].values())
    with pytest.raises(ValueError, match=f"packages that are missing: pip install {asked}$"):
        formats.export(network, tmp_path / f"new{suffix}")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_named_and_nothing_is_there(network, tmp_path, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: True)
    with pytest.raises(ValueError, match="no suffix of a format; use one of: .onnx, .tflite"):
        formats.export(network, tmp_path / "new.pb")
    with pytest.raises(ValueError, match="gs:// is no directory"):
        formats.export(network, pathlib.Path("gs://bucket/new.onnx"))
    (tmp_path / "old.onnx").touch()
    with pytest.raises(ValueError, match="is there already"):
        formats.export(network, tmp_path / "old.onnx")
    inputs = keras.Input((8, 8, 1))
    ends = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(inputs))
    with pytest.raises(ValueError, match="ends in a softmax; logits were expected"):
        formats.export(keras.Model(inputs, ends), tmp_path / "new.onnx")

    def fails(*given, **options):
        raise NotImplementedError("no such operation")

    monkeypatch.setattr(network, "export", fails)
    with pytest.raises(ValueError, match="as onnx .NotImplementedError: no such operation"):
        formats.export(network, tmp_path / "new.onnx")
    assert [one.name for one in tmp_path.iterdir()] == ["old.onnx"]


@pytest.mark.parametrize(
    ("program", "given", "words"),
    [
        (onnx, {}, "give either --workdir"),
        (litert, {"workdir": "run", "network": SOURCE}, "give either --workdir"),
        (onnx, {"network": SOURCE}, "--output is missing; give a new file, NAME.onnx"),
        (litert, {"network": SOURCE}, "--output is missing; give a new file, NAME.tflite"),
        (onnx, {"network": SOURCE, "output": "a.tflite"}, "--output=a.tflite .* give NAME.onnx"),
        (litert, {"network": SOURCE, "output": "a.onnx"}, "--output=a.onnx .* give NAME.tflite"),
        (litert, {"network": SOURCE, "output": "a.tflite", "seed": 1}, "--seed .* --int8 as well"),
        (litert, {"network": "a.keras", **TO_INT8}, "--dataset is not given"),
        (litert, {"network": "a.keras", **TO_INT8, "dataset": "digits"}, "--epsilon is not given"),
    ],
)
def test_each_program_says_which_flag_is_missing(program, given, words, monkeypatch):
    monkeypatch.setattr(program.flags, "FLAGS", types.SimpleNamespace(**NOTHING | given))
    with pytest.raises(ValueError, match=words):
        program.main()


def test_every_flag_of_int8_is_stronger_than_the_run_and_reaches_the_plan(monkeypatch, tmp_path):
    of_run = {"dataset": "pets", "data_dir": "here", "epsilon": 3.0, "norm": "l2",
              "eval_resize": "whole"}  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(of_run | {"class_names": ["a"]}))
    seen, told = [], {"dataset": "digits", "data_dir": "there", "epsilon": 5.0, "num_images": 7,
                      "calibration_images": 9, "seed": 4}  # fmt: skip
    monkeypatch.setattr(litert.loading, "load", lambda source: source)
    monkeypatch.setattr(litert.int8.Trial, "read", lambda *given: seen.append(given) or given)
    monkeypatch.setattr(formats, "export", lambda *given: seen.append(given))
    monkeypatch.setattr(litert.int8, "told", lambda figures: "")
    source, output = str(tmp_path), tmp_path / "new.tflite"
    common = {"workdir": str(tmp_path), "output": str(output), "int8": True}
    for values, plan in (
        ({}, litert.int8.Plan(**of_run)),
        (told, litert.int8.Plan(norm="l2", eval_resize="whole", **told)),
        ({"epsilon": 0.0}, litert.int8.Plan(**of_run | {"epsilon": 0.0})),
        ({"int8": False}, None),
    ):
        flags = types.SimpleNamespace(**NOTHING | common | values)
        monkeypatch.setattr(litert.flags, "FLAGS", flags)
        litert.main()
        trial = plan and (source, ["a"], plan)
        assert seen == [*([trial] if plan else []), (source, output, trial)]
        seen.clear()
    assert set(told) == set(litert._OF_INT8)
    flags = types.SimpleNamespace(workdir=None, network=source, output=f"{tmp_path}/new.onnx")
    monkeypatch.setattr(onnx.flags, "FLAGS", flags)
    onnx.main()
    assert seen == [(source, tmp_path / "new.onnx")]


def test_a_file_is_tried_on_smooth_and_on_noisy_pictures_on_black_and_on_white():
    found = formats.expectations.probes(12, 10, 3)
    assert (found.dtype, found.shape) == (np.uint8, (16, 12, 10, 3))
    steps = np.abs(np.diff(found.astype(float), axis=1)).mean((1, 2, 3))
    assert 0 < steps[:7].min() and steps[:7].max() < steps[7:14].min()
    assert (found[14] == 0).all() and (found[15] == 255).all()
