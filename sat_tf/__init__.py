"""Smooth adversarial training (Xie et al., arXiv 2006.14536) in TensorFlow and Keras."""

import os
import sys

from sat_tf import quiet

__version__ = "0.1.0"

# A program of ours is starting, nobody imports us as a library.
if sys.argv[0] == "-m" or os.path.basename(sys.argv[0]) in quiet.COMMANDS:
    quiet.start(sys.orig_argv)
else:
    quiet.import_tensorflow()
