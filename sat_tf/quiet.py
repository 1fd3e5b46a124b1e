"""Starts TensorFlow without its banner, so that an error of ours is the one line on stderr."""

import os
import sys
import tempfile


def import_tensorflow() -> None:
    """Imports TensorFlow; what it logs meanwhile is shown only if the import fails.

    TensorFlow 2.21 reports oneDNN and missing CUDA drivers before its own log level applies. A
    user who sets TF_CPP_MIN_LOG_LEVEL gets everything that level lets through.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    # Errors too, as a machine without a GPU logs one; real failures raise exceptions as well.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
