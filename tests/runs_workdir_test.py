"""A workdir belongs to one run."""

import hashlib
import json
import pathlib
import re
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

import sat_tf
from sat_tf import loading
from sat_tf.runs import atomic, workdir

SETTINGS = ["--boundary=30\n--boundary=60\n", "--epsilon=8\n", "--overwrite=false\n", "--seed=0\n"]


def claim(path, settings=SETTINGS, overwrite=False, defaults=()):
    with workdir.claim(path, settings, overwrite, defaults) as claimed:
        return claimed


def test_the_same_flags_continue_and_are_a_flagfile(tmp_path):
    claim(tmp_path / "run")
    (tmp_path / "run" / "network.keras").write_text("kept")
    claim(tmp_path / "run")
    assert (tmp_path / "run" / "network.keras").read_text() == "kept"
    *lines, digest = (tmp_path / "run" / "flags.txt").read_text().splitlines(keepends=True)
    assert "".join(lines) == "".join(SETTINGS)
    assert digest == f"# sha256 {hashlib.sha256(''.join(SETTINGS).encode()).hexdigest()}\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("--epsilon=8\n", "--epsilon=4\n", "--epsilon=8 became --epsilon=4"),
        ("--boundary=60\n", "", "--boundary=30 --boundary=60 became --boundary=30"),
        ("--seed=0\n", "", "--seed=0 became no --seed"),
    ],
)
def test_other_flags_are_named(tmp_path, old, new, message):
    claim(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        claim(tmp_path / "run", [line.replace(old, new) for line in SETTINGS])


@pytest.mark.parametrize("address", ["s3://bucket/run", "hdfs://a/b", pathlib.Path("s3://b/c")])
def test_a_store_that_tensorflow_does_not_reach_is_no_folder(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    doors = {
        "a workdir": lambda: claim(address),
        "a file": lambda: atomic.write_text(address, ""),
        "a lock": lambda: atomic.locked(address, "").__enter__(),
        "a network": lambda: loading.load(str(address)),
    }
    for door in doors.values():
        with pytest.raises(ValueError, match=r"^(s3|hdfs):// is no store that TensorFlow"):
            door()
    for bucket in ("gs://bucket", "gs://bucket/", "gs://"):
        with pytest.raises(ValueError, match="names no place inside a bucket; write gs://BUCKET"):
            claim(bucket)
    assert list(tmp_path.iterdir()) == []


def test_what_needs_a_directory_takes_no_address():
    for address in ("gs://bucket/run", "s3://b", pathlib.Path("gs://b"), "gs:"):
        with pytest.raises(ValueError, match=r"^(gs|s3):// is no directory, which this needs"):
            atomic.refuse_remote(address)
    for path in ("gs", "./a:b", "module:function", "/gs:/x"):
        atomic.refuse_remote(path)


def test_flags_that_change_no_weight_may_differ(tmp_path):
    claim(tmp_path / "run")
    claim(tmp_path / "run", [*SETTINGS, "--checkpoint_every=5\n", "--data_dir=elsewhere\n"])


def test_other_devices_are_said_and_not_refused(tmp_path, capsys):
    claim(tmp_path, [*SETTINGS, "--logical_cpus=1\n", "--strategy=one_device\n"])
    changes = (
        "--logical_cpus=1 became --logical_cpus=2, --strategy=one_device became --strategy=mirrored"
    )
    for said in (f"note: {tmp_path} goes on, on other devices: {changes}\n", ""):
        claim(tmp_path, [*SETTINGS, "--logical_cpus=2\n", "--strategy=mirrored\n"])
        assert capsys.readouterr().err == said


def test_a_run_that_is_older_than_a_flag_goes_on_with_its_default_alone(tmp_path):
    claim(tmp_path / "run")
    newer = [*SETTINGS, "--optimizer=sgd\n"]
    with pytest.raises(ValueError, match="no --optimizer became --optimizer=sgd"):
        claim(tmp_path / "run", newer)
    claim(tmp_path / "run", newer, defaults=["--optimizer=sgd\n"])
    assert "--optimizer=sgd" in (tmp_path / "run" / "flags.txt").read_text()
    # What a run has written down holds, whatever has become the default since.
    other = [line.replace("=0", "=7") for line in newer]
    with pytest.raises(ValueError, match="--seed=0 became --seed=7;"):
        claim(tmp_path / "run", other, defaults=["--seed=7\n", "--optimizer=sgd\n"])


def test_overwrite_empties_a_run_and_nothing_else(tmp_path):
    claim(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "old").touch()
    claim(tmp_path / "run", ["--epsilon=4\n"], overwrite=True)
    assert not (tmp_path / "run" / "checkpoints").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    for overwrite in (True, False):
        with pytest.raises(ValueError, match="holds"):
            claim(tmp_path / "thesis", overwrite=overwrite)
    assert (tmp_path / "thesis" / "chapter").read_text() == "years of work"


def test_what_a_killed_process_was_about_to_write_is_swept_and_nothing_else(tmp_path):
    path = tmp_path / "run"
    claim(path)
    (path / "checkpoints").mkdir()
    kept = (".hidden", ".a.b.npz", "step_1.12.npz", "checkpoints/step_000000001.npz")
    swept = (".network.4711.keras", ".metrics.12.json", "checkpoints/.step_000000002.12.npz")
    for name in (*kept, *swept):
        (path / name).touch()
    claim(path)
    assert not [name for name in swept if (path / name).exists()]
    assert all((path / name).exists() for name in kept)


def test_an_overwriting_that_is_killed_can_be_done_again(tmp_path, monkeypatch):
    path = tmp_path / "run"
    claim(path)
    for name in ("a", "z", "metrics.json"):
        (path / name).touch()
    unlink = pathlib.Path.unlink

    def killed_at_z(self, *options):
        if self.name == "z":
            raise KeyboardInterrupt
        unlink(self, *options)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "unlink", killed_at_z)
        with pytest.raises(KeyboardInterrupt):
            claim(path, overwrite=True)
    claim(path, overwrite=True)
    assert {child.name for child in path.iterdir()} == {"lock", "flags.txt"}


def test_two_processes_cannot_share_a_workdir(tmp_path):
    with workdir.claim(tmp_path / "run", SETTINGS, False):
        with pytest.raises(ValueError, match="another process"):
            claim(tmp_path / "run")
    claim(tmp_path / "run")


def test_metrics_are_json_with_versions(tmp_path):
    workdir.write_metrics(tmp_path, workdir.provenance() | {"epsilon": 8.0})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    modules = {module.__name__: module.__version__ for module in (keras, np, sat_tf, tf)}
    assert metrics["epsilon"] == 8 and metrics["versions"].items() >= modules.items()


def test_the_commit_says_if_the_code_was_changed_since_and_is_none_without_one(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(workdir, "__file__", str(tmp_path / "module.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert workdir.provenance()["commit"] is None
    (tmp_path / "module.py").write_text("a = 1\n")
    person = ["-c", "user.name=A", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*person, "commit", "-q", "-m", "A"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = workdir.provenance()["commit"]
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "module.py").write_text("a = 2\n")
    assert workdir.provenance()["commit"] == f"{clean}-dirty"
    link = tmp_path.with_suffix(".link")  # as Bazel runs it
    link.symlink_to(tmp_path / "module.py")
    monkeypatch.setattr(workdir, "__file__", str(link))
    assert workdir.provenance()["commit"] == f"{clean}-dirty"
    (tmp_path / "installed.py").touch()  # inside the repository and not of it
    monkeypatch.setattr(workdir, "__file__", str(tmp_path / "installed.py"))
    assert workdir.provenance()["commit"] is None


def test_a_directory_that_cannot_be_made_is_named_with_the_flag(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot make the directory .*run: .*give another --workdir"):
        claim(tmp_path / "file" / "run")


def test_what_is_made_has_a_hidden_folder_of_which_nothing_is_left(tmp_path):
    target = tmp_path / "new" / "a.onnx"
    killed = target.with_name(".a.onnx.partial-killed")
    killed.mkdir(parents=True)
    (killed / "half").touch()
    (target.parent / ".b.onnx.partial-other").mkdir()
    with atomic.making(target) as folder:
        assert not killed.exists() and folder.is_dir() and folder.parent == target.parent
        with pytest.raises(ValueError, match="another process is writing .*a.onnx; wait"):
            atomic.making(target).__enter__()
        (folder / "whole").write_text("w")
        (folder / "whole").replace(target)
    with pytest.raises(KeyError), atomic.making(target) as folder:
        (folder / "half").touch()
        raise KeyError
    assert sorted(one.name for one in target.parent.iterdir()) == [
        ".b.onnx.partial-other", "a.onnx"
    ]  # fmt: skip
