"""What does smooth cost?

    python -m benchmarks.activations
    python -m benchmarks.activations --activation=swish --activation=gelu --rounds=31
    python -m benchmarks.activations --model=resnet50 --image_size=224 --json=activations.json

Times the PGD-1 training step of one network with every activation, in interleaved rounds of one
run, over the same step with ReLU; and the memory that a step takes on top of what it found.
"""

import multiprocessing
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks import machine, step_cases, timing
from benchmarks.timing import Times
from flags import numbers
from sat_tf import models
from sat_tf.activations import table
from sat_tf.evaluation.report.statistics import aligned
from sat_tf.training.rematerialization import rematerialize

BASELINE = "relu"
REMAT = " remat"
FLAGS = (
    "model", "activation", "image_size", "batch_size", "rounds", "threads", "precision", "jit",
    "memory", "remat",
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
    flags.DEFINE_bool("remat", False, "Time each activation with --remat of train as well.")
    flags.DEFINE_string("json", None, "Where all figures go, round by round.")


def make_step(given, spec: str) -> Callable[[], object]:
    """Builds the network with an activation and returns its training step, already traced.

    A spec that ends in " remat" is that activation in a network that is rematerialised.
    """
    spec, remat = spec.removesuffix(REMAT), spec.endswith(REMAT)
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(given.precision)
    side = given.image_size
    images = tf.random.uniform([given.batch_size, side, side, 3], 0, 255)
    labels = tf.random.uniform([given.batch_size], 0, 10, tf.int32)
    name, options = models.parse(given.model)
    network = models.build(name, activation=spec, num_classes=10, image_size=side, **options)
    trainer = step_cases.make_trainer(network, 1)
    if remat:
        rematerialize(network)
    function = tf.function(trainer.train_step, autograph=False, jit_compile=given.jit)
    function.get_concrete_function((images, labels))
    return lambda: function((images, labels))["loss"].numpy()


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
    peak = machine.peak_memory(step)
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


def report(times: Mapping[str, Times], memory: Mapping[str, float]) -> list[list[str]]:
    """Lays out the table; every ratio is taken within its round before the median.

    Without memory (an empty mapping) its columns are left out.
    """
    rows = [["activation", "ms", "/ relu", "quartiles", "processor / relu"]]
    rows[0] += ["MiB", "/ relu"] if memory else []
    baseline = times[BASELINE]
    for spec, (wall, processor, _) in times.items():
        median, lower, upper = timing.quartiles(wall / baseline.wall)
        rows.append([spec, f"{1000 * np.median(wall):.1f}", f"{median:.3f}"])
        rows[-1] += [f"{lower:.3f} to {upper:.3f}"]
        rows[-1] += [f"{np.median(processor / baseline.processor):.3f}"]
        if memory:
            rows[-1] += [f"{memory[spec]:.0f}", f"{memory[spec] / memory[BASELINE]:.3f}"]
    return rows


def measure(given) -> tuple[dict[str, Times], dict[str, float]]:
    """Builds and warms everything up and measures; returns times and memory."""
    _use_threads(given)
    chosen = dict.fromkeys([BASELINE, *given.activation])
    if given.remat:
        chosen |= dict.fromkeys(spec + REMAT for spec in list(chosen))
    steps = {spec: make_step(given, spec) for spec in chosen}
    cases = {spec: timing.of_step(step) for spec, step in steps.items()}
    timing.interleaved(cases, 1)
    times = timing.interleaved(cases, given.rounds)
    memory = measure_memory(given, steps) if given.memory else {}
    return times, memory


def main() -> None:
    """Measures, prints and, where asked to, writes."""
    # Plain values: the processes that measure memory have no flags.
    given = types.SimpleNamespace(**{name: flags.FLAGS[name].value for name in FLAGS})
    about = machine.describe()
    print(
        f"PGD-1 step of {given.model}, batch {given.batch_size} at {given.image_size} x "
        f"{given.image_size}, {given.precision}, {given.rounds} rounds\n{about}\n",
        flush=True,
    )
    times, memory = measure(given)
    rows = report(times, memory)
    print(aligned(rows))
    machine.write(flags.FLAGS.json, about, times, {"table": rows})


if __name__ == "__main__":
    define_flags()
    from sat_tf.cli import run

    run(main)
