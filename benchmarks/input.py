"""How many cores does it take to feed an accelerator with ImageNet's pictures?

    python -m benchmarks.input --pictures=photographs
    python -m benchmarks.input --pictures=photographs --steps_per_second=5 --json=input.json

The JPEGs of a folder are written anew at 500 x 375 pixels, as ImageNet's are on average, and read
as training reads a folder: order, file, decoding, random window, bicubic resize, flip, batch. They
lie in the system's cache, so the disk is left out. A core's figure is images a processor second.
What an accelerator eats, --steps_per_second of --batch_size, is assumed and not measured.
"""

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks import machine, timing
from benchmarks.timing import Times
from flags import numbers
from sat_tf import data
from sat_tf.evaluation.report.statistics import aligned

HEIGHT, WIDTH, QUALITY = 375, 500, 97
# Some are cut off for validation and test.
FILES_A_BATCH = 2
ACCELERATORS = (1, 2, 4, 8)


def define_flags() -> None:
    """Defines the flags; only the main calls it."""
    flags.DEFINE_string("pictures", None, "Folder of JPEGs, photographs best; all below it count.")
    numbers.whole("batch_size", 256, "Images a step.", 1, 2**20)
    numbers.whole("image_size", 224, "Side of the images in pixels.", 1, 8_192)
    numbers.real(
        "steps_per_second", 8, "Steps that one accelerator does: an assumption.", 0.001, 1e6
    )
    numbers.whole("cores_per_worker", 16, "Cores of one worker of the data service.", 1, 4_096)
    numbers.whole("rounds", 5, "Times that the feed is measured.", 1, 10_000)
    numbers.whole("steps", 2, "Batches of a round.", 1, 10_000)
    numbers.whole("threads", 0, "Threads that decode; 0: one a core.", 0, 1_024)
    flags.DEFINE_string("json", None, "Where all figures go, round by round.")


def write_pictures(source: Path, folder: Path, number: int) -> float:
    """Writes so many JPEGs of 500 x 375 pixels in two class folders, from those below `source`.

    Where there are fewer they come again. Returns the bytes of one on average.

    Raises:
      ValueError: there is none.
    """
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise ValueError(f"{source} has no JPEG (.jpg, .jpeg); give --pictures a folder of some")
    encoded = []
    for file in files[:number]:
        image = tf.io.decode_jpeg(tf.io.read_file(str(file)), channels=3)
        image = tf.image.resize(image, [HEIGHT, WIDTH], antialias=True)
        image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        encoded.append(tf.io.encode_jpeg(image, quality=QUALITY).numpy())
    for index in range(number):
        file = folder / "ab"[index % 2] / f"{index:06}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encoded[index % len(encoded)])
    return float(np.mean([len(one) for one in encoded]))


def feed(folder: Path, batch_size: int, image_size: int, steps: int) -> Callable[[], None]:
    """Makes the function of a round, which takes the next batches of the training stream."""
    batches = iter(
        data.load(
            f"folder:{folder}", "train", batch_size=batch_size, image_size=image_size, training=True
        )
    )

    def take() -> None:
        for _ in range(steps):
            next(batches)

    return take


def figures(times: Times, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what was measured, each as median and quartiles, and what follows from it."""
    num_images = given["steps"] * given["batch_size"]
    a_core = timing.quartiles(num_images / times.processor)
    needed = []
    for accelerators in ACCELERATORS:
        eaten = accelerators * given["steps_per_second"] * given["batch_size"]
        cores = math.ceil(eaten / a_core[0])
        needed.append(
            {
                "accelerators": accelerators,
                "images_per_second": eaten,
                "cores": cores,
                "service_workers": math.ceil(cores / given["cores_per_worker"]),
                "megabytes_per_second": eaten * 3 * given["image_size"] ** 2 * 4 / 1e6,
            }
        )
    return {
        "images_per_second_of_a_core": a_core,
        "images_per_second_by_the_clock": timing.quartiles(num_images / times.wall),
        "needed": needed,
    }


def report(found: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Lays out the figures, and says what they assume."""
    measured = [["images/s", "median", "quartiles"]]
    for name, key in (("one core", "of_a_core"), ("by the clock", "by_the_clock")):
        median, lower, upper = found[f"images_per_second_{key}"]
        measured.append([name, f"{median:.0f}", f"{lower:.0f} to {upper:.0f}"])
    workers = f"service workers of {given['cores_per_worker']} cores"
    needed = [["accelerators", "images/s", "cores", workers, "MB/s as float32"]]
    needed += [[f"{value:,.0f}" for value in row.values()] for row in found["needed"]]
    return (
        f"{aligned(measured)}\n\nassumed, not measured: an accelerator does "
        f"{given['steps_per_second']:g} steps a second of {given['batch_size']} images\n\n"
        f"{aligned(needed)}"
    )


def main() -> None:
    """Measures, prints and, where asked to, writes."""
    given = {name: flags.FLAGS[name].value for name in flags.FLAGS}
    if given["pictures"] is None:
        raise ValueError("--pictures is missing; give a folder of JPEGs, photographs best")
    if given["threads"]:
        tf.config.threading.set_inter_op_parallelism_threads(given["threads"])
        tf.config.threading.set_intra_op_parallelism_threads(given["threads"])
    about = machine.describe()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        number = FILES_A_BATCH * given["batch_size"]
        size = write_pictures(Path(given["pictures"]).expanduser(), folder, number)
        print(
            f"JPEGs of {WIDTH} x {HEIGHT}, {size / 1000:.0f} kB each, to {given['image_size']} x "
            f"{given['image_size']} in batches of {given['batch_size']}, {given['rounds']} rounds "
            f"of {given['steps']}\n{about}",
            flush=True,
        )
        cases = {
            "feed": timing.of_call(
                feed(folder, given["batch_size"], given["image_size"], given["steps"])
            )
        }
        timing.interleaved(cases, 1)  # warms caches, and fills the buffers that a round leaves full
        times = timing.interleaved(cases, given["rounds"])
    found = figures(times["feed"], given)
    print("\n" + report(found, given))
    machine.write(given["json"], about, times, {"jpeg_bytes": size, **found})


if __name__ == "__main__":
    define_flags()
    from sat_tf.cli import run

    run(main)
