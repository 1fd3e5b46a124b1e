"""PyTorch's checkpoints of RobustBench's common architectures, as networks of Keras."""
