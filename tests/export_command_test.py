"""What the program makes of a run and of its flags."""

import dataclasses
import json
import os
import pathlib
import sys
import types

import keras
import pytest
import tensorflow as tf

from export import extras, saved_model, server_files, signatures, verify
from flags import export as export_flags
from sat_tf.runs import workdir
from tests import programs
from tests.served import NAMES, ending, make_network


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return make_network()


def test_a_wrong_number_of_names_is_refused(network, tmp_path):
    with pytest.raises(ValueError, match="2 class names came for a network of 3 classes"):
        saved_model.export(network, tmp_path, saved_model.Options(class_names=["a", "b"]))


def given(**values):
    names = ("workdir", "network", "directory", "version", "labels", "resize", "batching")
    numbers = {"keep_versions": 3, "max_pixels": 4096 * 4096}
    defaults = {**dict.fromkeys(names), **numbers, "label": "stable", "verify": False}
    return types.SimpleNamespace(**defaults | values)


def test_the_program_exports_a_run_with_its_names(network, tmp_path):
    run, serving = tmp_path / "run", tmp_path / "serving"
    run.mkdir()
    network.save(run / "network.keras")
    metrics = {"class_names": NAMES, "dataset": "pets", "eval_resize": "whole"}
    (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    labels = tmp_path / "other.txt"
    labels.write_text("x\ny\nz\n", encoding="utf-8")
    first = saved_model.from_flags(given(workdir=str(run), directory=str(serving)))
    network_file = str(run / "network.keras")
    second = saved_model.from_flags(
        given(network=network_file, directory=str(serving), labels=str(labels), version=7)
    )
    found = [
        (version / "assets.extra/labels.txt").read_text("utf-8") for version in (first, second)
    ]
    assert found == ["cat\ndog\ngroßer Hund\n", "x\ny\nz\n"]
    assert (first, second) == (serving / "1", serving / "7")


@pytest.mark.parametrize("asked", [True, False])
def test_a_version_is_verified_where_it_is_asked_for(network, tmp_path, monkeypatch, asked):
    verified, file = [], str(tmp_path / "network.keras")
    network.save(file)
    monkeypatch.setattr(verify, "verify", verified.append)
    saved_model.from_flags(given(network=file, directory=str(tmp_path / "s"), verify=asked))
    assert len(verified) == asked


def test_labels_in_another_order_than_the_runs_are_refused(network, tmp_path):
    network.save(tmp_path / "network.keras")
    (tmp_path / "metrics.json").write_text(json.dumps({"class_names": NAMES}), encoding="utf-8")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(NAMES[::-1]), encoding="utf-8")
    with pytest.raises(ValueError, match="in another order; .*: cat, dog, großer Hund"):
        saved_model.from_flags(
            given(workdir=str(tmp_path), labels=str(labels), directory=str(tmp_path / "s"))
        )
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("of_run", "of_flag", "expected"),
    [
        (None, None, "fit"),
        ("whole", None, "fit"),  # which is what evaluation calls it
        ("shorter_side", None, "shorter_side"),
        ("shorter_side", "fit", "fit"),
        (None, "shorter_side", "shorter_side"),
    ],
)
def test_a_run_is_served_as_it_was_evaluated(tmp_path, monkeypatch, of_run, of_flag, expected):
    made = []
    monkeypatch.setattr(
        signatures, "Servable", lambda *args: made.append(args) or types.SimpleNamespace(answers={})
    )
    monkeypatch.setattr(tf.saved_model, "save", lambda servable, path, *_: os.mkdir(path))
    network = ending(3)
    network.save(tmp_path / "network.keras")
    metrics = {"class_names": NAMES, "epsilon": 4.0}
    if of_run is not None:
        metrics["eval_resize"] = of_run
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    values = {"workdir": str(tmp_path), "directory": str(tmp_path / "s"), "resize": of_flag}
    version = saved_model.from_flags(given(**values))
    found = json.loads((version / "assets.extra" / "metadata.json").read_text(encoding="utf-8"))
    assert (found["resize"], found["training"]) == (expected, metrics)
    ((_, image_shape, names, resize, _),) = made
    assert (image_shape, names, resize) == ((4, 4, 3), NAMES, expected)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "--workdir=RUN or --network"),
        ({"workdir": "a", "network": "b"}, "--workdir=RUN or --network"),
        ({"workdir": "{tmp}"}, "--directory is missing"),
        ({"workdir": "{tmp}/no", "directory": "{tmp}/s"}, "--workdir=.*/no is not there; give"),
        ({"workdir": "{tmp}", "directory": "{tmp}/s"}, "network.keras is not there"),
        ({"network": "{tmp}/bad.keras", "directory": "{tmp}/s"}, "bad.keras"),
        ({"network": "resnet", "directory": "{tmp}/s"}, "'resnet' is not there"),
    ],
)
def test_what_the_flags_do_not_name_is_refused(tmp_path, values, words):
    (tmp_path / "bad.keras").write_bytes(b"PK no zip")
    values = {key: value.format(tmp=tmp_path) for key, value in values.items()}
    with pytest.raises(ValueError, match=words):
        saved_model.from_flags(given(**values))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("text", "words"), [("{", "is damaged"), ("[]", "a JSON object")])
def test_damaged_metrics_are_refused(tmp_path, text, words):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        workdir.read_metrics(tmp_path)


@pytest.mark.parametrize("text", ["", "a\n\nb\n"])
def test_labels_with_an_empty_line_are_refused(tmp_path, text):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(ValueError, match="one class name a line"):
        extras.read_labels(tmp_path / "labels.txt")


def test_the_program_ends_with_status_2_and_one_line(tmp_path, forked):
    status, _, err = forked.run("export.saved_model", f"--workdir={tmp_path}")
    said = "--directory is missing; give serving/NAME, the parent of the versions\n"
    assert status == 2 and err.count("\n") == 1 and err.endswith(said), err


def test_the_check_says_in_one_line_what_is_no_version(tmp_path, monkeypatch, capsys):
    for arguments, status, said in (
        ([str(tmp_path)], 2, f"verify.py: {tmp_path} is no exported version, as it has no"),
        ([], 2, "usage: python export/verify.py NAME/VERSION"),
    ):
        monkeypatch.setattr(sys, "argv", ["export/verify.py", *arguments])
        assert verify.main() == status
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and err.startswith(said)
    monkeypatch.setattr(sys, "argv", ["export/verify.py", "--help"])
    assert verify.main() == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_every_flag_reaches_the_options_of_the_export(tmp_path, monkeypatch):
    run, batching = tmp_path / "run", server_files.Batching((1, 4), "measured")
    run.mkdir()
    metrics = {"class_names": NAMES, "eval_resize": "shorter_side"}
    (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    seen = []
    monkeypatch.setattr(saved_model.loading, "load", lambda source: source)
    monkeypatch.setattr(saved_model, "export", lambda *given: seen.append(given))
    monkeypatch.setattr(server_files, "measured", lambda path: {"b.json": batching}[path])
    saved_model.from_flags(given(workdir=str(run), directory="there/pets"))
    asked = {"version": 7, "label": "canary", "keep_versions": 5, "batching": "b.json",
             "resize": "center_crop", "max_pixels": 900, "verify": True}  # fmt: skip
    saved_model.from_flags(given(workdir=str(run), directory="there/pets", **asked))
    plain = saved_model.Options(class_names=NAMES, resize="shorter_side", training=metrics,
                                verified=False)  # fmt: skip
    told = {name: asked[name] for name in asked.keys() - {"verify"}}
    every = dataclasses.replace(plain, **told | {"batching": batching, "verified": True})
    where = str(run), "there/pets"
    assert seen == [(*where, plain), (*where, every)]
    # A new option needs a flag above, but for what the run says.
    options = {field.name for field in dataclasses.fields(saved_model.Options)}
    assert options - {"class_names", "training", "verified"} == told.keys()
    defaults = vars(saved_model.Options())
    assert [name for name in told if told[name] == defaults[name]] == []


@pytest.mark.parametrize("verified", [True, False])
def test_the_program_says_where_the_version_is_and_what_is_there(
    verified, tmp_path, monkeypatch, capsys
):
    for number in (2, 10):
        (tmp_path / "pets" / str(number)).mkdir(parents=True)
    saved_model.labels.write(tmp_path / "pets", {"stable": 2, "canary": 10})

    class Given(dict):
        verify = verified

    asked = Given(verbosity=types.SimpleNamespace(present=1))
    monkeypatch.setattr(saved_model.flags, "FLAGS", asked)
    monkeypatch.setattr(
        saved_model, "from_flags", lambda given: tmp_path / "pets" / "10" if given is asked else 0
    )
    saved_model.main()
    how = "verified in a fresh process" if verified else "not verified"
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/pets/10 ({how})", "versions there: 2, 10; stable 2, canary 10",
        f"look at it: saved_model_cli show --dir {tmp_path}/pets/10 --all",
    ]  # fmt: skip


def test_the_version_that_the_server_still_answers_with_stays(network, tmp_path, monkeypatch):
    def save(servable, path, *_):
        os.mkdir(path)
        (pathlib.Path(path) / "saved_model.pb").touch()

    monkeypatch.setattr(signatures, "Servable", lambda *_: types.SimpleNamespace(answers={}))
    monkeypatch.setattr(tf.saved_model, "save", save)
    for part in (saved_model.warmup, saved_model.expectations):
        monkeypatch.setattr(part, "write", lambda *_: None)
    options = saved_model.Options(keep_versions=1, verified=False)
    for number in (1, 2, 3):
        saved_model.export(network, tmp_path / "pets", options)
        there = sorted(int(one.name) for one in (tmp_path / "pets").iterdir() if one.is_dir())
        # It reads the new labels a while later.
        assert there == [one for one in (number - 1, number) if one]


def test_the_library_and_the_program_export_alike_unless_told():
    given, options = programs.parsed(export_flags.define), vars(saved_model.Options())
    for name in ("version", "label", "keep_versions", "batching", "max_pixels"):
        assert getattr(given, name) == options[name], name
    assert given.verify is options["verified"] is True and given.resize is None
    assert (options["resize"], options["label"], options["keep_versions"]) == ("fit", "stable", 3)
