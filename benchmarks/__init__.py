"""Measurements: one script a question, each prints ratios of times taken in one run."""

import sat_tf  # noqa: F401  (first, as it starts TensorFlow without its banner)
