"""Runs pytest on the files given: the main of Bazel's tests."""

import os
import sys

import pytest

if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for what tests start
    os.environ.setdefault("HOME", os.environ["TEST_TMPDIR"])
    status = pytest.main(["-p", "no:cacheprovider", *sys.argv[1:]])
    # A file whose tests are all slow, or lack a package, has none to run.
    sys.exit(0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else status)
