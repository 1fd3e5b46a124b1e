"""Opens TensorFlow Addons beside Keras 3, when something of it is asked for and not before.

TensorFlow Addons 0.23, the last version, is written for Keras 2: it takes `tf.keras` for that and
imports a module that Keras 3 no longer has. Here it is imported with another module under the name
"tensorflow": TensorFlow itself, but its `keras` is tf_keras, which is Keras 2. Addons keeps that
module; `tf.keras` of the process, its environment and every other module stay what they were.
"""

import functools
import importlib
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import tensorflow as tf

_INSTALL = (
    "in a checkout of sat_tf pip install -r requirements-addons.txt, or '.[addons]' for both "
    "(Python 3.10 or 3.11)"
)


def legacy_keras() -> types.ModuleType:
    """Returns tf_keras, which is Keras 2.

    Raises:
      ValueError: as `tensorflow_addons`.
    """
    tensorflow_addons()
    return sys.modules["tf_keras"]


@functools.cache
def tensorflow_addons() -> types.ModuleType:
    """Returns TensorFlow Addons.

    Raises:
      ValueError: it or something that it needs is not installed or cannot be imported.
    """
    try:
        return _import()
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        raise ValueError(f"{missing} is not installed; to use tfa: names, {_INSTALL}") from error
    except Exception as error:  # whatever other versions do to each other
        raise ValueError(
            f"tensorflow-addons cannot be imported ({type(error).__name__}: {error}); install the "
            f"versions that belong together: {_INSTALL}"
        ) from error


def _import():
    if importlib.util.find_spec("tensorflow_addons") is None:
        raise ModuleNotFoundError(name="tensorflow-addons")
    legacy = importlib.import_module("tf_keras")
    tensor = importlib.import_module("tf_keras.src.engine.keras_tensor")
    names = {
        "tensorflow": _with_keras(legacy),
        "tensorflow.keras": legacy,
        "keras.src.engine": sys.modules["tf_keras.src.engine"],
        "keras.src.engine.keras_tensor": tensor,
    }
    with _standing_in(names), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its end and of newer TensorFlows, as the README says
        return importlib.import_module("tensorflow_addons")


def _with_keras(keras: types.ModuleType) -> types.ModuleType:
    """Makes a module that is TensorFlow, but for its `keras`."""
    view = types.ModuleType("tensorflow")
    vars(view).update(vars(tf), keras=keras)
    view.__getattr__ = functools.partial(getattr, tf)  # what TensorFlow itself loads late
    return view


@contextmanager
def _standing_in(names: Mapping[str, types.ModuleType]) -> Iterator[None]:
    """Lets modules stand under names for a while; then all is found there that was before."""

    def of_those():
        inside = ("tensorflow.keras.", "keras.src.engine.")
        return {n: m for n, m in sys.modules.items() if n in names or n.startswith(inside)}

    before = of_those()
    for name in before:
        del sys.modules[name]
    sys.modules.update(names)
    try:
        yield
    finally:
        for name in of_those():
            del sys.modules[name]
        sys.modules.update(before)
