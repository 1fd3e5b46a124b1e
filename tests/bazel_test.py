"""Bazel, where it is installed, builds BUILD, runs tests and trains."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
BAZEL = shutil.which("bazel")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BAZEL, reason="no bazel in PATH (Debian: apt install bazel-bootstrap)"),
]


@pytest.fixture(scope="module")
def bazel():
    """Runs a command of Bazel and returns what it printed."""

    def run(command, *arguments, folder=ROOT):
        done = subprocess.run(
            [BAZEL, command, *arguments], cwd=folder, env=os.environ | {"PYTHON": sys.executable},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    yield run
    run("shutdown")


def test_everything_builds_and_no_file_hides_another(bazel):
    assert "obscured" not in bazel("build", "//...")


def test_tests_that_read_files_start_programs_or_have_nothing_to_run_pass(bazel):
    names = ("architecture", "benchmarks_studies", "attacks_reference_autoattack")
    bazel("test", *(f"//:{name}_test" for name in names))


def test_a_program_finds_and_leaves_files_where_it_was_asked_for(bazel, tmp_path):
    workdir = os.path.relpath(tmp_path / "run", ROOT / "docs")
    bazel(
        "run", "//:train", "--", "--flagfile=../flags/recipes/digits.flags", "--activation=gelu",
        "--epochs=1", "--warmup_epochs=0", "--test_steps=0", "--threads=1", f"--workdir={workdir}",
        folder=ROOT / "docs",
    )  # fmt: skip
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (tmp_path / "run" / "network.keras").is_file()
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True)
    assert bool(metrics["commit"]) == (git.returncode == 0)
