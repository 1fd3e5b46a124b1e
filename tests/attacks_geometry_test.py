"""Norm balls and directions against NumPy float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

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


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10000),
    shape=st.sampled_from([(1, 1, 1), (2, 3, 1), (4, 2, 3)]),
    spread=st.floats(0.01, 400.0),
    radius=st.floats(0.0, 300.0, width=32),
    corner=st.booleans(),
)
def test_projections_equal_their_formulae_in_float64(seed, shape, spread, radius, corner):
    rng = np.random.default_rng(seed)
    center = rng.uniform(0, 255, (3, *shape)).astype(np.float32)
    if corner:
        center = np.where(rng.random(center.shape) < 0.5, 0.0, 255.0).astype(np.float32)
    point = (center + spread * rng.normal(size=center.shape)).astype(np.float32)
    # A radius an image: whole, a half and none of it.
    radii = np.array([radius, 0.5 * radius, 0.0], np.float32)
    wide = radii.reshape(3, 1, 1, 1).astype(np.float64)
    exact, middle = point.astype(np.float64), center.astype(np.float64)
    box = np.clip(np.clip(exact, middle - wide, middle + wide), 0, 255)
    found = geometry.project(tf.constant(point), tf.constant(center), tf.constant(radii), "linf")
    np.testing.assert_allclose(found, box, atol=5e-5)
    delta = exact - middle
    lengths = np.sqrt((delta**2).sum((1, 2, 3), keepdims=True))
    ball = np.clip(middle + delta * np.minimum(1, wide / np.maximum(lengths, 1e-12)), 0, 255)
    found = geometry.project(tf.constant(point), tf.constant(center), tf.constant(radii), "l2")
    np.testing.assert_allclose(found, ball, atol=3e-4)
    for norm, order in (("linf", np.inf), ("l2", 2), ("l1", 1)):
        expected = np.linalg.norm(delta.reshape(3, -1), ord=order, axis=1)
        np.testing.assert_allclose(
            geometry.norms(tf.constant(point - center), norm), expected, rtol=1e-4, atol=1e-3
        )
