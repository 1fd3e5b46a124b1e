"""Activations and optimisers of TensorFlow Addons, by names that begin with `tfa:`."""
