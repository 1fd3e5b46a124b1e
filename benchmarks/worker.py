"""A contender of a benchmark, alone in its process; `processes` starts it.

    python -m benchmarks.worker

It reads its job as a line of JSON, makes what is measured, and answers every further line, the name
of a case, with what a round of that case took. It imports what its contender imports: PyTorch and
TensorFlow, which cannot live in one process (both bring LLVM, whose options may be registered
once), never meet.
"""

import importlib
import json
import os
import signal
import sys
import traceback
import types
from collections.abc import Callable, Iterable


def serve(job: dict, lines: Iterable[str], say: Callable[[dict], None]) -> None:
    """Makes the contender and runs a round for every line.

    Args:
      job: "module", whose `contender(name, folder, given)` returns cases by name, and the three
        arguments; `given` are flags by name.
      lines: names of cases.
      say: sends an answer: {"cases": [names]}, then a `timing.Seconds` as an object for every
        line; or {"lost": why}, the last one.
    """
    try:
        make = importlib.import_module(job["module"]).contender
        cases = make(job["name"], job["folder"], types.SimpleNamespace(**job["given"]))
        say({"cases": list(cases)})
        for line in lines:
            say(cases[line.rstrip("\n")]()._asdict())
    except ModuleNotFoundError as error:
        say({"lost": f"{error.name} is not installed"})
    except ValueError as error:
        say({"lost": str(error)})
    except Exception as error:
        traceback.print_exc()
        say({"lost": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"})


def main() -> None:
    """Speaks with the program that started it until that closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program that started it ends it
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)  # libraries print
        job = json.loads(sys.stdin.readline())
        serve(job, sys.stdin, lambda answer: print(json.dumps(answer), file=answers))


if __name__ == "__main__":
    main()
