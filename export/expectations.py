"""The answers by which a saved version is verified: the network's own, stored beside it."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from export import signatures, verify


def write(
    directory: Path, network: keras.Model, image_shape: Sequence[int], resize: str = "fit"
) -> None:
    """Writes what `export.verify` compares with.

    Pictures of the network's size as pixels and as PNG, and JPEGs of another size; to each the
    logits of the network itself, not of what was saved of it.

    Args:
      directory: `<name>/<version>`.
      network: pixels to logits, takes `training`.
      image_shape: (H, W, C) of the network.
      resize: what becomes of encoded pictures; see `signatures.decode`.
    """
    height, width, channels = image_shape
    num_images = max(verify.BATCH_SIZES)
    pixels = smooth_pictures(num_images, height, width, channels)
    stored = {"pixels": pixels, "logits": logits_of(network, pixels)}
    if channels in signatures.ENCODED_CHANNELS:
        larger = smooth_pictures(num_images, height + 5, width + 9, channels)
        pngs = [tf.io.encode_png(picture) for picture in pixels]
        jpegs = [tf.io.encode_jpeg(picture) for picture in larger]
        for kind, encoded in (("png", pngs), ("jpeg", jpegs)):
            decoded = tf.stack([signatures.decode(one, image_shape, resize) for one in encoded])
            stored[f"{kind}_logits"] = logits_of(network, decoded)
            for index, one in enumerate(encoded):
                stored[f"{kind}_{index}"] = np.frombuffer(one.numpy(), np.uint8)
    logits = [stored[key] for key in stored if key.endswith("logits")]
    np.savez(directory / verify.EXPECTATIONS, tolerance=tolerance(network, logits), **stored)


def tolerance(network: keras.Model, logits: Sequence[np.ndarray]) -> float:
    """Returns what a logit may differ by: 1e-4 of the largest, 5e-2 where 16 bits compute it."""
    relative = 5e-2 if has_low_precision(network) else 1e-4
    return float(relative * max(1.0, *(np.abs(one).max() for one in logits)))


def logits_of(network: keras.Model, pixels) -> np.ndarray:
    """Returns the network's logits float32 [N, K]; on the CPU, as that is where it is verified."""
    with tf.device("CPU:0"):
        logits = network(tf.cast(pixels, tf.float32), training=False)
    return keras.ops.convert_to_numpy(logits).astype(np.float32)


def probes(height: int, width: int, channels: int) -> np.ndarray:
    """Returns uint8 [16, height, width, channels]: smooth pictures, noise, black and white."""
    shape = (height, width, channels)
    noise = np.random.default_rng(1).integers(0, 256, (7, *shape), np.uint8)
    plain = np.stack([np.full(shape, value, np.uint8) for value in (0, 255)])
    return np.concatenate([smooth_pictures(7, *shape), noise, plain])


def smooth_pictures(num_images: int, height: int, width: int, channels: int) -> np.ndarray:
    """Returns uint8 [num_images, height, width, channels], the same at every call."""
    coarse = np.random.default_rng(0).uniform(0, 255, (num_images, 4, 4, channels))
    return np.uint8(np.clip(tf.image.resize(coarse, [height, width]), 0, 255))


def has_low_precision(layer: keras.layers.Layer) -> bool:
    """Returns whether the layer or one inside it computes in 16 bits."""
    if layer.compute_dtype in ("float16", "bfloat16"):
        return True
    return any(has_low_precision(inner) for inner in getattr(layer, "layers", ()))
