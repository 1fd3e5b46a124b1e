"""Post-training full-integer quantisation of a LiteRT file, and what it costs in accuracy.

A network of integers has no gradient, so it is shown the adversarial images of the float network:
a transferred attack, after which its accuracy is an upper bound of its robust accuracy.

Source: Jacob et al., arXiv 1712.05877, equation 1: r = scale (q - zero_point), q int8; here as
TensorFlow's converter does it, the weights of a convolution with a scale for each channel.
"""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from export import expectations, runtimes
from sat_tf import data, loading
from sat_tf.attacks import PGD
from sat_tf.evaluation import plan, stream
from sat_tf.runs import workdir

STEPS = 20
# A logit may differ by this share of the largest; beyond it the file is of another network.
FURTHEST = 0.5
_ENDS = ("QUANTIZE", "DEQUANTIZE")  # from pixels and to logits, which are float32


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a quantisation is calibrated and measured.

    Attributes:
      dataset: as in `data.load`, as are `data_dir` and `eval_resize`.
      epsilon: radius of the attack in pixels.
      norm: of its ball.
      num_images: from the beginning of the test split.
      calibration_images: of the training split.
      seed: of their choice, and of the attack's noise.
    """

    dataset: str
    epsilon: float
    norm: str = "linf"
    data_dir: str | None = None
    eval_resize: str | None = None
    num_images: int = 1000
    calibration_images: int = 256
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Trial:
    """A plan with its images.

    Attributes:
      plan: where they are from.
      calibration: float32 [M, H, W, C] in pixels: they tell the range of every tensor.
      images: float32 [N, H, W, C] in pixels.
      labels: int32 [N].
    """

    plan: Plan
    calibration: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    @classmethod
    def read(cls, network: keras.Model, class_names: Sequence[str] | None, asked: Plan) -> "Trial":
        """Reads training images, chosen by the seed alone, and the first test images.

        Args:
          network: of one image size.
          class_names: its own; None where they are not known.
          asked: what to read.

        Raises:
          ValueError: data that are not there, or whose images or classes do not fit the network.
        """
        info = data.describe(asked.dataset, asked.data_dir)
        side = network.input_shape[1]
        loading.check_images(network, side, info.num_channels)
        info.check_classes(network.output_shape[-1], class_names)
        given = {"image_size": side, "eval_resize": asked.eval_resize, "data_dir": asked.data_dir}
        count = min(asked.calibration_images, info.num_examples["train"])
        # A shuffled batch of training, as the beginning of the split may be of one class.
        shuffled = {"training": True, "seed": asked.seed, "augment": "none"}
        chosen = data.load(asked.dataset, "train", batch_size=count, **shuffled, **given)
        first = data.load(asked.dataset, "test", batch_size=asked.num_images, **given)
        calibration, _ = next(iter(chosen.take(1)))
        images, labels = next(iter(first.take(1)))
        return cls(asked, calibration.numpy(), images.numpy(), labels.numpy())

    @property
    def attack(self) -> PGD:
        """PGD as `sat_tf.evaluate` has it by default, of 20 steps."""
        epsilon = self.plan.epsilon
        return PGD(epsilon=epsilon, step_size=epsilon / 4 or 1, steps=STEPS, norm=self.plan.norm)

    def adversarial(self, network: keras.Model) -> np.ndarray:
        """Returns what the attack makes of the images, float32 [N, H, W, C]: its last iterates."""
        attack, found = tf.function(self.attack, autograph=False), []
        for batch in stream.Stream((self.images, self.labels), 100):
            seeds = tf.constant(stream.seeds_of(self.plan.seed, batch.indices, 0))
            images, labels = tf.constant(batch.images), tf.constant(batch.labels)
            found.append(attack(network, images, labels, seeds).numpy()[: batch.count])
        return np.concatenate(found)


def options(calibration: np.ndarray) -> dict[str, Any]:
    """Returns what `keras.Model.export` passes on to the converter.

    An operation that has no integer form stays float32. Pixels and logits do as well, so that the
    file is asked as one of float32; its first operation rounds the pixels.

    Args:
      calibration: float32 [M, H, W, C] in pixels.
    """
    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: ([image[None]] for image in calibration),
        # The calibrator runs the graph without its variables having been given values.
        "experimental_enable_resource_variables": False,
    }


def measure(network: keras.Model, path: Path, trial: Trial) -> dict[str, Any]:
    """Shows the same images, clean and attacked, to the float network and to the file.

    Accuracies are fractions. `adversarial_accuracy` of the float network is after PGD's last
    iterate; the file's is called `adversarial_accuracy_upper_bound`, as nothing attacked it.

    Raises:
      ValueError: the runtime cannot run the file, it is not of integers, or a logit of a clean
        image differs by more than `FURTHEST` of the largest.
    """
    count = len(trial.labels)
    shown = np.concatenate([trial.images, trial.adversarial(network)])
    parts = np.array_split(shown, -(-len(shown) // 100))
    ours = np.concatenate([expectations.logits_of(network, part) for part in parts])
    answer = runtimes.ask(path, shown)
    if not any(one.endswith(" int8") for one in answer.operations):
        raise ValueError("the converter left every operation float32; write it without --int8")
    largest = float(np.abs(ours[:count]).max())
    difference = float(np.abs(answer.logits[:count] - ours[:count]).max())
    if not difference <= FURTHEST * largest:  # so written that NaN fails
        raise ValueError(
            f"the int8 file is not verified: its logits are {difference:.3g} off, the largest is "
            f"{largest:.3g}; give more --calibration_images, or write it without --int8"
        )
    return {
        "network": loading.facts(network),
        "data": {
            "dataset": trial.plan.dataset,
            "split": "test",
            "num_images": count,
            "calibration_images": len(trial.calibration),
        },
        "attack": plan.describe(trial.attack) | {"seed": trial.plan.seed, "computed_on": "float32"},
        "float32": _accuracies(ours, trial.labels, "adversarial_accuracy"),
        "int8": _accuracies(answer.logits, trial.labels, "adversarial_accuracy_upper_bound"),
        "bytes": path.stat().st_size,
        "largest_logit": largest,
        "largest_logit_difference": difference,
        "float32_operations": _left_float(answer.operations),
        **workdir.provenance(),
    }


def _accuracies(logits, labels, attacked_name):
    right = logits.argmax(1).reshape(2, -1) == labels
    return {"clean_accuracy": float(right[0].mean()), attacked_name: float(right[1].mean())}


def _left_float(operations):
    names = [one.split()[0] for one in operations if one.endswith(" float32")]
    return dict(collections.Counter(name for name in names if name not in _ENDS))


def told(figures: dict[str, Any]) -> str:
    """Returns the figures of `measure` as lines for people."""
    given, attack = figures["data"], figures["attack"]
    float32, quantised = (
        f"{kind:8}" + "".join(f"{100 * one:8.1f}" for one in figures[kind].values())
        for kind in ("float32", "int8")
    )
    left = [f"{count} {name}" for name, count in figures["float32_operations"].items()]
    return f"""\
{given["num_images"]} images of {given["dataset"]} {given["split"]}, accuracy in percent:
{"":8}{"clean":>8}{f"PGD-{attack['steps']}":>8}  {attack["norm"]} epsilon {attack["epsilon"]:g}
{float32}
{quantised}  an upper bound: a network of integers has no gradient, so it was shown
{"":26}the images that were made against the float network
largest difference of a logit {figures["largest_logit_difference"]:.3g}, largest logit \
{figures["largest_logit"]:.3g}, on clean images
operations that stay float32, but for pixels and logits: {", ".join(left) or "none"}"""
