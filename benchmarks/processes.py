"""Gives every contender of a benchmark a process of its own, and its rounds through pipes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.timing import Case, Lost, Seconds
from sat_tf import quiet


@contextlib.contextmanager
def started(
    jobs: Mapping[str, str], folder: str, given: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Case], dict[str, str]]]:
    """Starts a process for every contender, one after the other, and ends them all.

    Args:
      jobs: {name: module whose `contender(name, folder, given)` returns its cases}.
      folder: where the contenders find what they share: `.npz` and `.keras` files.
      given: flags by name, as JSON has them.

    Yields:
      The cases of all contenders by name, in their order, and why a contender is lost, by name.
    """
    cases, lost = {}, {}
    with contextlib.ExitStack() as stack:
        for name, module in jobs.items():
            job = {"module": module, "name": name, "folder": folder, "given": dict(given)}
            try:
                with quiet.waiting(f"starting {name}"):
                    process = stack.enter_context(contextlib.closing(_Process(job)))
                cases |= {case: process.case(case) for case in process.cases}
            except Lost as error:
                lost[name] = str(error)
        yield cases, lost


class _Process:
    def __init__(self, job):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.log, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        try:
            self.cases = self._ask(json.dumps(job))["cases"]
        except BaseException:
            self.close()
            raise

    def case(self, name: str) -> Case:
        """Makes a case that has the process run a round of its case of that name."""
        return lambda: Seconds(**self._ask(name))

    def _ask(self, line):
        with contextlib.suppress(BrokenPipeError):  # of a process that is dead
            print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        found = json.loads(answer) if answer.endswith("\n") else {"lost": self._death()}
        if "lost" in found:
            raise Lost(found["lost"])
        return found

    def _death(self):
        status = self.process.wait()
        how = f"status {status}" if status >= 0 else signal.Signals(-status).name
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip().splitlines()
        errors = [line for line in said if "error" in line.lower()]
        line = (errors[:1] or said[-1:] or ["it said nothing"])[0]
        return f"its process ended with {how}: {line.strip()[:200]}"

    def close(self):
        """Ends the process, be it in the middle of something."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


def told(lost: Mapping[str, str]) -> str:
    """Returns a line for each contender that was lost, or an empty text."""
    return "".join(f"\nnot compared here: {name} ({why})" for name, why in lost.items())
