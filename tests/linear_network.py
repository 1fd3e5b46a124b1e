"""Networks whose robustness is known exactly, with oracles in NumPy float64."""

import numpy as np
import tensorflow as tf

SHAPE = (3, 4, 2)
DIMENSION = 24


class LinearNetwork:
    """Maps pixels to `x W + b`, as float32 tensors or float64 arrays."""

    def __init__(self, num_classes: int, seed: int = 0, scale: float = 0.003):
        rng = np.random.default_rng(seed)
        self.weights = scale * rng.normal(size=(DIMENSION, num_classes))
        self.bias = 0.1 * rng.normal(size=num_classes)

    def __call__(self, images, training=False):
        weights = tf.constant(self.weights, tf.float32)
        return tf.reshape(images, [-1, DIMENSION]) @ weights + tf.constant(self.bias, tf.float32)

    def logits(self, images) -> np.ndarray:
        return np.reshape(images, [-1, DIMENSION]).astype(np.float64) @ self.weights + self.bias

    def labels(self, images) -> np.ndarray:
        return self.logits(images).argmax(1).astype(np.int32)


def images(count: int, seed: int = 1, low: float = 90.0, high: float = 165.0) -> np.ndarray:
    """Draws images; between 90 and 165 the pixel range is too far to matter to small balls."""
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, (count, *SHAPE)).astype(np.float32)


def largest_gain(weights, image, epsilon: float, norm: str) -> float:
    """Computes `max <w, d>` over `|d| <= epsilon` with `image + d` in the pixel range."""
    room = np.where(weights > 0, 255.0 - image, image)
    size = np.abs(weights)
    if norm == "l1":  # the heaviest coordinates first, each as far as its room
        order = np.argsort(-size)
        before = np.cumsum(room[order]) - room[order]
        return float(np.sum(size[order] * np.clip(epsilon - before, 0, room[order])))
    moves = _moves(size, room, norm, lambda move: _size(move, norm) <= epsilon)
    return float(np.sum(size * moves))


def distances(network: LinearNetwork, batch, labels, norm: str) -> np.ndarray:
    """Computes how far every image is from its nearest other class, inside the pixel range."""
    flat = np.reshape(batch, [-1, DIMENSION]).astype(np.float64)
    logits, result = network.logits(batch), []
    for image, label, z in zip(flat, labels, logits, strict=True):
        others = [target for target in range(len(z)) if target != label]
        result.append(
            min(
                distance(
                    network.weights[:, target] - network.weights[:, label],
                    image,
                    z[label] - z[target],
                    norm,
                )
                for target in others
            )
        )
    return np.array(result)


def distance(weights, image, margin: float, norm: str) -> float:
    """Computes `min |d|` over `<w, d> >= margin` with `image + d` in the pixel range."""
    room = np.where(weights > 0, 255.0 - image, image)
    size = np.abs(weights)
    if np.sum(size * room) < margin:
        return np.inf
    if norm == "l1":
        order = np.argsort(-size)
        gains = size[order] * room[order]
        missing = np.clip(margin - (np.cumsum(gains) - gains), 0, gains)
        return float(np.sum(missing / size[order]))
    moves = _moves(size, room, norm, lambda move: np.sum(size * move) <= margin)
    return _size(moves, norm)


def _moves(size, room, norm, allowed):
    # min(t, room) for L-inf and min(t |w|, room) for L2 with the largest t that is allowed
    speed = np.ones_like(size) if norm == "linf" else size
    low, high = 0.0, 255.0 / speed.min()
    for _ in range(60):
        middle = 0.5 * (low + high)
        if allowed(np.minimum(middle * speed, room)):
            low = middle
        else:
            high = middle
    return np.minimum(low * speed, room)


def _size(move, norm):
    return float(move.max() if norm == "linf" else np.linalg.norm(move))


def sizes(moves, norm: str) -> np.ndarray:
    """Computes the norm of every image's move in float64."""
    flat = np.reshape(np.asarray(moves, np.float64), [len(moves), -1])
    return np.linalg.norm(flat, ord={"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)
