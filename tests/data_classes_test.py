"""A network is measured on its own classes: as many, of the same names, in the same order."""

import contextlib
import json
import types

import keras
import numpy as np
import pytest
from absl import flags

from sat_tf import data, loading
from sat_tf.evaluation import settings
from sat_tf.runs import workers
from sat_tf.training import parts
from sat_tf.training.recipe import Recipe
from tests import programs

DIGITS = tuple(map(str, range(10)))
INFO = data.Info("pets", ("cat", "dog", "hare"), (8, 8, 1), {"train": 1, "test": 1})


@pytest.mark.parametrize("names", [None, INFO.class_names, list(INFO.class_names)])
@pytest.mark.parametrize("number", [None, 3])
def test_equal_classes_pass_and_what_is_not_known_is_not_compared(number, names):
    INFO.check_classes(number, names)


@pytest.mark.parametrize(
    ("number", "names", "said"),
    [
        (1000, None, "network has 1000 classes and pets has 3 .cat, dog, hare.; .*--classes"),
        (2, ("cat", "dog"), "network has 2 classes and pets has 3"),
        (3, ("cat", "dog"), "names of 2 classes and pets has 3"),
        (3, ("cat", "hare", "dog"), "class 1 is 'hare' to the network and 'dog' in pets"),
        (None, ("cat", "dog", "fox"), "class 2 is 'fox' to the network and 'hare' in pets"),
    ],
)
def test_other_classes_are_refused_by_number_and_by_name(number, names, said):
    with pytest.raises(ValueError, match=said):
        INFO.check_classes(number, names)


def saved(directory, num_classes, names=None):
    inputs = keras.Input((8, 8, 1))
    logits = keras.layers.Dense(num_classes)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, logits).save(directory / "network.keras")
    if names is not None:
        metrics = {"class_names": list(names)}
        (directory / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return directory


def test_a_run_and_an_exported_version_know_the_names_of_their_classes(tmp_path):
    run = saved(tmp_path, 10, DIGITS)
    for source in (run, run / "network.keras"):
        assert loading.class_names(str(source)) == list(DIGITS)
    version = tmp_path / "served" / "3"
    (version / "assets.extra").mkdir(parents=True)
    (version / "saved_model.pb").touch()
    for source in (version, version.parent):
        assert loading.class_names(str(source)) is None
    (version / "assets.extra" / "labels.txt").write_text("a\nb ü\n", encoding="utf-8")
    for source in (version, version.parent):
        assert loading.class_names(str(source)) == ["a", "b ü"]
    for source in ("tests.loading_test:make", str(tmp_path / "served" / "network.keras")):
        assert loading.class_names(source) is None


def evaluated(run, classes=None):
    """Labels as the command `evaluate` reads them for the network of a run."""
    flags = types.SimpleNamespace(batch_size=100, num_images=None, ids=None, classes=classes,
                                  max_pixels=4096**2)  # fmt: skip
    chosen = types.SimpleNamespace(flags=flags, source=str(run), dataset="digits", split="test",
                                   data_dir=None, image_size=None, eval_resize=None)  # fmt: skip
    batches, _ = settings.load_images(chosen, loading.load(str(run)))
    return np.concatenate([labels for _, labels in batches])


def test_the_command_refuses_other_classes_and_takes_those_that_a_file_says(tmp_path):
    labels = evaluated(saved(tmp_path, 10, DIGITS))
    assert set(labels) == set(range(10))
    with pytest.raises(ValueError, match="network has 20 classes and digits has 10"):
        evaluated(saved(tmp_path, 20))
    path = tmp_path / "classes"
    path.write_text("".join(f" {19 - number} \n" for number in range(10)))
    np.testing.assert_array_equal(evaluated(tmp_path, str(path)), 19 - labels)
    with pytest.raises(ValueError, match="class 0 is '9' to the network"):
        evaluated(saved(tmp_path, 10, DIGITS[::-1]))
    path.write_text("\n".join(DIGITS))
    np.testing.assert_array_equal(evaluated(tmp_path, str(path)), 9 - labels)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0\n1\n", "has 2 lines and digits 10 classes; write one line a class, in this order: 0"),
        ("0\n" * 9 + "12\n", "'12' is no class of the network; .* 0 to 11, .* 'name 0'"),
        ("0\n" * 9 + "-1\n", "'-1' is no class of the network"),
        ("name 1\n" * 9 + "cat\n", "'cat' is no class of the network"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_classes_that_does_not_fit_is_refused(tmp_path, text, said):
    saved(tmp_path, 12, [f"name {number}" for number in range(12)])
    path = tmp_path / "classes"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=said):
        evaluated(tmp_path, str(path))


def test_a_run_is_neither_continued_nor_tested_on_other_classes(tmp_path, monkeypatch):
    run = saved(tmp_path, 4, ("cat", "hare", "dog"))
    monkeypatch.setattr(data, "describe", lambda *_: INFO)
    trainer = types.SimpleNamespace(network=loading.load(str(run)))
    monkeypatch.setattr(parts, "trainer", lambda *_: trainer)
    for name in ("set_up_process", "check_images"):
        monkeypatch.setattr(parts, name, lambda *_: None)
    monkeypatch.setattr(workers, "claim", lambda *_: contextlib.nullcontext(run))
    with programs.imported("sat_tf.train") as train:
        for name, value in {"dataset": "pets", "epsilon": 8.0, "workdir": str(run)}.items():
            setattr(flags.FLAGS, name, value)
        given = Recipe.of(flags.FLAGS)
        with pytest.raises(ValueError, match="class 1 is 'hare' to the network and 'dog' in pets"):
            train.train()
    with pytest.raises(ValueError, match="network has 4 classes and pets has 3"):
        train.test(given, INFO, run)
