"""Networks from wherever they are: a run, a `.keras` file, a SavedModel, a function."""

import hashlib
import importlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sat_tf import models, specs
from sat_tf.runs import sealed, workdir

PREPROCESSINGS = ("none", "tf", "torch", "caffe")


def load(source: str) -> Any:
    """Loads a network that maps pixels to logits and takes `training`.

    Args:
      source: a run's directory (its `network.keras` is taken), a `.keras` file, a SavedModel or the
        directory of its versions (the highest is taken), or "module:function" for a function of
        no arguments that returns a Keras model.

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

    path = pathlib.Path(source)
    if path.is_dir():
        saved = _saved_model(path)
        return _load_file(path / "network.keras") if saved is None else Served(saved)
    if path.suffix == ".keras":
        return _load_file(path)
    if ":" in source:
        return _call(source)
    found = "is a file, but no .keras file" if path.exists() else "is not there"
    raise ValueError(
        f"network {source!r} {found}; give a run's directory, a .keras file, a SavedModel or "
        "module:function"
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
    path = pathlib.Path(source)
    saved = _saved_model(path) if path.is_dir() else None
    if saved is not None:
        labels = saved / "assets.extra" / "labels.txt"
        return labels.read_text(encoding="utf-8").splitlines() if labels.is_file() else None
    if path.is_dir() or path.name == "network.keras":
        run = path if path.is_dir() else path.parent
        return workdir.read_metrics(run).get("class_names")
    return None


def image_form(network: Any) -> tuple[tuple[int | None, int | None, int], int]:
    """Returns what a network takes and gives: ((height, width, channels), classes).

    Height and width are None where any will do.

    Raises:
      ValueError: not one input [N, H, W, C] and one output [N, classes] of at least 2 classes.
    """
    inputs, outputs = (getattr(network, f"{end}_shape", None) for end in ("input", "output"))
    if not isinstance(inputs, tuple) or len(inputs) != 4 or inputs[3] is None:
        raise ValueError(
            f"the network takes {_shapes(inputs)}; one input [None, H, W, C] of images was "
            "expected, keras.Model(images, logits) without lists"
        )
    if not isinstance(outputs, tuple) or len(outputs) != 2 or outputs[1] is None:
        raise ValueError(
            f"the network gives {_shapes(outputs)}; one output [None, classes] of logits was "
            "expected"
        )
    if outputs[1] < 2:
        raise ValueError(
            f"the network gives {outputs}; a logit for each of at least 2 classes was expected: a "
            "single output z is the pair of logits (0, z)"
        )
    return inputs[1:], outputs[1]


def check_images(network: Any, image_size: int | None, num_channels: int) -> None:
    """Refuses a network that cannot take square images of a size (None: its own) and channels.

    Raises:
      ValueError: it takes others, or is of another form; see `image_form`.
    """
    (height, width, channels), _ = image_form(network)
    if channels != num_channels:
        raise ValueError(
            f"the network takes images of {channels} channels and the data have {num_channels}; "
            "take data of the network's kind, or put a layer in front that converts them"
        )
    if None not in (height, width) and height != width:
        raise ValueError(
            f"the network takes images of {height} x {width} pixels; data are read as squares only"
        )
    side = height or width
    if side is not None and image_size not in (None, side):
        raise ValueError(
            f"the network takes images of {side} x {side} pixels and --image_size={image_size} "
            "makes others; leave it out"
        )


def _shapes(shapes):
    if isinstance(shapes, dict):
        shapes = list(shapes.values())
    if isinstance(shapes, list):
        return f"{len(shapes)} tensors of shapes {', '.join(map(str, shapes))}"
    return "a shape that it does not know before it is built" if shapes is None else str(shapes)


class Served:
    """A SavedModel as a network: its signature `serving_default`, in inference mode.

    Gradients flow as far as the operations that were saved have them.

    Args:
      directory: holds `saved_model.pb`.

    Raises:
      ValueError: no such signature, not one float input [N, H, W, C], or no output to take.
    """

    def __init__(self, directory: pathlib.Path):
        sealed.check_sums(directory)
        # The object owns the variables; the signature alone would lose them.
        self._loaded = _load_saved_model(directory)
        signature = self._loaded.signatures.get("serving_default")
        if signature is None:
            raise ValueError(f"{directory} has no signature serving_default")
        inputs = signature.structured_input_signature[1]
        outputs = signature.structured_outputs
        (self._input,) = inputs if len(inputs) == 1 else (None,)
        self._output = "logits" if "logits" in outputs else next(iter(outputs))
        spec = inputs.get(self._input)
        if spec is None or spec.dtype != tf.float32 or spec.shape.rank != 4:
            raise ValueError(
                f"{directory} takes {inputs}; expected one float32 input [N, height, width, "
                "channels] of pixels"
            )
        if len(outputs) > 1 and self._output != "logits":
            raise ValueError(
                f"{directory} returns {', '.join(sorted(outputs))}; expected one of them to be "
                "named logits"
            )
        self._signature = signature
        self.name = directory.parent.name if directory.name.isdigit() else directory.name
        self.input_shape = tuple(spec.shape)
        self.output_shape = tuple(outputs[self._output].shape)
        # A signature lists its variables in the order of the graph.
        self.variables = tuple(sorted(signature.variables, key=lambda variable: variable.name))
        self.trainable_variables = tuple(one for one in self.variables if one.trainable)

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns logits [N, classes].

        Raises:
          ValueError: training mode, which a signature does not have.
        """
        if training:
            raise ValueError("a SavedModel's signature runs in inference mode only")
        return self._signature(**{self._input: images})[self._output]


class Adapted:
    """A network that takes other values than pixels, behind a function that makes them.

    Args:
      network: maps what `prepare` returns to logits.
      prepare: maps pixels in [0, 255] to what the network takes, with gradients.
    """

    def __init__(self, network: Any, prepare: Callable[[tf.Tensor], tf.Tensor]):
        self.network, self.prepare = network, prepare
        self.name, self.variables = network.name, network.variables
        self.trainable_variables = network.trainable_variables
        self.input_shape, self.output_shape = network.input_shape, network.output_shape

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns logits [N, classes] of images in pixels."""
        return self.network(self.prepare(images), training=training)


def adapt(network: Any, input_range: Sequence[float] | None = None, preprocessing="none") -> Any:
    """Puts what a network expects of its input between the pixels and the network.

    Args:
      network: as `load` returns it.
      input_range: (low, high): pixel 0 becomes low and 255 high; None leaves pixels.
      preprocessing: of `keras.applications`: "tf" for [-1, 1], "torch" for ImageNet's mean and
        deviation, "caffe" for BGR without ImageNet's mean; "none" leaves pixels.

    Raises:
      ValueError: both at once, an unknown name, or a range that is not two rising numbers.
    """
    specs.one_of("preprocessing", preprocessing, PREPROCESSINGS)
    if input_range is not None and preprocessing != "none":
        raise ValueError("give an input range or a preprocessing, not both")
    if preprocessing != "none":
        prepare = keras.applications.imagenet_utils.preprocess_input
        return Adapted(network, lambda images: prepare(images, mode=preprocessing))
    if input_range is None:
        return network
    if len(input_range) != 2 or not input_range[0] < input_range[1]:
        raise ValueError(f"input range {tuple(input_range)} is not LOW,HIGH, such as 0,1 or -1,1")
    low, high = map(float, input_range)
    return Adapted(network, lambda images: images * ((high - low) / 255.0) + low)


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


def _saved_model(path):
    """Returns the directory of the SavedModel at `path` or in its highest version, or None."""
    if (path / "saved_model.pb").is_file():
        return path
    versions = [one for one in path.iterdir() if one.name.isdigit()]
    versions = [one for one in versions if (one / "saved_model.pb").is_file()]
    return max(versions, key=lambda one: int(one.name), default=None)


def _load_saved_model(directory):
    try:
        if (directory / "fingerprint.pb").exists():
            # Loading would log a traceback where it is damaged, and go on.
            tf.saved_model.experimental.read_fingerprint(str(directory))
        return tf.saved_model.load(str(directory))
    except Exception as error:  # damage of a file that no digest guards may be anything
        brief = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{directory} cannot be loaded as a SavedModel: damaged or not whole "
            f"({type(error).__name__}: {brief}); copy or export it again"
        ) from error


def _load_file(path):
    if not path.is_file():
        raise ValueError(f"{path} is not there; give a finished run, or a .keras file")
    try:
        sealed.check_archive(path)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be loaded: damaged or no .keras file ({error}); copy or train it again"
        ) from error
    try:
        return keras.saving.load_model(path, compile=False)
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
