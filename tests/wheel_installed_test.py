"""`pip install .` in a clean environment: the commands work from another folder, on every Python.

The interpreters are those called python3.10 to python3.13 on the PATH. Each environment downloads
or takes from pip's cache what requirements.txt names, has 2 GB and is deleted at the end.
"""

import json
import os
import shutil
import subprocess

import pytest

from sat_tf.quiet import COMMANDS
from tests.wheel_test import copied

pytestmark = pytest.mark.slow

VERSIONS = ("3.10", "3.11", "3.12", "3.13")
TINY = ("--epochs=1", "--warmup_epochs=0.5", "--validation_steps=1", "--test_steps=2")


def interpreter(version):
    """The path of a Python that runs, or None: a version manager has names for others too."""
    path = shutil.which(f"python{version}")
    code = "import sys; print(sys.version_info[:2])"
    if path is None:
        return None
    said = subprocess.run([path, "-c", code], capture_output=True, text=True).stdout.strip()
    return path if said == str(tuple(map(int, version.split(".")))) else None


@pytest.fixture(scope="module", params=VERSIONS)
def project(request, tmp_path_factory):
    """A folder of another project, under git, with an environment that has the package."""
    python = interpreter(request.param)
    if python is None:
        pytest.skip(f"python{request.param} is not on the PATH")
    folder = tmp_path_factory.mktemp("project")
    subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
    person = ["-c", "user.name=A", "-c", "user.email=a@b"]
    for order in (["init", "-q"], [*person, "commit", "-q", "--allow-empty", "-m", "A"]):
        subprocess.run(["git", "-C", str(folder), *order], check=True)
    checkout = copied(tmp_path_factory.mktemp("checkout"))
    done = run(folder, "pip", "install", "--no-compile", checkout, timeout=3600)
    assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)


def run(folder, command, *arguments, timeout=600):
    """Runs a command of the environment, as a user's shell would, in the folder."""
    environment = os.environ.copy()
    for name in ("PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL"):
        environment.pop(name, None)
    return subprocess.run(
        [folder / "venv" / "bin" / command, *arguments], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def good(*command):
    """The output of a command that ends well and has nothing to complain of."""
    done = run(*command)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def refused(*command):
    done = run(*command)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_the_commands_train_evaluate_and_export_from_another_folder(project):
    assert "sat-train" in good(project, "python", "-m", "sat_tf")
    train = ("--activation=swish", *TINY)
    assert "runs/digits/test_pgd_2.json" in good(project, "sat-train", *train)
    # python -m goes on where the command was, with the same flags, and finds nothing to do.
    again = good(project, "python", "-m", "sat_tf.train", *train)
    assert "already trained and tested" in again
    metrics = json.loads((project / "runs/digits/metrics.json").read_text())
    assert metrics["commit"] is None  # the folder's repository is not the package's
    asked = ("--workdir=runs/digits", "--attacks=pgd-2", "--num_images=64")
    assert "runs/digits/report" in good(project, "sat-evaluate", *asked)
    (report,) = (project / "runs/digits").glob("report*.json")
    assert json.loads(report.read_text())["flags"]["num_images"] == 64
    robust = ("--network=zoo:digits_resnet8_swish", "--attacks=pgd-2", "--num_images=64")
    assert "report_zoo-digits_resnet8_swish" in good(project, "sat-evaluate", *robust)
    export = ("--workdir=runs/digits", "--directory=serving/digits")
    out = good(project, "sat-export", *export)
    assert "serving/digits/1 (verified in a fresh process)" in out
    out = good(project, "python", "-m", "sat_tf.export.saved_model", *export)
    assert "serving/digits/2 (verified in a fresh process)" in out


def test_recipes_are_found_by_name_and_own_modules_in_the_current_folder(project):
    named = ("--flagfile=digits", *TINY, "--workdir=runs/by_name")
    assert "runs/by_name/test_pgd_2.json" in good(project, "sat-train", *named)
    assert "cifar10/relu, " in refused(project, "sat-train", "--flagfile=cifar")
    code = "import keras\n\n\ndef soft(x):\n    return keras.ops.silu(x)\n"
    (project / "mine.py").write_text(code)
    for start in (["sat-train"], ["python", "-m", "sat_tf.train"]):
        workdir = f"runs/{start[0]}"
        own = ("--activation=mine:soft", *TINY, f"--workdir={workdir}", "--test_steps=0")
        good(project, *start, *own)
        assert (project / workdir / "network.keras").is_file()
    asked = ("--network=runs/python/network.keras", "--dataset=digits", "--epsilon=32")
    good(project, "sat-evaluate", *asked, "--attacks=pgd-1", "--num_images=8")


def test_errors_and_help_name_the_command_and_no_name_leaks(project):
    assert refused(project, "sat-convert").startswith("sat-convert: --checkpoint is missing")
    unknown = refused(project, "sat-train", "--lr=1")
    assert unknown.startswith("sat-train: there is no flag --lr")
    assert "sat_tf[serving]" in refused(project, "sat-client", "--status")
    for command in COMMANDS:
        assert f"\n    {command} --" in good(project, command, "--help")
    for name in ("flags", "export", "benchmarks", "tests"):
        assert f"No module named '{name}'" in run(project, "python", "-c", f"import {name}").stderr
