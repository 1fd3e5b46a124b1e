"""Workers train in step: two processes learn what one process with two replicas learns."""

import contextlib
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from sat_tf.runs import checkpoints, distribution
from tests import combinations

ROOT = pathlib.Path(__file__).parent.parent
TINY = [
    "--model=resnet8", "--epochs=1", "--warmup_epochs=0.5", "--epsilon=32", "--threads=1",
    "--picture_grid=2", "--validation_steps=2", "--test_steps=2", "--ema_decay=0.9",
    "--gradient_accumulation=2", "--checkpoint_every=3",
]  # fmt: skip


def start(workdir, *flags, tf_config=None):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    if tf_config is not None:
        environment["TF_CONFIG"] = json.dumps(tf_config)
    return subprocess.Popen(
        [sys.executable, "-m", "sat_tf.train", f"--workdir={workdir}", *TINY, *flags],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def cluster(num_workers):
    """Returns the TF_CONFIG of each worker, with ports that are free."""
    sockets = [socket.socket() for _ in range(num_workers)]
    for one in sockets:
        one.bind(("localhost", 0))
    addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        for index in range(num_workers)
    ]


def start_workers(workdir, *flags_of_each):
    """Starts a worker for each of the given flags; returns their processes."""
    return [
        start(workdir, "--strategy=multi_worker", *flags, tf_config=tf_config)
        for flags, tf_config in zip(flags_of_each, cluster(len(flags_of_each)), strict=True)
    ]


def ends(*processes):
    """Waits and returns (status, stdout, stderr) of each."""
    texts = [process.communicate(timeout=900) for process in processes]
    return [(p.returncode, *text) for p, text in zip(processes, texts, strict=True)]


def state(workdir):
    (path,) = sorted((workdir / "checkpoints").glob("*.npz"))[-1:]
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files if name != "record.json"}


@pytest.mark.slow
def test_two_workers_learn_what_two_replicas_of_one_process_learn(tmp_path):
    both = ends(*start_workers(tmp_path / "workers", [], []))
    assert [status for status, *_ in both] == [0, 0], both
    (_, chief, _), (_, other, _) = both
    assert "test images" in chief and other == ""
    flags = ["--strategy=mirrored", "--logical_cpus=2"]
    ((status, _, error),) = ends(start(tmp_path / "replicas", *flags))
    assert status == 0, error
    ours, theirs = state(tmp_path / "workers"), state(tmp_path / "replicas")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    ours, theirs = (
        json.loads((tmp_path / name / "metrics.json").read_text())["history"]
        for name in ("workers", "replicas")
    )
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
    assert len(list((tmp_path / "workers" / "logs" / "train").glob("*.v2"))) == 1


@pytest.fixture(scope="module")
def combined(tmp_path_factory):
    """What each of two workers, and two replicas here, learn by every combination."""
    folder = tmp_path_factory.mktemp("combined")
    files = [folder / f"{index}.npz" for index in range(2)]
    with contextlib.ExitStack() as stack:
        running = []
        for file, tf_config in zip(files, cluster(2), strict=True):
            errors = stack.enter_context(file.with_suffix(".txt").open("w"))
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.combinations", "multi_worker", str(file)],
                    cwd=ROOT, env=os.environ | {"TF_CONFIG": json.dumps(tf_config)}, stderr=errors,
                )
            )  # fmt: skip
            stack.callback(running[-1].kill)
        replicas = combinations.learn("mirrored")
        statuses = [worker.wait(1200) for worker in running]
    assert statuses == [0, 0], [file.with_suffix(".txt").read_text() for file in files]
    return [dict(np.load(file)) for file in files], replicas


@pytest.mark.slow
def test_every_method_and_setting_learns_on_two_workers_what_it_learns_on_two_replicas(combined):
    (first, second), replicas = combined
    assert first.keys() == second.keys() == replicas.keys()
    for name, value in replicas.items():
        np.testing.assert_array_equal(first[name], second[name], name)
        assert np.isfinite(value).all(), name
        # Sums of two are the same in either order, and few operations are fused otherwise. TRADES
        # takes the direction of what is left where two predictions nearly cancel.
        more = 20 if name.startswith("trades") else 1
        np.testing.assert_allclose(first[name], value, 1e-5 * more, 1e-6 * more, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", combinations.OVERFLOWS)
def test_an_overflow_on_one_worker_skips_the_step_on_both_and_none_waits(combined, name):
    _, precision = combinations.OVERFLOWS[name]
    overflows = precision == "mixed_float16"
    for found in (*combined[0], combined[1]):
        scale, *after = found[f"{name}/scales"]
        assert after == [scale / 2 if overflows else scale] * 3
        kernels = found[f"{name}/kernels"]
        stood = [np.array_equal(*two) for two in itertools.pairwise(kernels)]
        assert stood == [overflows, False, False]  # the second step, and no other


@pytest.mark.slow
def test_workers_with_other_flags_are_told_so(tmp_path):
    both = ends(*start_workers(tmp_path / "run", [], ["--seed=1"]))
    for status, _, error in both:
        assert status == 2
        (line,) = error.splitlines()
        assert "worker 1 has --seed=1 where worker 0 has --seed=0" in line


@pytest.mark.slow
def test_a_worker_whose_partner_never_comes_says_so_and_ends(tmp_path):
    chief, other = start_workers(tmp_path / "run", ["--worker_timeout=2"], [])
    other.kill()
    ((status, _, error),) = ends(chief)
    assert status == 2 and "worker 1 (localhost:" in error and "within 2 seconds" in error
    assert len(error.splitlines()) == 1 and not (tmp_path / "run").exists()
    ends(other)


@pytest.mark.slow
def test_workers_that_do_not_see_one_workdir_are_told_so(tmp_path):
    chief, other = (tmp_path / name / "run" for name in ("here", "there"))
    for place in (chief, other):
        place.parent.mkdir()
    configs = cluster(2)
    both = [
        start(workdir, "--strategy=multi_worker", tf_config=config)
        for workdir, config in zip((chief, other), configs, strict=True)
    ]
    for status, _, error in ends(*both):
        assert status == 2 and "a workdir that all of them see" in error.splitlines()[-1], error
    assert not (chief / "checkpoints").exists() and not other.exists()


def wait_for_steps(workdir, *processes, beyond=-1):
    deadline = time.monotonic() + 400
    while (checkpoints.newest_step(workdir / "checkpoints") or -1) <= beyond:
        assert all(one.poll() is None for one in processes) and time.monotonic() < deadline
        time.sleep(0.1)


LONG = ["--epochs=2000", "--checkpoint_every=5", "--gradient_accumulation=1"]


@pytest.mark.slow
def test_both_workers_end_with_the_signal_that_both_were_sent(tmp_path):
    both = start_workers(tmp_path / "run", LONG, LONG)
    wait_for_steps(tmp_path / "run", *both)
    for one in both:
        one.send_signal(signal.SIGTERM)
    for status, _, error in ends(*both):
        assert status == 143, error
        assert "stopped by SIGTERM" in error and "Traceback" not in error


EPOCHS = ["--epochs=3", "--test_steps=0"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    both = ends(*start_workers(workdir, EPOCHS, EPOCHS))
    assert [status for status, *_ in both] == [0, 0], both
    return state(workdir)


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_worker_stops_all_at_one_step_and_the_rest_is_as_if_it_never_came(
    told, uninterrupted, tmp_path
):
    workdir = tmp_path / "run"
    both = start_workers(workdir, EPOCHS, EPOCHS)
    wait_for_steps(workdir, *both)
    both[told].send_signal(signal.SIGTERM)
    (status, _, said), (other_status, _, other_said) = ends(*both)
    assert (status, other_status) == (143, 143) and said == other_said, (said, other_said)
    step = int(
        re.search(rf"SIGTERM to worker {told} after step (\d+); the state is saved", said)[1]
    )
    assert step == checkpoints.newest_step(workdir / "checkpoints") < 30
    both = ends(*start_workers(workdir, EPOCHS, EPOCHS))
    assert [status for status, *_ in both] == [0, 0], both
    found = state(workdir)
    assert found.keys() == uninterrupted.keys()
    for name, value in uninterrupted.items():
        np.testing.assert_array_equal(found[name], value, name)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
def test_a_killed_worker_and_a_signal_later_change_no_weight_however_many_workers_there_are(
    number, tmp_path
):
    def started(name):
        return start_workers(tmp_path / name, *[EPOCHS] * number)

    assert [status for status, *_ in ends(*started("whole"))] == [0] * number
    run = started("run")
    wait_for_steps(tmp_path / "run", *run)
    run[number - 1].kill()
    *others, (status, _, _) = ends(*run)
    assert status == -signal.SIGKILL
    for status, _, error in others:
        assert status == 2 and "another worker is gone" in error, error
    killed = checkpoints.newest_step(tmp_path / "run" / "checkpoints")
    run = started("run")
    wait_for_steps(tmp_path / "run", *run, beyond=killed)
    run[1].send_signal(signal.SIGTERM)
    for status, _, error in ends(*run):
        assert status == 143 and "SIGTERM to worker 1 after step" in error, error
    assert [status for status, *_ in ends(*started("run"))] == [0] * number
    expected, found = state(tmp_path / "whole"), state(tmp_path / "run")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, name)


@pytest.mark.slow
def test_a_run_goes_from_replicas_to_workers_and_back(tmp_path):
    """Two of each learn the same but for rounding."""
    replicas = ["--strategy=mirrored", "--logical_cpus=2", *EPOCHS]
    ((status, _, error),) = ends(start(tmp_path / "whole", *replicas))
    assert status == 0, error

    def until_saved(*processes, beyond=-1):
        wait_for_steps(tmp_path / "run", *processes, beyond=beyond)
        processes[0].send_signal(signal.SIGTERM)
        results = ends(*processes)
        assert {status for status, *_ in results} == {143}, results
        return checkpoints.newest_step(tmp_path / "run" / "checkpoints"), results[0][2]

    step, _ = until_saved(start(tmp_path / "run", *replicas))
    step, said = until_saved(*start_workers(tmp_path / "run", EPOCHS, EPOCHS), beyond=step)
    assert "--strategy=mirrored became --strategy=multi_worker" in said
    ((status, _, error),) = ends(start(tmp_path / "run", *replicas))
    assert status == 0 and "--strategy=multi_worker became --strategy=mirrored" in error, error
    expected, found = state(tmp_path / "whole"), state(tmp_path / "run")
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    ours, theirs = (
        json.loads((tmp_path / name / "metrics.json").read_text())["history"]
        for name in ("run", "whole")
    )
    assert len(ours) == len(theirs) == 3
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=1e-3)


@pytest.mark.slow
def test_a_cluster_that_shrinks_goes_on(tmp_path):
    run = start_workers(tmp_path / "run", *[EPOCHS] * 4)
    wait_for_steps(tmp_path / "run", *run)
    run[2].send_signal(signal.SIGTERM)
    assert {status for status, *_ in ends(*run)} == {143}
    run = start_workers(tmp_path / "run", *[["--batch_size=129", *EPOCHS]] * 2)
    for status, _, error in ends(*run):
        assert status == 2 and "a batch of 129 cannot be cut" in error.splitlines()[-1], error
    both = ends(*start_workers(tmp_path / "run", EPOCHS, EPOCHS))
    assert [status for status, *_ in both] == [0, 0], both
    assert len(json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]) == 3


@pytest.mark.slow
def test_a_worker_whose_partner_hangs_ends_within_half_a_minute_of_a_signal(tmp_path):
    chief, other = start_workers(tmp_path / "run", LONG, LONG)
    wait_for_steps(tmp_path / "run", chief, other)
    chief.send_signal(signal.SIGSTOP)
    time.sleep(2)  # the step begun waits for the chief now
    other.send_signal(signal.SIGTERM)
    start = time.monotonic()
    ((status, _, error),) = ends(other)
    assert status == 143 and time.monotonic() - start < 60, error
    # Whether TensorFlow's heartbeat notices first, or the thread that watches the signal.
    assert "; the newest checkpoint is that of step" in error and "Traceback" not in error
    chief.kill()
    ends(chief)


@pytest.mark.slow
def test_a_worker_whose_chief_has_ended_says_so_in_one_line(tmp_path):
    (tmp_path / "letter.txt").write_text("not a run")
    (status, _, error), (other_status, _, other_error) = ends(*start_workers(tmp_path, [], []))
    assert (status, other_status) == (2, 2), other_error
    assert "holds files but no run" in error
    assert "another worker is gone" in other_error.splitlines()[-1]
    assert "Traceback" not in other_error


@pytest.mark.parametrize(
    ("tf_config", "said"),
    [
        (None, "KeyError: 'TF_CONFIG'"),
        ("{", "JSONDecodeError"),
        ('{"cluster": {"worker": ["localhost:1"]}}', "KeyError: 'task'"),
        (
            '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 1}}',
            "no worker",
        ),
        (
            '{"cluster": {"chief": ["localhost:1"], "worker": ["localhost:2"]},'
            ' "task": {"type": "worker", "index": 0}}',
            "beside workers there is chief",
        ),
    ],
)
def test_no_or_a_wrong_cluster_is_refused_with_what_is_needed(monkeypatch, tf_config, said):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if tf_config is not None:
        monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(ValueError, match=f"TF_CONFIG .*{said}.*its own index"):
        distribution.strategy("multi_worker")
