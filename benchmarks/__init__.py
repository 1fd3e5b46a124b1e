"""Measurements: one script a question. Those here print ratios of times taken in one run; those of
`studies` train networks and compare accuracies.
"""

import sat_tf  # noqa: F401  (first, as it starts TensorFlow without its banner)
