"""A contender lives alone in its process, and what becomes of it is told in a line."""

import importlib.util
import os
import subprocess
import sys
import time

import pytest

from benchmarks import processes, timing
from sat_tf import quiet

# Contenders that this test asks for by the name of their module.
MODULES = {
    "busy": """
import sys, time
from benchmarks import timing

def contender(name, folder, given):
    print("what libraries print is no answer")

    def run():
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        time.sleep(0.2)
        return {"name": name, "factor": given.factor, "tensorflow": "tensorflow" in sys.modules}

    return {"runs": timing.of_call(run), "fails": lambda: 1 / 0}
""",
    "absent": "import no_such_package",
    "refuses": "def contender(*_): raise ValueError('another network')",
    "aborts": """
import os, sys

def contender(name, folder, given):
    def die():
        print("LLVM ERROR: inconsistency", file=sys.stderr, flush=True)
        print("and where", file=sys.stderr, flush=True)
        os.abort()

    return {"aborts": die}
""",
}


@pytest.fixture
def started(tmp_path, monkeypatch):
    for name, text in MODULES.items():
        (tmp_path / f"{name}_contender.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda *names, **given: processes.started(
        {name: f"{name}_contender" for name in names}, str(tmp_path), given
    )


def test_a_round_is_measured_in_the_contender_s_own_process_which_has_no_tensorflow(started):
    with started("busy", factor=3) as (cases, lost):
        here = time.process_time()
        seconds = cases["runs"]()
        here = time.process_time() - here
    assert not lost
    assert seconds.result == {"name": "busy", "factor": 3, "tensorflow": False}
    assert 0.2 <= seconds.processor < 0.4 <= seconds.wall
    assert here < 0.1


def test_who_is_absent_refuses_or_dies_is_told_and_the_others_go_on(started):
    with started("absent", "aborts", "refuses", "busy", factor=1) as (cases, lost):
        assert list(cases) == ["aborts", "runs", "fails"]
        times = timing.interleaved(cases, 1, lost)
    assert list(times) == ["runs"]
    assert lost == {
        "absent": "no_such_package is not installed",
        "refuses": "another network",
        "aborts": "its process ended with SIGABRT: LLVM ERROR: inconsistency",
        "fails": "ZeroDivisionError: division by zero",
    }
    lines = processes.told(lost).splitlines()
    assert lines[1] == "not compared here: absent (no_such_package is not installed)"
    assert len(lines) == 1 + len(lost)


def test_no_process_outlives_the_benchmark(started):
    with pytest.raises(KeyboardInterrupt), started("busy", factor=1):
        children = _children()
        assert len(children) == 1
        raise KeyboardInterrupt
    assert not _children()


def _children():
    found = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return [line for line in found.stdout.splitlines() if "benchmarks.worker" in line]


def test_the_worker_starts_without_tensorflow():
    assert "benchmarks.worker" in quiet._WITHOUT_TENSORFLOW
    command = [sys.executable, "-X", "importtime", "-m", "benchmarks.worker"]
    done = subprocess.run(command, input="{}\n", capture_output=True, text=True, timeout=100)
    assert done.stdout.startswith('{"lost": "KeyError') and "tensorflow" not in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_pytorch_that_is_not_installed_is_named(tmp_path):
    jobs = {"PyTorch": "benchmarks.pytorch_steps", "PyTorch loop": "benchmarks.pytorch_attack"}
    with processes.started(jobs, str(tmp_path), {}) as (cases, lost):
        assert not cases
        assert lost == dict.fromkeys(jobs, "torch is not installed")
