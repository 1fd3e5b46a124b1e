"""Opening TensorFlow Addons leaves the process as it was."""

import subprocess
import sys

from tests.addons import installed

# Everything of the process that Addons could have changed, before and after it is opened.
PROGRAM = """
import os, sys, warnings
import keras, tensorflow as tf, tensorflow.keras.layers

tf.keras.Model  # TensorFlow loads it late

def state():
    keras_names = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "keras"}
    inside = {n: m for n, m in sys.modules.items() if n.startswith("tensorflow.keras")}
    same = (sys.modules["tensorflow"], tf.keras, tf.keras.Model, tf.keras.optimizers.SGD)
    return dict(os.environ), keras_names, inside, same, list(warnings.filters)

before, modules = state(), set(sys.modules)
from sat_tf.addons.opening import tensorflow_addons
addons = tensorflow_addons()
after = state()
for one, other in zip(before, after):
    assert one == other, set(one) ^ set(other)
assert tf.keras.Model is keras.Model and keras.version().startswith("3.")
new = {name.partition(".")[0] for name in set(sys.modules) - modules}
assert {"tensorflow_addons", "tf_keras"} <= new
assert not new & {"keras"}
import tf_keras
assert issubclass(addons.optimizers.LAMB, tf_keras.optimizers.legacy.Optimizer)
assert tensorflow_addons() is addons
print("as it was")
"""


@installed
def test_opening_leaves_keras_modules_environment_and_warnings_as_they_were():
    command = [sys.executable, "-W", "error::UserWarning", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "as it was\n", done.stderr
