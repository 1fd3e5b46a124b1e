"""What is left of an adversarial image after it was a file?

    python -m benchmarks.studies.encoded --workdir=runs/digits
    python -m benchmarks.studies.encoded --workdir=runs/digits --num_images=100
    python -m benchmarks.studies.encoded --workdir=runs/cifar10_swish --dataset=cifar10 --epsilon=8

PGD attacks test images in float pixels. They are then saved in several ways and read as the served
network reads pictures (`export.signatures.decode`). Of the images that PGD broke: how many are
still misclassified? And how far did saving alone move the pixels of the clean images? The attack
knows nothing of the saving, so this is no measure of robustness against one that does.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks import machine
from export import signatures
from flags import numbers
from sat_tf import attacks, data, loading
from sat_tf.attacks import losses
from sat_tf.evaluation.report.statistics import aligned
from sat_tf.evaluation.stream import Stream

BATCH_SIZE = 256


def _png(image):
    return tf.io.encode_png(tf.cast(image, tf.uint8))


def _jpeg(quality, chroma_downsampling):
    return lambda image: tf.io.encode_jpeg(
        tf.cast(image, tf.uint8), quality=quality, chroma_downsampling=chroma_downsampling
    )


def _twice(image):
    height, width, _ = image.shape
    return _png(tf.round(tf.image.resize(image, [2 * height, 2 * width], "bilinear")))


# Each makes a file of an image in whole pixels, float32 [H, W, C]; None makes none.
WAYS: dict[str, Callable | None] = {
    "whole pixels": None,
    "PNG": _png,
    "PNG of twice the size": _twice,
    "JPEG, quality 95, 4:4:4": _jpeg(95, False),
    "JPEG, quality 95, 4:2:0": _jpeg(95, True),
    "JPEG, quality 75, 4:4:4": _jpeg(75, False),
    "JPEG, quality 75, 4:2:0": _jpeg(75, True),
}


def define_flags() -> None:
    """Defines the flags; only the main calls it."""
    flags.DEFINE_string("workdir", "runs/digits", "A run: its network.keras is attacked.")
    flags.DEFINE_string("dataset", "digits", "Data set: digits (embedded) or a TFDS set.")
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data; default: TFDS_DATA_DIR.")
    numbers.whole("num_images", 1_000, "Images from the beginning of the test split.", 1)
    numbers.whole("steps", 20, "Steps of PGD, each a quarter of epsilon.", 1, 10_000)
    numbers.pixels("epsilon", 32.0, "Radius in pixels, L-infinity.")
    numbers.whole("seed", 0, "Where the attack's noise comes from.", 0)


def through(images: np.ndarray, way: str) -> np.ndarray:
    """Rounds images to whole pixels, saves them as `WAYS` says and reads them again.

    Args:
      images: float32 [N, H, W, C] in pixels.

    Returns:
      float32 [N, H, W, C] in pixels.
    """
    whole, save = np.round(images), WAYS[way]
    if save is None:
        return whole

    @tf.function(input_signature=[tf.TensorSpec(images.shape[1:], tf.float32)], autograph=False)
    def saved_and_read(image):
        return signatures.decode(save(image), images.shape[1:])

    return np.stack([saved_and_read(one).numpy() for one in whole])


def correct(network, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns bool [N]: which images are classified as their labels say."""
    parts = range(0, len(images), BATCH_SIZE)
    logits = [network(images[i : i + BATCH_SIZE], training=False) for i in parts]
    return ~losses.misclassified(tf.concat(logits, axis=0), labels).numpy()


def measure(network, images, adversarial, labels) -> list[list[str]]:
    """Returns a row for every way: its name, two accuracies, the broken and the change of pixels.

    Args:
      images, adversarial: float32 [N, H, W, C] in pixels.
      labels: int32 [N].
    """
    recognised = correct(network, images, labels)
    standing = correct(network, adversarial, labels)
    broken = recognised & ~standing
    num_broken = int(broken.sum())
    rows = [["float pixels", _percent(recognised), _percent(standing), f"{num_broken}", "0", "0"]]
    for way in WAYS:
        saved = through(images, way)
        still_right = correct(network, through(adversarial, way), labels)
        still = int((broken & ~still_right).sum())
        change = np.abs(saved - images)
        rows.append(
            [
                way,
                _percent(correct(network, saved, labels)),
                _percent(still_right),
                f"{still} ({100 * still / max(1, num_broken):.1f} %)",
                f"{np.median(change.max(axis=(1, 2, 3))):.1f}",
                f"{change.mean():.1f}",
            ]
        )
    return rows


def _percent(which):
    return f"{100 * which.mean():.2f}"


def main() -> None:
    """Attacks, saves, reads and prints."""
    given = flags.FLAGS
    network = loading.load(given.workdir)
    test = data.load(
        given.dataset,
        "test",
        batch_size=BATCH_SIZE,
        image_size=network.input_shape[1],
        data_dir=given.data_dir,
    )
    attack = attacks.PGD(
        epsilon=given.epsilon, step_size=given.epsilon / 4, steps=given.steps, random_start=True
    )
    attacked = tf.function(attack, autograph=False)
    kept = []
    for indices, images, labels, count in Stream(test, BATCH_SIZE, given.num_images):
        seed = tf.constant([given.seed, int(indices[0])])
        adversarial = attacked(network, images, labels, seed)
        kept.append([np.asarray(one)[:count] for one in (images, adversarial, labels)])
    images, adversarial, labels = (np.concatenate(column) for column in zip(*kept, strict=True))
    head = [
        "saved as",
        "clean\n%",
        f"PGD-{given.steps}\n%",
        "broken, and\nstill so",
        "largest change\nof a pixel",
        "mean\nchange",
    ]
    print(f"{given.workdir}: {len(labels)} images of {given.dataset}, epsilon {given.epsilon:g}")
    print(machine.describe())
    print(aligned([head, *measure(network, images, adversarial, labels)]))


if __name__ == "__main__":
    define_flags()
    from sat_tf.cli import run

    run(main)
