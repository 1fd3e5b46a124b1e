"""Programs in processes of their own, forked from one that has imported what they need.

Python, TensorFlow and Keras take six seconds of processor time to import, a fork takes none, and
what runs is the program all the same: its arguments, streams, signals and exit status are real.
"""

import contextlib
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent


class Parent:
    """The process that is forked; it starts no TensorFlow, as threads do not survive a fork."""

    def __init__(self):
        # As in a user's shell, where TensorFlow's banner is ours to keep back; and one thread.
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "OPENBLAS_NUM_THREADS": "1"}
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests import forks; forks.serve()"],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, order):
        """Sends an order to `serve` and returns its answer."""
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, program, *arguments):
        """Starts `python -m program arguments`, or `python -c code arguments` for "-c"."""
        return Fork(self, {"program": program, "arguments": [str(one) for one in arguments]})

    def run(self, program, *arguments):
        """Runs what `start` starts to its end; returns its status, stdout and stderr."""
        fork = self.start(program, *arguments)
        out, err = fork.communicate()
        return fork.returncode, out, err

    def close(self):
        """Ends the process and, with it, whatever it still runs."""
        self._process.communicate()


class Fork:
    """A running program, after the pattern of `subprocess.Popen`."""

    def __init__(self, parent, order):
        self._parent, self.returncode = parent, None
        self._files = [tempfile.NamedTemporaryFile(mode="r") for _ in range(2)]
        self.pid = parent.ask(order | {"files": [file.name for file in self._files]})

    def poll(self):
        """Returns the exit status, minus the signal's number, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._parent.ask({"pid": self.pid})
        return self.returncode

    def send_signal(self, number):
        """Sends a signal to the program, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout=300):
        """Waits for the end; returns what was written to stdout and stderr."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.02)
        with contextlib.ExitStack() as files:
            return [files.enter_context(file).read() for file in self._files]


def serve():
    """Forks a program for every order on stdin and says how it is, until stdin ends."""
    _import()
    running = set()
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        if "pid" in order:
            pid, status = os.waitpid(order["pid"], os.WNOHANG)
            running -= {pid}
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif answer := os.fork():
            running.add(answer)
        else:
            return _become(**order)
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _import():
    import sklearn.datasets  # noqa: F401

    import sat_tf.callbacks  # noqa: F401
    import sat_tf.evaluation.session  # noqa: F401
    import sat_tf.loading  # noqa: F401
    import sat_tf.training.recipe  # noqa: F401

    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a process with several threads cannot be forked")


def _become(program, arguments, files):
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if program == "-c":
        code, *rest = arguments
        sys.argv, sys.orig_argv = ["-c", *rest], [sys.executable, "-c", *arguments]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.orig_argv = [program, *arguments], [sys.executable, "-m", program, *arguments]
        runpy.run_module(program, run_name="__main__", alter_sys=True)
