"""The real program, in a process of its own."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
# 2 epochs of 10 steps on the digits, in one thread each, so that xdist's workers share the cores.
TINY = ["--epochs=2", "--warmup_epochs=1", "--epsilon=32", "--threads=1", "--picture_grid=2"]
RANDOMNESS = ["--checkpoint_every=3", "--ema_decay=0.9", "--validation_steps=2", "--test_steps=0"]


@pytest.fixture
def start(forked):
    """Starts the training program with flags."""
    return lambda workdir, *flags: forked.start("sat_tf.train", f"--workdir={workdir}", *flags)


@pytest.fixture
def run(forked):
    """Runs the training program to its end; returns its status, stdout and stderr."""
    return lambda workdir, *flags: forked.run("sat_tf.train", f"--workdir={workdir}", *flags)


def final_state(workdir):
    newest = sorted((workdir / "checkpoints").glob("*.npz"))[-1]
    with np.load(newest) as arrays:
        return newest.name, {name: arrays[name] for name in arrays.files if name != "record.json"}


def steps(workdir):
    names = (path.name for path in (workdir / "checkpoints").glob("step_*.npz"))
    return [int(re.search(r"\d+", name)[0]) for name in names] or [0]


def wait_past(step, workdir, process):
    deadline = time.monotonic() + 240
    while max(steps(workdir)) <= step:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"no checkpoint after step {step}: {process.communicate()}")
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """As a user starts it."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    command = [sys.executable, "-m", "sat_tf.train", f"--workdir={workdir}", *TINY, *RANDOMNESS]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout, done.stderr


def test_a_run_leaves_everything_it_promises(uninterrupted):
    workdir, out, err = uninterrupted
    assert {"network.keras", "flags.txt", "metrics.json", "checkpoints", "logs"} <= {
        path.name for path in workdir.iterdir()
    }
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert [epoch["step"] for epoch in metrics["history"]] == [10, 20]
    assert metrics["unit"] == "pixels (0-255)"
    assert err == ""
    assert "epoch 2/2" in out


def test_a_run_stopped_twice_ends_with_identical_weights(uninterrupted, tmp_path, start, run):
    workdir = tmp_path / "run"
    process = start(workdir, *TINY, *RANDOMNESS)
    wait_past(5, workdir, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed = max(steps(workdir))
    process = start(workdir, *TINY, *RANDOMNESS)
    wait_past(killed, workdir, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command continues" in err and len(err.splitlines()) == 1
    assert 5 < killed < max(steps(workdir)) < 20
    status, _, err = run(workdir, *TINY, *RANDOMNESS)
    assert status == 0, err
    expected_name, expected = final_state(uninterrupted[0])
    name, state = final_state(workdir)
    assert name == expected_name and state.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)
    epochs = json.loads((workdir / "metrics.json").read_text())
    whole = json.loads((uninterrupted[0] / "metrics.json").read_text())
    assert (epochs["history"], epochs["best"]) == (whole["history"], whole["best"])


def test_a_finished_run_stays_as_it_is(uninterrupted, run):
    workdir = uninterrupted[0]
    before = {p: p.stat().st_mtime_ns for p in (workdir / "checkpoints").iterdir()}
    status, _, err = run(workdir, *TINY, *RANDOMNESS)
    assert status == 0, err
    assert {p: p.stat().st_mtime_ns for p in (workdir / "checkpoints").iterdir()} == before


def test_other_flags_in_the_same_workdir_are_refused_by_name(uninterrupted, run):
    status, _, err = run(uninterrupted[0], *TINY, *RANDOMNESS, "--activation=relu")
    assert status == 2
    assert "--activation=swish became --activation=relu" in err and "--overwrite" in err
    assert len(err.splitlines()) == 1


def test_two_logical_cpus_train_under_mirrored(tmp_path, run):
    flags = ["--strategy=mirrored", "--logical_cpus=2", "--gradient_accumulation=2"]
    short = ["--epochs=1", "--warmup_epochs=0.5", "--validation_steps=1", "--test_steps=2"]
    status, out, err = run(tmp_path / "run", *TINY, *flags, *short)
    assert status == 0, err
    assert "2 x CPU" in out
    report = json.loads((tmp_path / "run" / "test_pgd_2.json").read_text())
    assert report["num_images"] == 359


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--activation=swich", "celu"),
        ("--dataset=cifar11", "cifar11"),
        ("--strategy=all", "one_device, mirrored, tpu, multi_worker"),
        ("--epsilon=8/255", "write 8, not 8/255"),
        ("--epsilon=-1", "from 0 to 1e+09"),
        ("--augment=mixup", "crop_flip"),
        ("--cutmix=-1", "range [0, 100]"),
        ("--extra_data=no/such.npz", "such.npz is not there"),
        ("--schedule=step", "--boundary"),
        ("--attack_steps=0", "range [1, 10000]"),
        ("--batch_size=5000", "cannot be filled"),
        ("--precision=half", "float32|mixed_bfloat16"),
        ("--no_such_flag=1", "no_such_flag"),
        ("--seed=-2147483649", "range [0, 2147483647]"),
    ],
)
def test_bad_flags_get_one_line_and_leave_nothing(tmp_path, run, flag, message):
    status, _, err = run(tmp_path / "run", flag)
    assert status == 2
    assert message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_epsilon_below_one_pixel_warns(tmp_path, run):
    _, _, err = run(tmp_path / "run", "--epsilon=0.03137", "--schedule=none")  # warns, then fails
    warning, error = err.splitlines()
    assert "0.03137 pixels of 255" in warning and "give 8" in warning
    assert "schedule" in error
