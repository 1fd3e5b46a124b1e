"""Every test process sees two logical CPUs, so that two replicas can be tested anywhere."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from tests import forks


def pytest_configure(config):
    """Starts TensorFlow, unless this process only shares out the tests (pytest-xdist)."""
    if config.getoption("numprocesses", None):
        return
    gc.disable()  # modules stay: there is no garbage in them to look for
    import tensorflow as tf

    # Must precede the first TensorFlow operation of the process.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)


def pytest_collection_finish():
    gc.enable()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def forked():
    """Starts programs in processes of their own without importing TensorFlow for each."""
    parent = forks.Parent()
    yield parent
    parent.close()
