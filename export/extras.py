"""The files beside a SavedModel: its labels, and what is known of the network."""

import json
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

import sat_tf
from sat_tf import loading


def write(
    directory: Path,
    network: keras.Model,
    class_names: Sequence[str] | None,
    facts: dict,
) -> None:
    """Writes labels.txt and metadata.json.

    Args:
      directory: made here.
      network: of one image size, pixels [N, H, W, C] to logits [N, K].
      class_names: K names, or None.
      facts: more entries of the metadata, as JSON.
    """
    directory.mkdir()
    _, height, width, channels = network.input_shape
    if class_names is not None:
        text = "".join(f"{name}\n" for name in class_names)
        (directory / "labels.txt").write_text(text, encoding="utf-8")
    metadata = {
        "image": {"height": height, "width": width, "channels": channels, "layout": "NHWC"},
        "pixels": {"unit": "pixel", "minimum": 0, "maximum": 255, "normalisation": "inside"},
        "num_classes": network.output_shape[1],
        "class_names": None if class_names is None else list(class_names),
        "versions": {
            "sat_tf": sat_tf.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "weights_sha256": loading.weights_hash(network),
        **facts,
    }
    text = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
    (directory / "metadata.json").write_text(text, encoding="utf-8")


def read_labels(path: Path) -> list[str]:
    """Reads class names, one a line.

    Raises:
      ValueError: the file is not there or holds no names.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there; --labels names a text file, one class name a line")
    names = path.read_text(encoding="utf-8").splitlines()
    if not all(name.strip() for name in names) or not names:
        raise ValueError(f"{path} has an empty line; one class name a line was expected")
    return names
