"""What does leaving broken images save?

    python -m benchmarks.evaluate
    python -m benchmarks.evaluate --workdir=runs/digits --steps=50 --num_images=64
    python -m benchmarks.evaluate --workdir=runs/cifar10_swish --only=packed,plain,foolbox

PGD with one random start on the same network and images: packed; the same without packing, from
which the verdicts must not differ; foolbox's and ART's PGD on the same Keras network; a PyTorch
loop on the same weights. foolbox, ART and PyTorch are compared where they are installed.
"""

import time

import keras
import tensorflow as tf
from absl import flags

from benchmarks import contenders, pytorch_attack, timing
from benchmarks.contenders import Contender, Problem
from flags import numbers
from sat_tf import data, loading, models
from sat_tf.attacks import losses
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.evaluation.report.statistics import aligned
from sat_tf.evaluation.stream import Stream

# Returns None where a contender cannot run: not installed, or another network.
MAKERS = {
    "packed": contenders.packed,
    "plain": contenders.plain,
    "foolbox": contenders.foolbox_loop,
    "ART": contenders.art_loop,
    "PyTorch loop": pytorch_attack.pytorch,
}


def define_flags() -> None:
    """Defines the flags; only the main calls it."""
    flags.DEFINE_string("workdir", None, "A run; default: a small network, trained here on digits.")
    flags.DEFINE_string("dataset", "digits", "Data set: digits (embedded) or a TFDS set.")
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data; default: TFDS_DATA_DIR.")
    numbers.whole("num_images", 256, "Images of the test split.", 1)
    numbers.whole("batch_size", 128, "Images evaluated at once.", 1, 2**20)
    numbers.whole("steps", 200, "Steps of PGD.", 1, 10_000)
    numbers.pixels("epsilon", 8.0, "Radius in pixels; ignored without a workdir.")
    numbers.whole("threads", 0, "Threads of a CPU operation; 0: one a core.", 0, 1_024)
    flags.DEFINE_list("only", [], "Contenders by the beginning of their names; default: all.")


def digits_problem(given) -> Problem:
    """Trains a small network on digits and chooses the epsilon at which about 40 % stand."""
    train, test = (data.load("digits", split, batch_size=128) for split in ("train", "test"))
    network = models.build(
        "resnet8", activation="swish", num_classes=10, image_size=8, num_channels=1
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    network.fit(train, epochs=12, verbose=0, shuffle=False)
    images, labels = next(iter(Stream(test, given.num_images, given.num_images)))[1:3]
    low, high = 0.0, 128.0
    for _ in range(7):
        epsilon = (low + high) / 2
        attack = RestartedPGD(epsilon=epsilon, step_size=epsilon / 4, steps=20)
        adversarial = attack(network, images, labels, tf.constant([0, 0]))
        standing = ~losses.misclassified(network(adversarial), labels).numpy()
        low, high = (epsilon, high) if standing.mean() > 0.4 else (low, epsilon)
    return Problem(network, images, labels, epsilon, given)


def run_problem(given) -> Problem:
    """Takes the network of a run and the first test images."""
    network = loading.load(given.workdir)
    test = data.load(
        given.dataset,
        "test",
        batch_size=given.batch_size,
        image_size=network.input_shape[1],
        data_dir=given.data_dir,
    )
    _, images, labels, _ = next(iter(Stream(test, given.num_images, given.num_images)))
    return Problem(network, images, labels, given.epsilon, given)


def report(made: dict[str, Contender]) -> str:
    """Runs every contender once, from its first graph to its last verdict; returns a table."""
    rows, reference, seconds = [["", "seconds", "images/s", "times packed", "standing"]], None, {}
    for name, run in made.items():
        start = time.perf_counter()
        standing = run()
        seconds[name] = time.perf_counter() - start
        reference = standing if reference is None else reference
        if name == "plain" and (standing != reference).any():
            raise ValueError("packed and plain evaluation give different verdicts")
        rows.append(
            [
                name,
                f"{seconds[name]:.1f}",
                f"{len(standing) / seconds[name]:.2f}",
                f"{seconds[name] / seconds['packed']:.2f}",
                f"{100 * standing.mean():.1f} %",
            ]
        )
        print(".", end="", flush=True)
    print()
    return aligned(rows)


def main() -> None:
    """Measures and prints."""
    given = flags.FLAGS
    if given.threads:
        tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    keras.utils.set_random_seed(0)
    problem = run_problem(given) if given.workdir else digits_problem(given)
    wanted = {
        name: make
        for name, make in MAKERS.items()
        if name == "packed" or not given.only or any(name.startswith(one) for one in given.only)
    }
    made = {name: make(problem) for name, make in wanted.items()}
    missing = [name for name, run in made.items() if run is None]
    print(
        f"PGD-{given.steps}, epsilon {problem.epsilon:g} of 255, {len(problem.labels)} images, "
        f"batch {given.batch_size}, {problem.network.name}\n{timing.machine()}",
        flush=True,
    )
    print(report({name: run for name, run in made.items() if run}))
    print("packed and plain: the same verdicts, image by image; misclassified images included")
    if missing:
        print(f"not compared here: {', '.join(missing)} (not installed, or another network)")


if __name__ == "__main__":
    define_flags()
    from sat_tf.cli import run

    run(main)
