"""The checkpoints that the paper's authors released, in TensorFlow 1."""
