"""How much does adversarial training cost?

    python -m benchmarks.train_step
    python -m benchmarks.train_step --dataset=cifar10 --rounds=9
    python -m benchmarks.train_step --model=resnet50 --image_size=224 --batch_size=16 --nopytorch

Everything is timed in one run, in interleaved rounds; ratios are taken round by round.
"""

import itertools

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks import step_cases, timing
from flags import numbers
from sat_tf import data, models, quiet


def define_flags() -> None:
    """Defines the flags; only the main calls it."""
    flags.DEFINE_string("model", "resnet18:width=16", "Network, with options after a colon.")
    flags.DEFINE_string("activation", "swish", "The activation that is compared with relu.")
    flags.DEFINE_string("dataset", "digits", "Data set: digits (embedded) or a TFDS set.")
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data; default: TFDS_DATA_DIR.")
    numbers.whole("image_size", 32, "Side of the images in pixels.", 1, 8_192)
    numbers.whole("batch_size", 128, "Images a step.", 1, 2**20)
    numbers.whole("rounds", 7, "Times that everything is measured.", 1, 10_000)
    numbers.whole("fit_steps", 8, "Steps of fit in a round.", 2, 10_000)
    numbers.whole("threads", 0, "Threads of a CPU operation; 0: one a core.", 0, 1_024)
    flags.DEFINE_string("precision", "float32", "float32, mixed_bfloat16 or mixed_float16.")
    flags.DEFINE_bool("pytorch", True, "Compare with PyTorch, where that is installed.")


def ratios(seconds: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray, str]]:
    """Returns (what, ratio in every round, aim) for what was timed."""
    clean, one, ten = seconds["clean"], seconds["pgd1"], seconds["pgd10"]
    gradient = seconds["10 gradients"] / 10
    rows = [
        ("PGD-1 step / clean step", one / clean, "at most 1.55"),
        ("PGD-10 step / clean step", ten / clean, "at most 6.3"),
        ("PGD-1's cost a step / bare gradient", (one - clean) / gradient, ""),
        ("PGD-10's cost a step / bare gradient", (ten - clean) / 10 / gradient, "below 1.05"),
        ("clean step / relu's clean step", clean / seconds["relu clean"], ""),
        ("PGD-1 step / relu's PGD-1 step", one / seconds["relu pgd1"], ""),
        ("fit with PGD-1 / PGD-1 step", seconds["fit"] / one, "at most 1.05"),
    ]
    if "pytorch" in seconds:
        rows.append(("PyTorch's PGD-1 step / ours", seconds["pytorch"] / one, "above 1"))
    return rows


def report(seconds, memory, batch_size: int) -> str:
    """Lays out the table of times, ratios and memory."""
    lines = [f"{'what':38} {'ms':>8} {'images/s':>9}"]
    for name, values in seconds.items():
        median = np.median(values)
        lines.append(f"{name:38} {1000 * median:8.1f} {batch_size / median:9.1f}")
    lines += ["", f"{'ratio':38} {'median':>8} {'quartiles':>15}   aim"]
    for what, values, aim in ratios(seconds):
        median, lower, upper = timing.quartiles(values)
        lines.append(f"{what:38} {median:8.3f} {lower:7.3f} {upper:7.3f}   {aim}".rstrip())
    measured = {name: peak for name, peak in memory.items() if peak is not None}
    if measured:
        lines += ["", f"{'peak memory':38} {'MiB':>8} {'/ clean':>9}"]
    for name, peak in measured.items():
        lines.append(f"{name:38} {peak:8.0f} {peak / measured['clean']:9.3f}")
    return "\n".join(lines)


def measure(given):
    """Builds everything, warms it up and measures; returns seconds and memory."""
    if given.threads:
        tf.config.threading.set_intra_op_parallelism_threads(given.threads)
        tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(given.precision)
    info = data.describe(given.dataset, given.data_dir)
    stream = data.load(
        given.dataset,
        "train",
        batch_size=given.batch_size,
        image_size=given.image_size,
        data_dir=given.data_dir,
        training=True,
    )
    batch = next(iter(stream))
    name, options = models.parse(given.model)
    swish, relu = (
        models.build(
            name,
            activation=activation,
            num_classes=info.num_classes,
            image_size=given.image_size,
            num_channels=info.num_channels,
            **options,
        )
        for activation in (given.activation, "relu")
    )
    trainer = step_cases.make_trainer(swish, 1)
    steps = {
        "clean": step_cases.bare_step(step_cases.make_trainer(swish, 0), batch),
        "pgd1": step_cases.bare_step(trainer, batch),
        "pgd10": step_cases.bare_step(step_cases.make_trainer(swish, 10), batch),
        "10 gradients": step_cases.bare_gradients(swish, batch),
        "relu clean": step_cases.bare_step(step_cases.make_trainer(relu, 0), batch),
        "relu pgd1": step_cases.bare_step(step_cases.make_trainer(relu, 1), batch),
    }
    memory = {}
    for name in itertools.islice(steps, 3):
        with quiet.waiting(f"tracing {name}, and measuring its memory"):
            steps[name]()
            memory[name] = timing.peak_memory(steps[name])
    cases = {name: timing.of_step(step) for name, step in steps.items()}
    cases["fit"] = step_cases.fit_case(trainer, stream, given.fit_steps)
    pytorch = step_cases.pytorch_case(given, swish, batch, info.num_classes)
    if pytorch is not None:
        cases["pytorch"] = pytorch
    for name, case in cases.items():
        with quiet.waiting(f"tracing {name}"):
            case()
    return timing.interleaved(cases, given.rounds), memory


def main() -> None:
    """Measures and prints."""
    given = flags.FLAGS
    print(
        f"{given.model}, {given.activation}, batch {given.batch_size} of {given.dataset} at "
        f"{given.image_size} x {given.image_size}, {given.precision}, {given.rounds} rounds\n"
        f"{timing.machine()}\n",
        flush=True,
    )
    print(report(*measure(given), given.batch_size))


if __name__ == "__main__":
    define_flags()
    from sat_tf.cli import run

    run(main)
