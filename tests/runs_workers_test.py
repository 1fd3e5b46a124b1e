"""A worker that is told to stop ends, whatever another one does."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.callbacks.checkpoint import Checkpoint
from sat_tf.runs import Interrupted, checkpoints, distribution, meeting, workers


@contextlib.contextmanager
def remembering(*numbers):
    """Takes signals as the callback does: a Python handler that only notes them."""
    seen = []
    before = {one: signal.signal(one, lambda number, _: seen.append(number)) for one in numbers}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_hangs_ends_a_while_after_the_signal(number, capsys):
    left, gone = [], threading.Event()

    def leave(status):
        left.append(status)
        gone.set()

    with remembering(number), workers.ending_within(0.1, lambda: "80 is saved", leave) as heard:
        os.kill(os.getpid(), number)
        assert gone.wait(20)
        assert heard == [number]
    assert left == [128 + number]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{signal.Signals(number).name} came 0.1 seconds ago")
    assert line.endswith("80 is saved")


def test_a_worker_that_ends_in_time_is_left_alone(capsys):
    left = []
    with remembering(signal.SIGTERM), workers.ending_within(60, str, left.append) as heard:
        os.kill(os.getpid(), signal.SIGTERM)
        while not heard:
            pass
    with workers.ending_within(60, str, left.append) as heard:
        pass  # no signal at all
    assert heard == [] and left == [] and capsys.readouterr().err == ""
    assert signal.set_wakeup_fd(-1) == -1


def test_another_signal_that_python_handles_ends_no_worker():
    with remembering(signal.SIGUSR1, signal.SIGTERM), workers.ending_within(60, str) as heard:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        while not heard:
            pass
        assert heard == [signal.SIGTERM]


class OtherWorkers:
    """A strategy whose process is one of two, and not the chief."""

    extended = types.SimpleNamespace(should_checkpoint=False)


@pytest.mark.parametrize("how", ["Unavailable", "Aborted", "DeadlineExceeded"])
@pytest.mark.parametrize("stop", [None, signal.SIGTERM])
def test_another_worker_that_is_gone_is_the_answer_to_a_signal_or_an_error(
    stop, how, tmp_path, monkeypatch
):
    monkeypatch.setattr(distribution, "agree", lambda *_: None)
    monkeypatch.setattr(distribution, "has_workers", lambda _: True)
    variable = keras.Variable(np.zeros(1, np.float32), name="weight")
    checkpoints.save(tmp_path / "checkpoints", 80, [variable], {})
    kind, said = ConnectionError, "another worker is gone"
    if stop is not None:
        kind, said = Interrupted, "by SIGTERM; the newest checkpoint is that of step 80"
    with remembering(signal.SIGTERM) as seen, pytest.raises(kind, match=said) as error:
        with workers.claim(OtherWorkers, tmp_path, [], False):
            if stop is not None:
                os.kill(os.getpid(), stop)
                while not seen:
                    pass
                time.sleep(0.3)  # the thread hears of it, too
            raise getattr(tf.errors, f"{how}Error")(None, None, "connection closed")
    if stop is not None:
        assert error.value.signal_number == stop


def test_an_error_of_the_store_is_no_worker_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(distribution, "agree", lambda *_: None)
    monkeypatch.setattr(distribution, "has_workers", lambda _: True)
    with (
        pytest.raises(tf.errors.UnavailableError),
        workers.claim(OtherWorkers, tmp_path, [], False),
    ):
        raise tf.errors.UnavailableError(None, None, "gs://bucket/run does not answer")


@pytest.mark.parametrize("chief", [True, False])
def test_all_workers_stop_after_one_step_once_it_is_saved_whichever_was_told_to(
    chief, tmp_path, monkeypatch
):
    variable = keras.Variable(np.zeros(1, np.float32), name="weight")
    model = types.SimpleNamespace(
        network=types.SimpleNamespace(variables=[variable]), state=[variable],
        distribute_strategy=None, stop_training=False, best_network=None,
    )  # fmt: skip
    keeper = Checkpoint(tmp_path, {"history": [], "best": None}, steps_per_epoch=100)
    monkeypatch.setattr("sat_tf.callbacks.checkpoint._sums", lambda *_: None)
    monkeypatch.setattr(distribution, "is_chief", lambda _: chief)
    monkeypatch.setattr(distribution, "has_workers", lambda _: True)
    keeper.set_model(model)
    asked, waited = [], []

    def of_all(_, number):
        asked.append(number)
        return [0, signal.SIGTERM if len(asked) == 3 else 0, number]

    def agree(_, number, what):
        waited.append((number, checkpoints.newest_step(tmp_path / "checkpoints")))

    monkeypatch.setattr(distribution, "of_all", of_all)
    monkeypatch.setattr(distribution, "agree", agree)
    for batch in range(2):
        keeper.on_train_batch_end(batch)
    with keeper.handling_signals():
        signal.raise_signal(signal.SIGINT)
        keeper.on_train_batch_end(99)  # an epoch's last step waits for its validation
        said = "stopped by SIGTERM to worker 1, 2 after step 3; the state is saved, and the same"
        with pytest.raises(Interrupted, match=said) as stop:
            keeper.on_train_batch_end(2)
    assert stop.value.signal_number == signal.SIGTERM
    assert asked == [0, 0, signal.SIGINT] and waited == [(3, 3 if chief else None)]


def test_workers_meet_before_tensorflow_connects_them_and_die_of_signals_meanwhile(monkeypatch):
    noted, kept = [], []

    @contextlib.contextmanager
    def killed_after(*given):
        kept.append((*given, len(noted)))
        yield
        kept.append(len(noted))

    monkeypatch.setattr(workers, "killed_after", killed_after)
    monkeypatch.setattr(distribution, "cluster", lambda: (["a:1", "b:2"], 1))
    monkeypatch.setattr(meeting, "meet", lambda *arguments: noted.append(arguments))

    def connect(name):
        noted.append([signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as TensorFlow does
        return name

    monkeypatch.setattr(distribution, "strategy", connect)
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    settings = ["--seed=0\n", "--workdir=here\n", "--worker_timeout=9.0\n"]
    assert workers.strategy("multi_worker", settings, 9.0) == "multi_worker"
    assert noted == [(["a:1", "b:2"], 1, ["--seed=0"], 9.0), [signal.SIG_DFL] * 2]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    # The time of both, as the first waits in TensorFlow for the second.
    assert kept == [(9.0, "the other workers of ['a:1', 'b:2'] met and did not connect", 1), 2]
    monkeypatch.setattr(distribution, "strategy", str)
    assert workers.strategy("one_device", settings, 9.0) == "one_device" and len(noted) == 2


class OfTwoDevices(tf.distribute.MultiWorkerMirroredStrategy):
    """A strategy of workers that have two devices each, and this process is the first."""

    extended = types.SimpleNamespace(worker_devices=("a", "b"), should_checkpoint=True)
    num_replicas_in_sync = 2

    def __init__(self, workers):
        self.num_replicas_in_sync = 2 * workers


def test_every_worker_gives_one_number_however_many_devices_it_has(monkeypatch):
    gathered = iter([[7, 7, 9, 9], [5, 5, 5, 5]])
    monkeypatch.setattr(
        distribution, "_gathered", lambda strategy: lambda number: tf.constant(next(gathered))
    )
    alone, both = OfTwoDevices(1), OfTwoDevices(2)
    assert [distribution.has_workers(one) for one in (alone, both)] == [False, True]
    assert not distribution.has_workers(distribution.strategy("mirrored"))
    assert distribution.of_all(alone, 3) == [3] and distribution.of_all(both, 7) == [7, 9]
    distribution.agree(both, 5, "it")


def test_the_workdir_is_claimed_once_all_have_the_flags_that_must_agree(monkeypatch, tmp_path):
    noted = []

    @contextlib.contextmanager
    def claim(*given):
        noted.append(given)
        yield

    def ending_within(grace, last_words):
        noted.append((grace, last_words()))
        return contextlib.nullcontext([])

    monkeypatch.setattr(workers, "ending_within", ending_within)
    monkeypatch.setattr(workers.workdir, "claim", claim)
    monkeypatch.setattr(distribution, "agree", lambda _, *given: noted.append(given))
    (tmp_path / "flags.txt").write_text("--seed=3\n")
    settings = ["--seed=3\n", "--workdir=here\n"]
    with workers.claim(OfTwoDevices(2), tmp_path, settings, True, ["--seed=0\n"]) as path:
        assert path == tmp_path
    assert noted == [
        (tmp_path, settings, True, ["--seed=0\n"]),
        (30.0, "nothing was saved yet"),  # seconds after a signal, as docs/scaling.md says
        (zlib.crc32(b"--seed=3"), "their flags (checksums)"),  # a workdir may differ
        (zlib.crc32(b"--seed=3\n"), f"the flags.txt in {tmp_path} (checksums)"),
    ]


def test_devices_that_there_are_not_are_refused_in_words(monkeypatch):
    def connect():
        raise ValueError("nothing answers")

    monkeypatch.setattr(tf.distribute.cluster_resolver.TPUClusterResolver, "connect", connect)
    with pytest.raises(ValueError, match=r"no TPU was found \(nothing answers\); set TPU_NAME"):
        distribution.strategy("tpu")
    with pytest.raises(ValueError, match="the number of logical CPUs is 0; give at least 1"):
        distribution.split_cpu(0)
    tf.config.list_logical_devices()  # starts TensorFlow
    with pytest.raises(ValueError, match="the CPU cannot be split any more: "):
        distribution.split_cpu(7)


def test_a_cluster_is_read_from_the_environment(monkeypatch):
    workers_of_two = '{"worker": ["localhost:1", "localhost:2"]}'
    monkeypatch.setenv(
        "TF_CONFIG", f'{{"cluster": {workers_of_two}, "task": {{"type": "worker", "index": 1}}}}'
    )
    assert distribution.cluster() == (["localhost:1", "localhost:2"], 1)
    for index in (2, -1):
        task = f'{{"type": "worker", "index": {index}}}'
        monkeypatch.setenv("TF_CONFIG", f'{{"cluster": {workers_of_two}, "task": {task}}}')
        with pytest.raises(ValueError, match="no worker"):
            distribution.cluster()


def test_workers_part_over_every_weight_they_learnt(monkeypatch):
    numbers = []
    monkeypatch.setattr(distribution, "has_workers", lambda _: True)
    monkeypatch.setattr(distribution, "agree", lambda _, number, what: numbers.append(number))
    weights = [np.zeros(2, np.float32), np.ones(3, np.float32), np.full(1, 5, np.float32)]
    for changed in (None, None, 0, 1, 2):
        mine = [weight + (index == changed) for index, weight in enumerate(weights)]
        workers.part(None, types.SimpleNamespace(get_weights=lambda mine=mine: mine))
    assert numbers[0] == numbers[1] and len(set(numbers)) == 4


def test_a_process_that_holds_python_too_long_is_killed_with_a_line_and_a_quick_one_is_not():
    code = """
import ctypes
from sat_tf.runs import workers
with workers.killed_after(60, "nobody connected"):
    pass
print("went on", flush=True)
with workers.killed_after(0.5, "nobody connected"):
    ctypes.PyDLL(None).sleep(100)  # unlike CDLL it keeps Python's lock
"""
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=90
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "went on\n")
    assert done.stderr.splitlines()[-1] == (
        "nobody connected within 0.5 seconds; this worker ends: start all of them again"
    )


def test_workers_compare_the_very_settings_that_are_in_their_workdir(tmp_path):
    seen = [workers._seen(tmp_path)]
    for text in ("--epsilon=8", "--epsilon=4"):
        (tmp_path / "flags.txt").write_text(text)
        seen.append(workers._seen(tmp_path))
    assert seen[0] == 0 and len(set(seen)) == 3
    (tmp_path / "flags.txt").write_text("--epsilon=8")
    assert workers._seen(tmp_path) == seen[1]
