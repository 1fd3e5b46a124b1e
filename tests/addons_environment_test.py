"""TensorFlow Addons in environments made for it: ours, and the one that it was written for."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import venv

import numpy as np
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.version_info >= (3, 12), reason="tensorflow-addons has wheels up to Python 3.11"
    ),
]
ROOT = pathlib.Path(__file__).parent.parent
FLAGS = (
    "--activation=tfa:rrelu", "--optimizer=tfa:Lookahead(tfa:LAMB):sync_period=4",
    "--learning_rate=0.02", "--epochs=2", "--batch_size=64", "--test_steps=0",
    "--checkpoint_every=2", "--picture_grid=0",
)  # fmt: skip
SPECS = {
    "gelu": {}, "hardshrink": {"lower": -0.25, "upper": 0.75}, "lisht": {}, "mish": {},
    "rrelu": {"lower": 0.1, "upper": 0.5}, "snake": {"frequency": 2.0},
    "softshrink": {"lower": -1.5, "upper": 0.5}, "tanhshrink": {},
}  # fmt: skip
# Prints the values and derivatives of all of them.
VALUES = """
import json, sys
import tensorflow as tf
{how}
specs = json.loads(sys.argv[1])
x = tf.concat([tf.linspace(-8.0, 8.0, 1000), [0.0]], 0)
found = {{}}
for name, parameters in specs.items():
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(name, parameters)(x)
    found[name] = [y.numpy().tolist(), tape.gradient(y, x).numpy().tolist()]
print(json.dumps(found))
"""
OURS = "from sat_tf.addons.activations import function_of as function"
THEIRS = """
import tensorflow_addons as tfa
function = lambda name, parameters: lambda x: getattr(tfa.activations, name)(x, **parameters)
"""


def environment(folder, *packages):
    """Makes an environment and returns its Python."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--no-compile", *packages]
    subprocess.run(pip, cwd=ROOT, check=True)
    return python


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Python of an environment as docs/addons.md makes it."""
    folder = tmp_path_factory.mktemp("ours")
    yield environment(folder, "-r", "requirements-addons.txt", "pytest")
    shutil.rmtree(folder)


def ran(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def quiet():
    return os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def test_no_test_of_addons_is_left_out(ours):
    files = [str(one) for one in sorted(ROOT.glob("tests/addons_*_test.py"))]
    told = ran(ours, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert " passed" in told and " skipped" not in told


def arrays(workdir):
    with np.load(max(workdir.glob("checkpoints/*.npz"))) as file:
        return {name: file[name] for name in file.files if name != "record.json"}


def test_a_killed_run_ends_in_the_same_bits(ours, tmp_path):
    whole, killed = (
        [ours, "-m", "sat_tf.train", *FLAGS, f"--workdir={tmp_path / name}"]
        for name in ("whole", "killed")
    )
    ran(*whole)
    process = subprocess.Popen(killed, cwd=ROOT, env=quiet(), stdout=subprocess.DEVNULL)
    seen = tmp_path / "killed" / "checkpoints" / "step_000000014.npz"
    while not seen.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert "continues after step" in ran(*killed)
    one, other = arrays(tmp_path / "whole"), arrays(tmp_path / "killed")
    assert one.keys() == other.keys() and any("Lookahead_slow" in name for name in one)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_activations_agree_with_the_stack_that_addons_was_written_for(ours, tmp_path):
    packages = ("tensorflow==2.15.1", "tensorflow-addons==0.23.0")
    theirs = environment(tmp_path / "theirs", *packages)
    versions = "import keras, tensorflow as tf; print(tf.__version__, keras.__version__)"
    assert ran(theirs, "-c", versions) == "2.15.1 2.15.0\n"
    one, other = (
        json.loads(ran(python, "-c", VALUES.format(how=how), json.dumps(SPECS)))
        for python, how in ((ours, OURS), (theirs, THEIRS))
    )
    assert one.keys() == other.keys() == SPECS.keys()
    for name in SPECS:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-5, err_msg=name)
