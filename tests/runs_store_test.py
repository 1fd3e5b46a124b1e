"""A run in an object store is that of a disk, by TensorFlow's own client."""

import io
import json
import re
import shutil
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf import loading
from sat_tf.runs import atomic, checkpoints, lease, places, sealed, workdir
from tests import evaluation_resume_test as resume
from tests import forks, object_store
from tests import training_fitting_test as fitting
from tests.killed import kill

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes certificates")
SETTINGS = ["--epsilon=8\n"]
# 2 epochs of 10 steps on the digits.
TINY = ["--epochs=2", "--warmup_epochs=1", "--epsilon=32", "--threads=1", "--picture_grid=2",
        "--checkpoint_every=3", "--validation_steps=2", "--test_steps=1"]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with object_store.serving(tmp_path_factory.mktemp("store")) as (store, environment):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            yield store


@pytest.fixture
def store(server, monkeypatch):
    """The store, empty, with leases of seconds.

    TensorFlow remembers for five seconds what an object was: each test has objects of its own.
    """
    for name, seconds in {"RENEWAL": 0.2, "EXPIRY": 5.0, "SETTLING": 0.0, "_LOOK": 0.1}.items():
        monkeypatch.setattr(lease, name, seconds)
    server.left = server.withheld = None
    server.objects.clear()
    server.puts.clear()
    return server


def test_what_is_put_is_read_and_a_block_that_fails_puts_nothing(store):
    place = places.of("gs://bucket/put") / "metrics.json"
    content = {"text": "ä" * 70_000}
    sealed.write_json(place, content)
    assert sealed.read_json(place) == content == sealed.read_json("gs://bucket/put/metrics.json")
    with pytest.raises(RuntimeError), atomic.replacing(place) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert store.puts == ["put/metrics.json"] and list(store.objects) == store.puts
    with places.fetched(place) as local:
        assert local.read_bytes() == store.objects["put/metrics.json"] == places.read(place)
    assert not local.exists() and places.size(place) == len(store.objects["put/metrics.json"])
    store.left = 0
    said = "^cannot write gs://bucket/put/metrics.json: .*403.*; what was there before is untouched"
    with pytest.raises(OSError, match=said):
        sealed.write_json(place, {})
    with pytest.raises(OSError, match="^cannot read gs://bucket/put/metrics.json: .*403"):
        sealed.read_json(place)


def test_what_a_store_answers_at_length_is_said_in_one_line():
    answer = tf.errors.InternalError(
        None, None, "Error executing\n  a request:" + "\t<html>\n" * 99
    )
    with pytest.raises(OSError) as raised, places._said("gs://bucket/run", "write"):
        raise answer
    said = str(raised.value)
    assert said.startswith("cannot write gs://bucket/run: Error executing a request: <html> <html>")
    assert said.isprintable() and len(said) < 400


def test_what_is_not_there_is_said(store, monkeypatch):
    monkeypatch.setattr(places, "_reached", set())
    with pytest.raises(ValueError, match="^there is no bucket gs://another; make it"):
        places.of("gs://another/run")
    place = places.of("gs://bucket/absent")
    assert not place.exists() and workdir.read_metrics(place) == {}
    for door in (places.read, sealed.read_json, lambda path: places.fetched(path).__enter__()):
        with pytest.raises(FileNotFoundError, match="gs://bucket/absent/none"):
            door(place / "none")
    with pytest.raises(ValueError, match="network 'gs://bucket/absent' is not there"):
        loading.load("gs://bucket/absent")
    store.left = 0
    monkeypatch.setattr(places, "_reached", set())
    with pytest.raises(OSError, match="^gs://bucket cannot be reached: .*403"):
        places.of("gs://bucket/absent")


def test_a_store_that_does_not_answer_is_not_waited_for(store, monkeypatch):
    monkeypatch.setattr(places, "_reached", set())
    monkeypatch.setattr(places, "PATIENCE", 0.2)
    store.silent = True
    try:
        with pytest.raises(OSError, match="gs://bucket does not answer within 0.2 seconds"):
            places.of("gs://bucket/silent")
    finally:
        store.silent = False


@pytest.mark.slow
def test_a_workdir_belongs_to_one_run_and_one_process(store):
    def claim(settings=SETTINGS, overwrite=False, path="gs://bucket/claimed"):
        return workdir.claim(path, settings, overwrite)

    with claim() as path:
        assert str(path) == "gs://bucket/claimed"
        assert set(store.objects) == {"claimed/lock", "claimed/flags.txt"}
        with pytest.raises(
            ValueError, match=r"is training in gs://bucket/claimed; .* \(.*, process"
        ):
            claim().__enter__()
        atomic.write_text(path / "checkpoints" / "old", "")
    assert set(store.objects) == {"claimed/flags.txt", "claimed/checkpoints/old"}
    with pytest.raises(ValueError, match="--epsilon=8 became --epsilon=4"):
        claim(["--epsilon=4\n"]).__enter__()
    with claim(["--epsilon=4\n"], overwrite=True):
        assert set(store.objects) == {"claimed/lock", "claimed/flags.txt"}
    store.objects["thesis/chapter"] = b"years of work"
    for overwrite in (True, False):
        with pytest.raises(ValueError, match="gs://bucket/thesis holds"):
            claim(overwrite=overwrite, path="gs://bucket/thesis").__enter__()
    assert store.objects["thesis/chapter"] == b"years of work"


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_and_one_that_is_not_given_is_not(store, capsys):
    directory = places.of("gs://bucket/damaged/checkpoints")
    state = [keras.Variable(0.0, name="one")]
    for step in (1, 2, 3):
        state[0].assign(step)
        checkpoints.save(directory, step, state, {"step": step})
    names = [f"damaged/checkpoints/step_00000000{step}.npz" for step in (2, 3)]
    assert sorted(store.objects) == names and checkpoints.newest_step(directory) == 3
    whole = store.objects[names[1]]
    middle = len(whole) // 2
    store.objects[names[1]] = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    assert checkpoints.restore(directory, state) == (2, {"step": 2}) and state[0] == 2
    assert "step_000000003.npz is damaged" in capsys.readouterr().err
    store.objects[names[1]] = whole
    store.withheld = names[1]
    with pytest.raises(OSError, match="cannot read gs://bucket/damaged/.*3.npz: .*403"):
        checkpoints.restore(directory, state)


@pytest.mark.slow
def test_a_run_that_dies_at_any_put_goes_on_to_the_weights_and_logs_of_a_disk(
    store, monkeypatch, tmp_path
):
    monkeypatch.setattr(lease, "EXPIRY", 0.1)
    monkeypatch.setattr(lease, "RENEWAL", 600.0)  # no put of its own
    run = fitting.Run("one_device")

    def go_on(place):
        with workdir.claim(place, SETTINGS, False) as path:
            record, _ = fitting.go_on(run.anew(), path)
        return record, fitting.values(run.trainer.state)

    expected, state = go_on(tmp_path / "run")
    assert go_on("gs://bucket/dies0")[0] == expected
    kinds = [name.rpartition(".")[2] for name in store.puts]
    num_puts = len(kinds)
    assert kinds[0] == "dies0/lock" and kinds.count("npz") == 3 and kinds.count("keras") >= 1
    same = {f"dies0/checkpoints/{path.name}" for path in (tmp_path / "run/checkpoints").iterdir()}
    assert set(store.objects) == {"dies0/flags.txt", "dies0/network.keras", *same}
    for left in range(num_puts):
        place, store.left = f"gs://bucket/dies{left + 1}", left
        with pytest.raises((OSError, tf.errors.OpError), match="403"):
            go_on(place)
        store.left = None
        record, ours = go_on(place)
        assert record == expected
        for one, other in zip(ours, state, strict=True):
            np.testing.assert_array_equal(one, other)
        assert f"dies{left + 1}/lock" not in store.objects


@pytest.mark.slow
def test_an_evaluation_that_was_killed_goes_on_in_the_store(store, tmp_path):
    reference = resume.content(resume.evaluate_here(tmp_path / "report.verdicts.npz"))
    place = "gs://bucket/killed_evaluation/report.verdicts.npz"
    kill(lambda: resume.evaluate_here(place, save_every=60.0), 20)
    assert store.puts == ["killed_evaluation/report.verdicts.npz"]
    found = resume.evaluate_here(place, save_every=60.0)
    assert resume.content(found) == reference
    found.save("gs://bucket/killed_evaluation/report.json")
    with pytest.raises(ValueError, match="gs:// is no directory, which this needs"):
        resume.evaluate_here(place, image_file="gs://bucket/killed_evaluation/report.images.npy")
    with pytest.raises(ValueError, match="belongs to another evaluation: seed 7 here, 0 there"):
        resume.evaluate_here(place, seed=7)


class Programs(forks.Parent):
    """Programs whose environment has the store; each request of theirs takes its time."""

    def run(self, program, *arguments):
        fork = self.start(program, *arguments)
        out, err = fork.communicate(timeout=1500)
        return fork.returncode, out, err


@pytest.fixture(scope="module")
def programs(server):
    parent = Programs()
    yield parent
    parent.close()


def state_of(content):
    with np.load(io.BytesIO(content)) as arrays:
        return {name: arrays[name] for name in arrays.files if name != "record.json"}


@pytest.mark.slow
def test_programs_train_evaluate_and_export_a_run_of_a_store_as_one_of_a_disk(
    store, programs, tmp_path
):
    flags = ["--workdir=gs://bucket/program", *TINY]
    process = programs.start("sat_tf.train", *flags)
    while "program/checkpoints/step_000000006.npz" not in store.objects:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "program/lock" in store.objects and "program/network.keras" not in store.objects
    status, out, err = programs.run("sat_tf.train", "--flagfile=gs://bucket/program/flags.txt")
    assert status == 0, err
    assert re.fullmatch(r"note: waiting whether \S+, process \d+ still holds \S+/lock\n", err)
    assert "workdir gs://bucket/program" in out and "program/lock" not in store.objects
    here = tmp_path / "run"
    assert programs.run("sat_tf.train", f"--workdir={here}", *TINY)[0] == 0
    newest = max((here / "checkpoints").iterdir())
    expected = state_of(newest.read_bytes())
    found = state_of(store.objects[f"program/checkpoints/{newest.name}"])
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    ours = json.loads(store.objects["program/metrics.json"])
    theirs = sealed.read_json(here / "metrics.json")
    assert (ours["history"], ours["best"]) == (theirs["history"], theirs["best"])
    written = {name.rpartition("/")[0] for name in store.objects if "tfevents" in name}
    assert written == {f"program/logs{run}" for run in ("", "/train", "/validation", "/test")}
    # What the run wrote down about itself is read from there, and what is found is put there.
    report = ["--attacks=pgd-2", "--num_images=40", "--write=html,plots,tensorboard"]
    status, out, err = programs.run("sat_tf.evaluate", flags[0], *report)
    assert (status, err) == (0, "") and "gs://bucket/program/report_pgd-2_num_images-40.html" in out
    assert programs.run("sat_tf.evaluate", f"--workdir={here}", *report)[0] == 0
    name = "report_pgd-2_num_images-40.json"
    there, here = json.loads(store.objects[f"program/{name}"]), sealed.read_json(here / name)
    assert (there["images"], there["per_class"]) == (here["images"], here["per_class"])
    served = [f"--directory={tmp_path / 'served'}", "--noverify"]
    status, _, err = programs.run("export.saved_model", flags[0], *served)
    assert status == 0, err
    assert (tmp_path / "served" / "1" / "saved_model.pb").is_file()


@pytest.mark.slow
def test_programs_say_in_a_line_what_a_store_cannot_do(store, programs):
    place, zoo = "gs://bucket/refused", "--network=zoo:digits_resnet8_swish"
    with lease.held(places.of(place) / "lock", ""):
        status, _, err = programs.run("sat_tf.train", f"--workdir={place}", *TINY)
    note, line = err.splitlines()
    assert status == 2 and note.startswith("note: waiting whether")
    assert re.match(
        r"sat_tf.train: another process is training in gs://bucket/refused; .*\)$", line
    )
    store.objects["refused/network.keras"] = b""
    directory = "gs:// is no directory, which this needs"
    for module, flags, said in (
        ("sat_tf.evaluate", ["--workdir=s3://bucket/run"], "s3:// is no store that TensorFlow"),
        ("sat_tf.evaluate", ["--workdir=gs://other/run"], "there is no bucket gs://other"),
        (
            "sat_tf.evaluate",
            [f"--network={place}", "--dataset=digits", "--epsilon=8"],
            "no archive",
        ),
        ("export.saved_model", [zoo, f"--directory={place}"], directory),
        ("sat_tf.evaluate", [zoo, f"--json={place}/report.json", "--write=npz"], directory),
    ):
        status, _, err = programs.run(module, *flags)
        assert status == 2 and said in err and len(err.splitlines()) == 1, err
    assert set(store.objects) == {"refused/network.keras"}
    nobody = (
        "import os, sys; os.environ['https_proxy'] = 'http://127.0.0.1:9'\n"
        "from sat_tf.runs import places; places.of('gs://bucket/run')"
    )
    began = time.monotonic()
    status, _, err = programs.run("-c", nobody)
    assert time.monotonic() - began < 2 * places.PATIENCE
    assert status == 1 and "OSError: gs://bucket" in err, err
