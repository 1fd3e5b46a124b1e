"""Gives an existing network another activation at every hidden site."""

from sat_tf.injection.kinds import is_gate
from sat_tf.injection.rebuild import copy, inject
from sat_tf.injection.sites import hidden_activations

__all__ = ["copy", "hidden_activations", "inject", "is_gate"]
