"""What the Square attack puts into its windows in L2 and L1: a positive and a negative pyramid."""

import numpy as np
import tensorflow as tf

from sat_tf.attacks import stepped
from sat_tf.attacks.square_windows import corner, window


def placed_bumps(
    draws: tf.Tensor, side: tf.Tensor, sides: tf.Tensor, size: tuple[int, int], norm: str = "l2"
) -> tf.Tensor:
    """Places a bump of norm 1 in the window of every image, [N, H, W, 1].

    Args:
      draws: [N, 5 or more] in [0, 1); 0 and 1 place the window, 4 decides whether the bump is
        transposed.
      side: of the windows, int32 [N].
      sides: all that can come, constant.
      size: height and width of the images.
      norm: "l2" or "l1".
    """
    height, width = size
    known = sorted(set(tf.get_static_value(sides).tolist()))
    table = np.zeros([len(known), height, width], np.float32)
    # The window's side is known only in the graph, so all bumps that can come are made beforehand.
    for index, one in enumerate(known):
        table[index, :one, :one] = bump(one, norm)
    bumps = tf.gather(table, tf.searchsorted(tf.constant(known), side))
    most = max(known)
    turned = tf.pad(
        tf.transpose(bumps[:, :most, :most], [0, 2, 1]),
        [[0, 0], [0, height - most], [0, width - most]],
    )
    bumps = stepped.where(draws[:, 4] < 0.5, bumps, turned)
    top, left = corner(draws[:, :2], side, height, width)
    # Outside the window the index leaves the table or meets its zeros.
    rows = tf.clip_by_value(tf.range(height)[None, :] - top, -1, height)
    columns = tf.clip_by_value(tf.range(width)[None, :] - left, -1, width)
    bumps = tf.gather(bumps, tf.where(rows < 0, height - 1, rows), batch_dims=1)
    bumps = tf.gather(bumps, tf.where(columns < 0, width - 1, columns), axis=2, batch_dims=1)
    return bumps[..., None] * tf.cast(window(draws[:, :2], side, height, width), tf.float32)


def bump(side: int, norm: str = "l2") -> np.ndarray:
    """Returns the update of that side, of norm 1: a positive and a negative pyramid.

    A rectangle of rows `0..a-1` and columns `0..b-1` holds, with `n = floor(a / 2)` and
    `M = n - max(|r - n|, |c - floor(b / 2)|)`, the sum over `k = 0..M` of `1 / (n + 1 - k)^2`
    (nothing where `M < 0`); the upper half of the square has it with plus, the lower with minus.

    In L1 the power is 4 in place of 2, and both halves have the norm 1/2.

    Source: Andriushchenko et al., arXiv 1912.00049, equations 3 and 4, rows counted from 0. The
    AutoAttack code scales each half to norm 1 first, which in L2 moves entries by .023 at most; its
    L1 (Croce and Hein, arXiv 2103.01208, section 4.2) is that of this code.
    """
    half, power = side // 2, 2 if norm == "l2" else 4
    halves = [_pyramid(half, side, power), -_pyramid(side - half, side, power)]
    if norm == "l1":
        halves = [one / np.abs(one).sum() for one in halves]
    both = np.concatenate(halves)
    return (both / np.linalg.norm(both.ravel(), 2 if norm == "l2" else 1)).astype(np.float32)


def _pyramid(rows, columns, power):
    n = max(rows, columns) // 2
    r, c = np.arange(rows)[:, None], np.arange(columns)[None, :]
    far = np.maximum(np.abs(r - rows // 2), np.abs(c - columns // 2))
    terms = 1.0 / (n + 1.0 - np.arange(n + 1)) ** power
    sums = np.concatenate([[0.0], np.cumsum(terms)])
    return sums[np.clip(n - far + 1, 0, n + 1)]


def tiling(height: int, width: int, norm: str = "l2") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the bumps of a centred grid of up to five by five tiles, upright and transposed.

    The third is the number of each pixel's tile. All are [H, W]; outside the grid bumps are 0.
    """
    side = max(min(height, width) // 5, 1)
    rows, columns = min(5, height // side), min(5, width // side)
    shape = bump(side, norm) if side > 1 else np.ones([1, 1], np.float32)
    upright, turned = np.zeros([2, height, width], np.float32)
    place = np.zeros([height, width], np.int32)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    for tile in range(rows * columns):
        row, column = top + tile // columns * side, left + tile % columns * side
        inside = slice(row, row + side), slice(column, column + side)
        upright[inside], turned[inside], place[inside] = shape, shape.T, tile
    return upright, turned, place
