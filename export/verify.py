"""Checks a saved network against the answers stored beside it, with TensorFlow and NumPy alone.

Run as a program (`python export/verify.py serving/NAME/VERSION`) it needs no other file of the
project, so it can be copied to the machine that serves.
"""

import os
import subprocess
import sys
from pathlib import Path

EXPECTATIONS = Path("assets.extra") / "expectations.npz"
BATCH_SIZES = (1, 2, 7)
ABSENT = ("keras", "sat_tf")


def verify(directory: str | Path) -> None:
    """Checks one version in a fresh process that has neither Keras nor this project.

    Args:
      directory: `<name>/<version>`, as `export` writes it.

    Raises:
      ValueError: the version cannot be loaded or does not answer as the network did.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),  # Bazel's programs have their packages there alone
        "CUDA_VISIBLE_DEVICES": "",  # an accelerator's memory is the parent process's
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, os.path.abspath(__file__), str(directory)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise ValueError(f"verification of {directory} failed: {lines[-1]}")


def check(directory: Path) -> None:
    """Compares every signature with the stored answers in this process; see `verify`."""
    import numpy as np

    tf = _tensorflow()
    with np.load(directory / EXPECTATIONS) as file:
        stored = dict(file)
    loaded = tf.saved_model.load(str(directory))

    def compare(what, answers, expected):
        error = float(np.max(np.abs(np.asarray(answers, np.float64) - expected)))
        if not error <= stored["tolerance"]:  # so written that NaN fails
            raise ValueError(
                f"{what} are {error:.3g} off; at most {stored['tolerance']:.3g} may be"
            )

    def ask(signature, expected, **inputs):
        answers = loaded.signatures[signature](**inputs)
        compare(f"logits of {signature} for {len(expected)} images", answers["logits"], expected)
        scores = np.exp(expected - expected.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        compare(f"probabilities of {signature}", answers["probabilities"], scores)
        if not np.array_equal(answers["classes"], np.argmax(answers["logits"], axis=1)):
            raise ValueError(f"classes of {signature} are not where the largest logits are")

    for size in BATCH_SIZES:
        pixels, logits = stored["pixels"][:size], stored["logits"][:size]
        floats = tf.constant(pixels, tf.float32)
        compare(f"logits of serve for {size} images", loaded.serve(floats), logits)
        ask("serving_default", logits, pixels=floats)
        ask("uint8_pixels", logits, pixels=tf.constant(pixels))
        for kind in ("png", "jpeg"):
            if f"{kind}_logits" in stored:
                encoded = [stored[f"{kind}_{index}"].tobytes() for index in range(size)]
                logits = stored[f"{kind}_logits"][:size]
                ask("encoded_images", logits, image_bytes=tf.constant(encoded))

    imported = {name.partition(".")[0] for name, module in sys.modules.items() if module}
    foreign = sorted(imported & set(ABSENT))
    if foreign:
        raise ValueError(f"the check must stand alone, but {', '.join(foreign)} was imported")


def _tensorflow():
    """Imports TensorFlow without what it logs before its own level applies."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    return tensorflow


def main() -> int:
    """Checks the version named on the command line; one line on stderr where it fails."""
    usage = "usage: python export/verify.py NAME/VERSION"
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"{usage}\n\n{__doc__.strip()}")
        return 0
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(usage, file=sys.stderr)
        return 2
    directory = Path(sys.argv[1])
    if not (directory / EXPECTATIONS).is_file():
        print(
            f"verify.py: {directory} is no exported version, as it has no {EXPECTATIONS}; {usage}",
            file=sys.stderr,
        )
        return 2
    # TensorFlow imports Keras wherever it is installed: here it must look as if it were not.
    sys.modules.update(dict.fromkeys(ABSENT))
    try:
        check(directory)
    except Exception as error:  # whatever it is, the version cannot be served
        first_line = (str(error).splitlines() or ["no message"])[0]
        print(f"{type(error).__name__}: {first_line}", file=sys.stderr)
        return 1
    batch_sizes = ", ".join(map(str, BATCH_SIZES))
    print(f"{directory} answers as the network did (batch sizes {batch_sizes})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
