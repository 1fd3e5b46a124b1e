"""Smooth adversarial training (Xie et al., arXiv 2006.14536) in TensorFlow and Keras."""

import sys

from sat_tf import quiet

__version__ = "0.1.0"

if sys.argv[0] == "-m":  # a program of ours is starting, nobody imports us as a library
    quiet.start(sys.orig_argv)
else:
    quiet.import_tensorflow()
