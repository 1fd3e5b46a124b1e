"""Which networks can be served: pictures of one size in, logits out."""

import keras
import numpy as np
import tensorflow as tf

from export import expectations, signatures
from sat_tf import loading, specs


def check_network(network: keras.Model) -> tuple[tuple[int, int, int], int]:
    """Returns the image shape (H, W, C) and the number of classes.

    Raises:
      ValueError: no Keras model, not one fixed image size, or as `loading.image_form`.
    """
    if not isinstance(network, keras.Model):
        raise ValueError(
            f"a Keras model was expected, not a {type(network).__name__}: what was exported is "
            "exported already, and its directory can be copied"
        )
    image_shape, num_classes = loading.image_form(network)
    if None in image_shape:
        raise ValueError(
            f"the network takes images of {image_shape}, any size; a fixed one was expected: build "
            "it with its image size"
        )
    return image_shape, num_classes


def check_answers(network: keras.Model, image_shape: tuple[int, int, int]) -> None:
    """Looks at what comes out of a network: its last operation, and its answers to pictures.

    Raises:
      ValueError: answers that are not finite, or probabilities: the end is a softmax or a sigmoid,
        or all answers lie in [0, 1] and their rows sum to 1, or some exceed 1/2, as no logits do.
    """
    expected = (
        "logits were expected: build it without (keras.applications: classifier_activation=None)"
    )
    if (last := last_operation(network, image_shape)) in ("Softmax", "Sigmoid"):
        raise ValueError(f"the network ends in a {last.lower()}; {expected}")
    answers = expectations.logits_of(network, expectations.probes(*image_shape))
    if not np.isfinite(answers).all():
        bad = int((~np.isfinite(answers)).any(axis=1).sum())
        raise ValueError(
            f"the network's answers to {bad} of {len(answers)} pictures are not finite"
        )
    low, high = answers.min(), answers.max()
    sums_to_1 = np.all(np.abs(answers.sum(axis=1) - 1) <= 1e-5)
    if low >= 0 and high <= 1 and (sums_to_1 or high > 0.5):
        raise ValueError(
            f"the network's answers run from {low:.4g} to {high:.4g}, as probabilities do; "
            f"{expected}"
        )


def last_operation(network: keras.Model, image_shape: tuple[int, int, int]) -> str:
    """Returns the kind of the TensorFlow operation that makes the answers, however nested."""
    spec = tf.TensorSpec([None, *image_shape], tf.float32)
    answer = tf.function(lambda pixels: network(pixels, training=False), autograph=False)
    operation = answer.get_concrete_function(spec).graph.outputs[0].op
    while operation.type in ("Identity", "IdentityN", "Cast", "Reshape", "Squeeze"):
        operation = operation.inputs[0].op
    return operation.type


def check_resize(resize: str, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError where the name is unknown or wants a square and the network has none."""
    specs.one_of("resize", resize, signatures.RESIZES)
    if resize != "fit" and image_shape[0] != image_shape[1]:
        raise ValueError(f"resize {resize!r} makes squares, the network takes {image_shape}: fit")


def check_max_pixels(max_pixels: int, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError where the pictures of the warm-up, twice the network's size, are larger."""
    height, width, _ = image_shape
    least = (2 * height + 1) * (2 * width + 1)
    if max_pixels < least:
        raise ValueError(
            f"--max_pixels={max_pixels}; a network of {height} x {width} pixels is also asked "
            f"with pictures of twice that size: give at least {least}"
        )
