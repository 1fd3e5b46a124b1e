"""Which pixels a query of the Square attack changes."""

import numpy as np
import tensorflow as tf

# Queries after which the share of the pixels in a window halves (not rescaled to their number).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def window_sides(queries: int, p_init: float, height: int, width: int, norm: str) -> np.ndarray:
    """Returns the side of the window at every query, at most the image's smaller side."""
    halvings = np.sum(np.arange(queries)[:, None] > np.array(HALVINGS), 1)
    sides = np.round(np.sqrt(p_init / 2.0**halvings * height * width)).astype(np.int32)
    smaller = min(height, width)
    if norm != "linf":
        sides = np.maximum(sides, 3)
        sides += 1 - sides % 2
        smaller -= 1 - smaller % 2
    return np.clip(sides, 1, smaller).astype(np.int32)


def window(draws: tf.Tensor, side: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Marks a window of every image, bool [N, H, W, 1]; `draws` [N, 2] in [0, 1) places it."""
    in_rows, in_columns = spans(draws, side, height, width)
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]


def spans(draws: tf.Tensor, side: tf.Tensor, height: int, width: int):
    """Marks the rows and the columns of every image's window, bool [N, H] and [N, W]."""
    top, left = corner(draws, side, height, width)
    rows, columns = tf.range(height)[None, :], tf.range(width)[None, :]
    in_rows = (rows >= top) & (rows < top + side[:, None])
    return in_rows, (columns >= left) & (columns < left + side[:, None])


def corner(draws: tf.Tensor, side: tf.Tensor, height: int, width: int):
    """Returns the window's first rows and columns, int32 [N, 1] each, all places equally likely."""
    places = tf.stack([height - side + 1, width - side + 1], 1)
    at = tf.cast(draws * tf.cast(places, tf.float32), tf.int32)
    at = tf.minimum(at, places - 1)
    return at[:, :1], at[:, 1:]
