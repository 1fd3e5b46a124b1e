"""What does a request cost, by signature and number of pictures?

    python -m benchmarks.serving --directory=serving/digits
    python -m benchmarks.serving --directory=serving/digits --sizes=8
    python -m benchmarks.serving --directory=serving/digits --sizes=1,4,16 --json=serving.json
    python -m export.saved_model --workdir=runs/digits --directory=serving/digits \
        --batching=serving.json

The version with the highest number is loaded as a server loads it and asked with the requests of
its warm-up, everything in interleaved rounds of one run. "decoding" is what becomes of encoded
pictures before the network sees them, alone. Network and protocol are left out.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks import machine, timing
from export import signatures, versions, warmup
from flags import numbers
from sat_tf.runs import sealed

DECODING = "decoding"
# A size is large enough where larger ones are not that much faster.
ENOUGH = 0.9


def define_flags() -> None:
    """Defines the flags; only the main calls it."""
    flags.DEFINE_string("directory", None, "What was exported: serving/NAME.")
    flags.DEFINE_list("sizes", ["1", "2", "4", "8", "16", "32", "64"], "Pictures of a request.")
    numbers.whole("rounds", 40, "Requests of every kind.", 2, 100_000)
    numbers.whole("threads", 0, "Threads of a CPU operation; 0: one a core.", 0, 1_024)
    flags.DEFINE_string("json", None, "Where the figures go, for --batching of an export.")


def check_sizes(texts: Sequence[str]) -> list[int]:
    """Returns the sizes, rising.

    Raises:
      ValueError: none, or one that is no whole number of at least 1.
    """
    if not texts or not all(text.strip().isdecimal() and int(text) > 0 for text in texts):
        raise ValueError(f"--sizes is {','.join(texts)}; give numbers of pictures, such as 1,8,64")
    return sorted({int(text) for text in texts})


def latest(directory: Path) -> Path:
    """Returns the version with the highest number.

    Raises:
      ValueError: there is none.
    """
    found = versions.present(directory)
    if not found:
        raise ValueError(f"{directory} holds no version; give what was exported: serving/NAME")
    return found[max(found)]


def make_requests(version: Path, sizes: Sequence[int]) -> dict[tuple[str, int], Callable]:
    """Returns {(signature, number of pictures): a request to it}, and the decoding alone."""
    loaded = tf.saved_model.load(str(version))
    facts = json.loads((version / "assets.extra" / "metadata.json").read_text(encoding="utf-8"))
    shape = [facts["image"][side] for side in ("height", "width", "channels")]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(image_bytes):
        return tf.map_fn(
            lambda one: signatures.decode(one, shape, facts["resize"]),
            image_bytes,
            fn_output_signature=tf.TensorSpec(shape, tf.float32),
        )

    def request(function, inputs):
        return lambda: [answer.numpy() for answer in tf.nest.flatten(function(**inputs))]

    found = {}
    for signature, protos in warmup.requests(shape, sizes):
        inputs = {name: tf.constant(tf.make_ndarray(proto)) for name, proto in protos.items()}
        ((_, values),) = inputs.items()
        found[signature, len(values)] = request(loaded.signatures[signature], inputs)
        if signature == signatures.ENCODED:
            found[DECODING, len(values)] = request(decode, inputs)
    return {key: found[key] for key in sorted(found)}


def figures(seconds: Mapping[tuple[str, int], np.ndarray]) -> list[dict]:
    """Returns for every kind of request its median and 95th percentile, and pictures a second."""
    return [
        {
            "signature": signature,
            "num_images": size,
            "median_ms": 1000 * float(np.median(values)),
            "p95_ms": 1000 * float(np.percentile(values, 95)),
            "images_per_second": size / float(np.median(values)),
        }
        for (signature, size), values in seconds.items()
    ]


def recommended(rows: Sequence[Mapping]) -> list[int]:
    """Returns the sizes of batches that are worth their latency.

    They end at the smallest that comes to `ENOUGH` of the most pictures a second, of pixels that
    need no decoding: a larger one keeps everybody waiting and saves little.
    """
    speeds = {
        row["num_images"]: row["images_per_second"]
        for row in rows
        if row["signature"] == signatures.UINT8
    }
    enough = ENOUGH * max(speeds.values())
    largest = min(size for size, speed in speeds.items() if speed >= enough)
    return sorted(size for size in speeds if size <= largest)


def report(rows: Sequence[Mapping]) -> str:
    """Lays out the table."""
    lines = [f"{'signature':16} {'pictures':>8} {'median ms':>10} {'p95 ms':>8} {'pictures/s':>10}"]
    for row in rows:
        lines.append(
            f"{row['signature']:16} {row['num_images']:8} {row['median_ms']:10.2f} "
            f"{row['p95_ms']:8.2f} {row['images_per_second']:10.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and, where asked to, writes."""
    given = flags.FLAGS
    if given.directory is None:
        raise ValueError("--directory is missing; give what was exported: serving/NAME")
    sizes, version = check_sizes(given.sizes), latest(Path(given.directory))
    if given.threads:
        tf.config.threading.set_intra_op_parallelism_threads(given.threads)
        tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    about = machine.describe()
    print(f"{version}, {given.rounds} rounds\n{about}\n", flush=True)
    requests = make_requests(version, sizes)
    cases = {f"{key[0]}, {key[1]}": timing.of_step(one, 1) for key, one in requests.items()}
    seconds = [times.wall for times in timing.interleaved(cases, given.rounds).values()]
    rows = figures(dict(zip(requests, seconds, strict=True)))
    print(report(rows))
    batch_sizes = recommended(rows)
    print(f"\nbatches of {', '.join(map(str, batch_sizes))}: {ENOUGH:.0%} of the most pictures/s")
    if given.json is not None:
        content = {"machine": about, "requests": rows, "batch_sizes": batch_sizes}
        sealed.write_json(given.json, {"version": str(version), **content})
        print(given.json)


if __name__ == "__main__":
    define_flags()
    from sat_tf.cli import run

    run(main)
