"""Flags of `python -m export.client`."""

from absl import flags

from flags import numbers

# Themes of the help by their first flag.
THEMES = {
    "server": "The server",
    "signature": "The pictures",
    "status": "Other questions",
}


def define() -> None:
    """Defines the flags; only a program calls it."""
    flags.DEFINE_string(
        "server", "localhost:8500", "HOST:PORT for gRPC, http://HOST:PORT for REST."
    )
    flags.DEFINE_string("model", "digits", "The network's name on the server.")
    numbers.whole("model_version", None, "A version of it; default: the latest.", 0, 10**18)
    flags.DEFINE_string("version_label", None, "A labelled version of it, such as stable.")
    numbers.real("timeout", 10.0, "Seconds that one request may take.", 0.001, 86_400)
    numbers.whole(
        "retries",
        3,
        "How often a request is repeated while the server is unavailable, after 0.25, 0.5, 1 … "
        "seconds.",
        0,
        10,
    )

    flags.DEFINE_string("signature", "encoded_images", "What takes the pictures' bytes.")
    numbers.whole("batch_size", 32, "Pictures a request.", 1, 2**16)
    numbers.whole("top", 3, "Classes shown for each picture, the most probable first.", 1, 2**16)
    flags.DEFINE_string(
        "labels",
        None,
        "A text file, one class name a line (labels.txt); the server names the first class alone.",
    )
    flags.DEFINE_bool("json", False, "Write JSON instead of a table.")

    flags.DEFINE_bool("status", False, "Show the versions on the server and what can be asked.")
    flags.DEFINE_string(
        "compare",
        None,
        "A run, or zoo:NAME: the server's logits are compared with its network.keras, on the "
        "pictures given or on the run's test set.",
    )
    numbers.whole("num_images", 64, "With --compare: images of the test set.", 1)
    flags.DEFINE_string(
        "resize", None, "With --compare: what the version was exported with; default: the same."
    )
    flags.DEFINE_string("data_dir", None, "With --compare: where TFDS keeps its data.")
