"""A network as ONNX or LiteRT answers in their own runtimes as it does here, or is not written."""

import importlib.util
import types

import keras
import numpy as np
import pytest

from export import portable
from sat_tf import loading

SOURCE = "zoo:digits_resnet8_swish"


def missing(suffix):
    return [name for name in portable.FORMATS[suffix][1] if not importlib.util.find_spec(name)]


@pytest.fixture(scope="module")
def network():
    return loading.load(SOURCE)


@pytest.mark.parametrize("suffix", portable.FORMATS)
def test_a_file_gives_the_logits_and_one_of_another_network_is_refused(
    suffix, network, tmp_path, monkeypatch
):
    if lacking := missing(suffix):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    portable.export(network, tmp_path / f"digits{suffix}")
    answers = tmp_path / "answers.npz"
    images = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 1)).astype(np.float32)
    logits = network(images, training=False).numpy()
    assert np.abs(logits - logits[0]).max() > 0.1  # the images matter
    np.savez(answers, images=images, logits=logits, tolerance=1e-4)
    portable.compare(str(tmp_path / f"digits{suffix}"), str(answers))
    np.savez(answers, images=images[::-1], logits=logits, tolerance=1e-4)
    with pytest.raises(ValueError, match="its logits are .* off"):
        portable.compare(str(tmp_path / f"digits{suffix}"), str(answers))
    true = portable.expectations.logits_of
    monkeypatch.setattr(portable.expectations, "logits_of", lambda *given: true(*given) + 1)
    with pytest.raises(ValueError, match="is not verified: ValueError: its logits are 1 off"):
        portable.export(network, tmp_path / f"wrong{suffix}")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["answers.npz", f"digits{suffix}"]


@pytest.mark.parametrize("suffix", portable.FORMATS)
def test_a_missing_package_is_asked_for_by_name(suffix, network, tmp_path, monkeypatch):
    monkeypatch.setattr(portable.importlib.util, "find_spec", lambda name: None)
    asked = " ".join(portable.FORMATS[suffix][1].values())
    with pytest.raises(ValueError, match=f"packages that are missing: pip install {asked}$"):
        portable.export(network, tmp_path / f"new{suffix}")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_named_and_nothing_is_there(network, tmp_path, monkeypatch):
    monkeypatch.setattr(portable.importlib.util, "find_spec", lambda name: True)
    with pytest.raises(ValueError, match="no suffix of a format; use one of: .onnx, .tflite"):
        portable.export(network, tmp_path / "new.pb")
    with pytest.raises(ValueError, match="gs:// is no directory"):
        portable.export(network, portable.Path("gs://bucket/new.onnx"))
    (tmp_path / "old.onnx").touch()
    with pytest.raises(ValueError, match="is there already"):
        portable.export(network, tmp_path / "old.onnx")
    inputs = keras.Input((8, 8, 1))
    ends = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(inputs))
    with pytest.raises(ValueError, match="ends in a softmax; logits were expected"):
        portable.export(keras.Model(inputs, ends), tmp_path / "new.onnx")

    def fails(*given, **options):
        raise NotImplementedError("no such operation")

    monkeypatch.setattr(network, "export", fails)
    with pytest.raises(ValueError, match="as onnx .NotImplementedError: no such operation"):
        portable.export(network, tmp_path / "new.onnx")
    assert [one.name for one in tmp_path.iterdir()] == ["old.onnx"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "give either --workdir"),
        ({"workdir": "run", "network": SOURCE}, "give either --workdir"),
        ({"network": SOURCE}, "--output is missing"),
    ],
)
def test_the_program_says_which_flag_is_missing(given, words, monkeypatch):
    flags = types.SimpleNamespace(**{"workdir": None, "network": None, "output": None} | given)
    monkeypatch.setattr(portable.flags, "FLAGS", flags)
    with pytest.raises(ValueError, match=words):
        portable.main()
