"""Tests with TensorFlow Addons where it is installed, and without it."""

import contextlib
import importlib.util
import sys

import pytest

from sat_tf.addons import opening

installed = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_addons") is None,
    reason="needs tensorflow-addons: pip install -r requirements-addons.txt",
)


@contextlib.contextmanager
def without_addons(monkeypatch):
    """Makes a process that has TensorFlow Addons, or has it not, one that has it not."""
    from sat_tf.activations import specs

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow_addons", None)
        for cached in (opening.tensorflow_addons, specs._try):
            cached.cache_clear()
        yield
    opening.tensorflow_addons.cache_clear()
