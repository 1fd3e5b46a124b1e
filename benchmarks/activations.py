"""What does smooth cost?

    python -m benchmarks.activations
    python -m benchmarks.activations --activation=swish --activation=gelu --rounds=31
    python -m benchmarks.activations --model=resnet50 --image_size=224 --batch_size=32

Times the PGD-1 training step of one network with every activation, in interleaved rounds of one
run, over the same step with ReLU; and the memory that a step takes on top of what it found.
"""

import multiprocessing
import time
import types
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks import step_cases, timing
from flags import numbers
from sat_tf import models
from sat_tf.activations import table

BASELINE = "relu"
FLAGS = (
    "model", "activation", "image_size", "batch_size", "rounds", "threads", "precision", "jit",
    "memory",
)  # fmt: skip


def define_flags() -> None:
    """Defines the flags; only the main calls it."""
    flags.DEFINE_string("model", "resnet18:width=16", "Network, with options after a colon.")
    flags.DEFINE_multi_string("activation", list(table.DEFAULT), "What to time.")
    numbers.whole("image_size", 32, "Side of the images in pixels.", 1, 8_192)
    numbers.whole("batch_size", 128, "Images a step.", 1, 2**20)
    numbers.whole("rounds", 11, "Times that every activation is timed.", 1, 10_000)
    numbers.whole("threads", 0, "Threads of a CPU operation; 0: one a core.", 0, 1_024)
    flags.DEFINE_string("precision", "float32", "float32, mixed_bfloat16 or mixed_float16.")
    flags.DEFINE_bool("jit", False, "Compile the step with XLA.")
    flags.DEFINE_bool("memory", True, "Measure memory too, on a CPU in a process for each.")


def make_step(given, spec: str) -> Callable[[], object]:
    """Builds the network with an activation and returns its training step, already traced."""
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(given.precision)
    side = given.image_size
    images = tf.random.uniform([given.batch_size, side, side, 3], 0, 255)
    labels = tf.random.uniform([given.batch_size], 0, 10, tf.int32)
    name, options = models.parse(given.model)
    network = models.build(name, activation=spec, num_classes=10, image_size=side, **options)
    trainer = step_cases.make_trainer(network, 1)
    function = tf.function(trainer.train_step, autograph=False, jit_compile=given.jit)
    function.get_concrete_function((images, labels))
    return lambda: function((images, labels))["loss"].numpy()


def both_clocks(step: Callable[[], object], processor: list[float]) -> timing.Case:
    """Makes a case that also appends the processor's seconds, which other programs slow less."""
    wall = timing.of_step(step)

    def seconds() -> float:
        start = time.process_time()
        result = wall()
        processor.append(time.process_time() - start)
        return result

    return seconds


def working_memory(step: Callable[[], object]) -> float:
    """Returns the most MiB that a step has in use beyond what was in use before it.

    On a CPU the process must not have run a step before: TensorFlow keeps what it has freed. NaN
    where the system keeps no peak that can be reset.
    """
    if tf.config.list_physical_devices("GPU"):
        before = tf.config.experimental.get_memory_info("GPU:0")["current"] / 2**20
    else:
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        before = next((int(x.split()[1]) / 2**10 for x in lines if x.startswith("VmRSS")), 0.0)
    peak = timing.peak_memory(step)
    return float("nan") if peak is None else peak - before


def _fresh_working_memory(given, spec: str) -> float:
    _use_threads(given)
    return working_memory(make_step(given, spec))


def measure_memory(given, steps: dict[str, Callable]) -> dict[str, float]:
    """Measures every step's memory: on a GPU here, else each in a process of its own."""
    if tf.config.list_physical_devices("GPU"):
        return {spec: working_memory(step) for spec, step in steps.items()}
    context, found = multiprocessing.get_context("spawn"), {}
    for spec in steps:
        with context.Pool(1) as pool:
            found[spec] = pool.apply(_fresh_working_memory, (given, spec))
    return found


def _use_threads(given) -> None:
    if given.threads:
        tf.config.threading.set_intra_op_parallelism_threads(given.threads)
        tf.config.threading.set_inter_op_parallelism_threads(given.threads)


def report(
    wall: dict[str, np.ndarray], processor: dict[str, np.ndarray], memory: dict[str, float]
) -> str:
    """Lays out the table; every ratio is taken within its round before the median."""
    lines = [
        f"{'activation':24} {'ms':>8} {'/ relu':>7} {'quartiles':>13} "
        f"{'CPU time / relu':>16} {'MiB':>7} {'/ relu':>7}"
    ]
    for spec in wall:
        median, lower, upper = timing.quartiles(wall[spec] / wall[BASELINE])
        busy = np.median(processor[spec] / processor[BASELINE])
        lines.append(
            f"{spec:24} {1000 * np.median(wall[spec]):8.1f} {median:7.3f} {lower:6.3f} {upper:6.3f}"
            f" {busy:16.3f} {memory[spec]:7.0f} {memory[spec] / memory[BASELINE]:7.3f}"
        )
    return "\n".join(lines)


def measure(given):
    """Builds and warms everything up and measures; returns wall, processor and memory figures."""
    _use_threads(given)
    chosen = dict.fromkeys([BASELINE, *given.activation])
    steps = {spec: make_step(given, spec) for spec in chosen}
    processor = {spec: [] for spec in steps}
    cases = {spec: both_clocks(step, processor[spec]) for spec, step in steps.items()}
    for case in cases.values():
        case()
    for seconds in processor.values():
        seconds.clear()
    wall = timing.interleaved(cases, given.rounds)
    processor = {spec: np.array(seconds) for spec, seconds in processor.items()}
    memory = measure_memory(given, steps) if given.memory else dict.fromkeys(steps, float("nan"))
    return wall, processor, memory


def main() -> None:
    """Measures and prints."""
    # Plain values: the processes that measure memory have no flags.
    given = types.SimpleNamespace(**{name: flags.FLAGS[name].value for name in FLAGS})
    print(
        f"PGD-1 step of {given.model}, batch {given.batch_size} at {given.image_size} x "
        f"{given.image_size}, {given.precision}, {given.rounds} rounds\n{timing.machine()}\n",
        flush=True,
    )
    print(report(*measure(given)))


if __name__ == "__main__":
    define_flags()
    from sat_tf.cli import run

    run(main)
