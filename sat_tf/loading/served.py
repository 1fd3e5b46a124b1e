"""A SavedModel as a network."""

import pathlib

import tensorflow as tf

from sat_tf.runs import atomic, sealed


def find(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the directory of the SavedModel at `path` or in its highest version, or None."""
    if (path / "saved_model.pb").is_file():
        return path
    versions = [one for one in path.iterdir() if one.name.isdigit()]
    versions = [one for one in versions if (one / "saved_model.pb").is_file()]
    return max(versions, key=lambda one: int(one.name), default=None)


class Served:
    """A SavedModel as a network: its signature `serving_default`, in inference mode.

    Gradients flow as far as the operations that were saved have them.

    Args:
      directory: holds `saved_model.pb`.

    Raises:
      ValueError: it is in a store; no such signature, not one float input [N, H, W, C], or no
        output to take.
    """

    def __init__(self, directory: pathlib.Path):
        atomic.refuse_remote(directory)
        sealed.check_sums(directory)
        # The object owns the variables; the signature alone would lose them.
        self._loaded = _load(directory)
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


def _load(directory):
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
