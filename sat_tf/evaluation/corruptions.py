"""Measures a network on corrupted images, each corruption at each severity."""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any

from sat_tf import data, loading
from sat_tf.data import corruptions
from sat_tf.evaluation.progress import Countdown
from sat_tf.evaluation.report.corruptions import CorruptionReport, read_baseline
from sat_tf.evaluation.runner import inference, judged
from sat_tf.evaluation.settings import DECISIVE, Settings, load_images
from sat_tf.evaluation.stream import Stream
from sat_tf.runs import sealed, workdir

_OF_ATTACKS = (
    "attacks cluster curve epsilon epsilons fold_batch_norm image_type last_iterate norm norms "
    "restarts save_every step_size steps_curve surrogate worker_timeout"
).split()


@dataclasses.dataclass(frozen=True)
class Kinds:
    """Which corrupted images there are to measure.

    Attributes:
      names: of `corruptions.NAMES`.
      severities: of `corruptions.SEVERITIES`.
      baseline: another network's accuracies by (name, severity), or None.
    """

    names: tuple[str, ...]
    severities: tuple[int, ...]
    baseline: Mapping[tuple[str, int], float] | None

    @classmethod
    def of(cls, settings: Settings) -> "Kinds":
        """Reads the flags, and sees that a stored set has all kinds before any is measured.

        Raises:
          ValueError: an unknown corruption or severity, a set that is not there, a baseline that
            does not fit, a flag of attacks.
        """
        flags = settings.flags
        for name in _OF_ATTACKS:
            if flags[name].present:
                raise ValueError(
                    f"--{name} is of attacks, and --corruptions measures without any; give two "
                    "commands"
                )
        if flags.strategy == "multi_worker":
            raise ValueError(
                "--strategy=multi_worker shares attacks out, and --corruptions measures without "
                "any; take one_device, mirrored or tpu"
            )
        names = corruptions.parse(flags.corruptions)
        severities = tuple(sorted(corruptions.parse_severities(flags.severities)))
        if corruptions.is_stored(settings.dataset):
            for name, severity in itertools.product(names, severities):
                _require(settings, corruptions.stored(settings.dataset, name, severity))
        path = flags.corruption_baseline
        baseline = None if path is None else read_baseline(path, names, severities)
        return cls(names, severities, baseline)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return itertools.product(self.names, self.severities)

    def __len__(self) -> int:
        return len(self.names) * len(self.severities)


def refuse_other(settings: Settings, network: Any) -> None:
    """Refuses to take the place of a report of another measurement, unless --overwrite is given.

    Raises:
      ValueError: there is a corruption report of other weights, images or flags.
    """
    path = settings.report
    if settings.flags.overwrite or not path.is_file():
        return
    try:
        there = sealed.read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; give another --json, or --overwrite to replace it") from error
    flags = there.get("flags", {})
    different = [
        f"--{name}"
        for name in DECISIVE
        if name not in ("dataset", "split") and flags.get(name) != getattr(settings.flags, name)
    ]
    if there.get("data") != {"dataset": settings.dataset, "split": settings.split}:
        different.insert(0, "another data set")
    if there.get("network", {}).get("weights_sha256") != loading.facts(network)["weights_sha256"]:
        different.insert(0, "other weights of the network")
    if different:
        raise ValueError(
            f"{path} belongs to another evaluation: {', '.join(different)}; give another --json, "
            "or --overwrite to replace it"
        )


def measure(
    settings: Settings, kinds: Kinds, network: Any, about: Mapping[str, Mapping[str, Any]]
) -> CorruptionReport:
    """Counts the images that a network classifies right, kind by kind.

    Where the data set is none of corrupted images, its own are corrupted, see `data.corruptions`,
    and measured without corruption as well.

    Args:
      settings: of the program: data set, number of images, batch size, seed.
      kinds: which corruptions and severities.
      network: maps pixels to logits [N, C] and takes `training`.
      about: facts of the report that only the caller knows.

    Raises:
      ValueError: images that cannot be corrupted, or no package to do so.
    """
    batch_size, num_images = settings.flags.batch_size, settings.flags.num_images
    clock, clean, source = time.monotonic(), None, settings.dataset
    forward = inference(network)

    def right(batches):
        return judged(forward, Stream(batches, batch_size, num_images)).correct

    if not corruptions.is_stored(settings.dataset):
        images, shape = load_images(settings, network)
        corruptions.check_shape(shape[1:])
        corruptions.library()
        clean = right(images)
        source = f"computed by {corruptions.PACKAGE}, with the constants of ImageNet-C"
    correct, countdown = {}, Countdown("corruptions", len(kinds), lambda n: f"{n}/{len(kinds)}")
    try:
        for name, severity in kinds:
            if clean is None:
                one = _named(settings, corruptions.stored(settings.dataset, name, severity))
                batches, _ = load_images(one, network)
            else:
                seed = settings.flags.seed
                batches = corruptions.Corrupted(images, name, severity, seed, num_images)
            correct[name, severity] = right(batches)
            countdown.advance(1)
    finally:
        countdown.close()
    facts = {
        "network": loading.facts(network),
        "corruptions_are": source,
        "seed": settings.flags.seed,
        "versions": workdir.versions(),
    }
    facts |= {name: {**facts.get(name, {}), **more} for name, more in about.items()}
    seconds = time.monotonic() - clock
    return CorruptionReport(clean, correct, facts, seconds, kinds.baseline)


def _named(settings, dataset):
    return dataclasses.replace(settings, dataset=dataset)


def _require(settings, dataset):
    try:
        data.describe(dataset, settings.data_dir)
    except ValueError as error:
        base = settings.dataset.removesuffix("_corrupted")
        raise ValueError(
            f"{error}; --dataset={base} computes the corruptions from its test images instead"
        ) from error
