"""Smooth adversarial training (Xie et al., arXiv 2006.14536) in TensorFlow and Keras."""

__version__ = "0.1.0"
