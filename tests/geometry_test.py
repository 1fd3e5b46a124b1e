"""Norm balls and directions against NumPy float64."""

import numpy as np
import pytest
import tensorflow as tf

from sat_tf.attacks import geometry


@pytest.mark.parametrize("exponent", [-110, -90, -44, 0, 60, 120])
def test_the_steepest_direction_has_unit_norm_however_small_the_gradient(exponent):
    gradient = np.random.default_rng(0).normal(size=(4, 5, 5, 3)).astype(np.float32)
    scaled = tf.constant(np.ldexp(gradient, exponent))
    expected = gradient.astype(np.float64).reshape(4, -1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = geometry.steepest_direction(scaled, "l2").numpy().reshape(4, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    signs = geometry.steepest_direction(scaled, "linf").numpy()
    np.testing.assert_array_equal(signs, np.sign(gradient))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_zero_gradient_has_no_direction(norm):
    np.testing.assert_array_equal(geometry.steepest_direction(tf.zeros([2, 3, 3, 1]), norm), 0)
