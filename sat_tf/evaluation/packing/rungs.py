"""Whether a network's rows come out with the same bits in batches of another size."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from sat_tf.evaluation.packing.slots import PACKET


class Rungs:
    """Tells sizes of a batch in which a row's bits are those of a row of `PACKET`, in any place.

    Which kernel computes a batch, and in which order it sums, depends on shapes and not on values.
    So a size is tried once, on `PACKET` images again and again: every row of the logits, and of a
    gradient with respect to the images, must equal to the last bit what the image has in a batch of
    `PACKET`. Sizes that pass can be exchanged in the middle of an attack without a trace.

    Args:
      network: maps pixels to logits [N, C] and takes `training`.
    """

    def __init__(self, network: Callable[..., Any]):
        self.network = network
        self._graphs, self._rows, self._exact = {}, {}, {}

    def exact(self, size: int, images: np.ndarray, gradients: bool) -> bool:
        """Tells whether a batch of that many rows is such a size.

        Args:
          size: at least `PACKET`.
          images: float32 [PACKET or more, H, W, C], of which the first are tried.
          gradients: whether the gradient matters too.
        """
        if (size, gradients) not in self._exact:
            if gradients not in self._rows:
                tried = images[:PACKET].copy()
                self._rows[gradients] = tried, self._bits(tried, gradients)
            tried, expected = self._rows[gradients]
            order = np.arange(size) % PACKET
            found = self._bits(tried[order], gradients)
            self._exact[size, gradients] = np.array_equal(found, expected[order])
        return self._exact[size, gradients]

    def largest(
        self, at_most: int, images: np.ndarray, gradients: bool, at_least: int = PACKET
    ) -> int:
        """Returns the largest such multiple of `PACKET` between two numbers, or 0; see `exact`."""
        for size in range(at_most // PACKET * PACKET, at_least - 1, -PACKET):
            if self.exact(size, images, gradients):
                return size
        return 0

    def _bits(self, images, gradients):
        """Returns logits and gradient of every image as whole numbers, [N, numbers]."""
        if gradients not in self._graphs:
            function = tf.function(self._evaluate, autograph=False)
            spec = tf.TensorSpec([None, *images.shape[1:]], tf.float32)
            self._graphs[gradients] = function.get_concrete_function(spec, gradients)
        parts = self._graphs[gradients](tf.constant(images))
        return np.concatenate([part.numpy().reshape(len(images), -1) for part in parts], 1).view(
            np.int32
        )

    def _evaluate(self, images, gradients):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            if gradients:
                tape.watch(images)
            logits = tf.cast(self.network(images, training=False), tf.float32)
        if not gradients:
            return (logits,)
        # Any direction that treats no two classes alike.
        slope = tf.zeros_like(logits) + tf.linspace(-1.0, 1.7, logits.shape[1])
        return logits, tape.gradient(logits, images, slope, unconnected_gradients="zero")
