"""Networks from wherever they are: a run, a file, the zoo, keras.applications, a function."""

import hashlib
import importlib
from typing import Any

import keras
import numpy as np

from sat_tf import models, zoo
from sat_tf.loading import applications, served
from sat_tf.loading.adapted import Adapted, adapt
from sat_tf.loading.chosen import Chosen, chosen
from sat_tf.loading.form import check_images, image_form
from sat_tf.loading.served import Served
from sat_tf.runs import places, sealed, workdir

__all__ = [
    "Adapted",
    "Chosen",
    "Served",
    "adapt",
    "check_images",
    "chosen",
    "class_names",
    "facts",
    "image_form",
    "load",
    "refuse_prepared",
    "weights_hash",
]


def load(source: str, *, download: bool = False) -> Any:
    """Loads a network that maps pixels to logits and takes `training`.

    Args:
      source: a run's directory (its `network.keras` is taken) or a `.keras` file, which may be in a
        store, as gs://bucket/run; a SavedModel or the directory of its versions (the highest is
        taken), "zoo:NAME" for a trained network that comes along (see `sat_tf.zoo`),
        "keras.applications:NAME" for the classifier of ImageNet with its weights (see
        `applications.build`), or "module:function" for a function of no arguments that returns a
        Keras model.
      download: whether Keras may fetch the weights of its applications.

    Returns:
      A Keras model, or a `Served` SavedModel.

    Raises:
      ValueError: nothing there, or not a network; the message says what was looked for.
    """
    # Their layers register themselves with Keras on import, by which a file refers to them, be it
    # read here or by a user's function; the activations of Addons are looked up by name.
    import sat_tf.activations  # noqa: F401
    import sat_tf.addons.activations  # noqa: F401
    import sat_tf.models  # noqa: F401

    path = places.of(zoo.located(source))
    if path.is_dir():
        saved = served.find(path)
        return _load_file(path / "network.keras") if saved is None else Served(saved)
    if path.suffix == ".keras":
        return _load_file(path)
    if source.startswith(applications.PREFIX):
        spec = source.removeprefix(applications.PREFIX)
        return applications.build(spec, weights="imagenet", download=download)
    if ":" in source and not places.is_remote(path):
        return _call(source)
    found = "is a file, but no .keras file" if path.exists() else "is not there"
    raise ValueError(
        f"network {source!r} {found}; give a run's directory, a .keras file, a SavedModel, "
        "zoo:NAME, keras.applications:NAME or module:function"
    )


def refuse_prepared(source: str) -> None:
    """Refuses an input range or a preprocessing for a network that takes pixels as it is.

    Such are runs, the zoo's networks and those of `keras.applications`: what prepares pixels
    stands inside, and would be done twice. Of files, SavedModels and functions nothing is known.

    Args:
      source: as in `load`.

    Raises:
      ValueError: it is one of these.
    """
    path = places.of(zoo.located(source))
    run = _run(path)
    is_run = run is not None and (path.is_dir() or (run / "metrics.json").is_file())
    if is_run or source.startswith(applications.PREFIX):
        raise ValueError(
            f"network {source} takes pixels in [0, 255] and prepares them itself; leave out "
            "--preprocessing and --input_range, which would do it twice"
        )


def class_names(source: str) -> list[str] | None:
    """Reads the names of a network's classes, in the order of its logits.

    A run says them in its `metrics.json`, an exported version in its `labels.txt`; of any other
    network, and where they do not, they are not known.

    Args:
      source: as in `load`.

    Raises:
      ValueError: damaged metrics.
    """
    path = places.of(zoo.located(source))
    saved = served.find(path) if path.is_dir() else None
    if saved is not None:
        labels = saved / "assets.extra" / "labels.txt"
        return labels.read_text(encoding="utf-8").splitlines() if labels.is_file() else None
    run = _run(path)
    return None if run is None else workdir.read_metrics(run).get("class_names")


def _run(path):
    """Returns the directory that a run's path names, itself or by its network.keras, or None."""
    if path.is_dir():
        return path if served.find(path) is None else None
    return path.parent if path.name == "network.keras" else None


def facts(network: Any) -> dict[str, Any]:
    """Returns what identifies a network: its name, its size and the hash of its weights.

    A bare function has neither; its entries are None.
    """
    known = hasattr(network, "variables")
    return {
        "name": getattr(network, "name", None) or getattr(network, "__name__", None),
        "num_parameters": models.num_parameters(network) if known else None,
        "weights_sha256": weights_hash(network) if known else None,
    }


def weights_hash(network: Any) -> str:
    """Computes the SHA-256 of all variables: dtype, shape and values, in order.

    Names do not enter, as Keras numbers layers anew in every process.
    """
    digest = hashlib.sha256()
    for variable in network.variables:
        value = np.asarray(variable.numpy())
        digest.update(f"{value.dtype} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _load_file(path):
    if not path.is_file():
        raise ValueError(f"{path} is not there; give a finished run, or a .keras file")
    with places.fetched(path) as local:
        return _load_local(path, local)


def _load_local(path, local):
    try:
        sealed.check_archive(local)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be loaded: damaged or no .keras file ({error}); copy or train it again"
        ) from error
    try:
        return keras.saving.load_model(local, compile=False)
    except Exception as error:  # an unsealed file's damage may be anything to a parser
        # Keras wraps what a layer says into the configurations of all layers around it.
        cause = str(error).rpartition("Exception encountered: ")[2]
        raise ValueError(f"{path} cannot be loaded as a Keras model: {cause}") from error


def _call(source):
    module_name, _, function_name = source.partition(":")
    try:
        network = getattr(importlib.import_module(module_name), function_name)()
    except (Exception, SystemExit) as error:  # whatever the user's code meets
        brief = " ".join(str(error).split())[:300]
        kind = type(error).__name__
        raise ValueError(f"network {source!r} cannot be made ({kind}: {brief})") from error
    if not isinstance(network, keras.Model):
        raise ValueError(
            f"network {source!r} returned {type(network).__name__}; expected a keras.Model"
        )
    return network
