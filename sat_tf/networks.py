"""Networks from wherever they are: a run, a `.keras` file, a function."""

import hashlib
import importlib
import pathlib

import keras
import numpy as np


def load(source: str) -> keras.Model:
    """Loads a network that maps pixels to logits.

    Args:
      source: a run's directory (its `network.keras` is taken), a `.keras` file, or
        "module:function" for a function of no arguments that returns a Keras model.

    Raises:
      ValueError: nothing there, or not a network; the message says what was looked for.
    """
    path = pathlib.Path(source)
    if path.is_dir():
        return _load_file(path / "network.keras")
    if path.suffix == ".keras":
        return _load_file(path)
    if ":" in source:
        return _call(source)
    raise ValueError(
        f"network {source!r} is not there; give a run's directory, a .keras file or module:function"
    )


def weights_hash(network: keras.Model) -> str:
    """Computes the SHA-256 of all variables: path, dtype, shape and values, in order."""
    digest = hashlib.sha256()
    for variable in network.variables:
        value = np.asarray(variable.numpy())
        digest.update(f"{variable.path} {value.dtype} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _load_file(path):
    # Their layers register themselves with Keras on import, by which the file refers to them.
    import sat_tf.activations  # noqa: F401
    import sat_tf.models  # noqa: F401

    if not path.is_file():
        raise ValueError(f"{path} is not there; give a run that has finished, or a .keras file")
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise ValueError(f"{path} cannot be loaded as a Keras model: {error}") from error


def _call(source):
    module_name, _, function_name = source.partition(":")
    try:
        network = getattr(importlib.import_module(module_name), function_name)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"network {source!r} cannot be made: {error}") from error
    if not isinstance(network, keras.Model):
        raise ValueError(
            f"network {source!r} returned {type(network).__name__}; expected a keras.Model"
        )
    return network
