"""Takes a trained network out of the project: SavedModels for TensorFlow Serving."""

import sat_tf  # noqa: F401  (first, as it starts TensorFlow without its banner)
