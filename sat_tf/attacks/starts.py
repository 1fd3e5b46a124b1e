"""Random directions to start runs in."""

import tensorflow as tf

from sat_tf.attacks import noise, stepped


def random_direction(state: stepped.State, norm: str) -> tf.Tensor:
    """Draws uniform numbers in [-1, 1] for L-inf, standard normal ones for L2 and L1.

    They depend on each image's seed and step alone; shape and dtype are those of the images.
    """
    seeds, step, shape = state["seeds"], state["step"], list(state["images"].shape[1:])
    if norm == "linf":
        return 2.0 * noise.hashed_uniform(seeds, step, shape) - 1.0
    return noise.hashed_normal(seeds, step, shape)
