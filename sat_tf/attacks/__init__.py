"""Attacks: callables `attack(network, images, labels, seed=None) -> images`.

`PGD` is the attack of training; `make("apgd-ce", …)` and `parse(["pgd-50", "autoattack"], …)` make
those of an evaluation by name.
"""

from collections.abc import Callable

import tensorflow as tf

from sat_tf.attacks.names import make, parse
from sat_tf.attacks.pgd import PGD

# (network, images, labels, seed) -> images of the same shape, dtype and unit.
Attack = Callable[..., tf.Tensor]


def identity(network, images, labels, seed=None) -> tf.Tensor:
    """Returns the images as they are: the attack of ordinary, non-adversarial training."""
    del network, labels, seed
    return tf.convert_to_tensor(images, tf.float32)


__all__ = ["PGD", "Attack", "identity", "make", "parse"]
