"""What the program evaluates: its flags, completed by what the run wrote down about itself."""

import contextlib
import dataclasses
import math
import os
import pathlib
import re
import sys
import zlib
from typing import Any

import tensorflow as tf

from sat_tf import data, loading, quiet
from sat_tf.attacks import geometry
from sat_tf.data import classes, selection
from sat_tf.runs import distribution, places

_LARGEST_RADIUS = 1e9  # in pixels, as of --epsilon
_LONGEST_NAME = 150  # so that every file beside the report has a name of at most 255 bytes


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which network, which images, which ball: what a flag or the run says.

    Attributes:
      flags: the parsed flags, for everything that no run says.
      source: what `loading.load` takes.
      report: where the report goes.
      dataset, split, data_dir, image_size, eval_resize: what `data.load` takes.
      epsilon: radius of the ball in pixels.
      norm: of `geometry.NORMS`.
      balls: (norm, radius) of each ball where there are several, else empty; `each` takes them.
      curve: radii in pixels for accuracy over epsilon.
      input_range: what pixels 0 and 255 are to the network, or None.
      about: what the run says about itself: class_names, model, activation, …
    """

    flags: Any
    source: str
    report: pathlib.Path
    dataset: str
    split: str
    data_dir: str | None
    image_size: int | None
    eval_resize: str | None
    epsilon: float
    norm: str
    balls: tuple[tuple[str, float], ...]
    curve: tuple[float, ...]
    input_range: tuple[float, ...] | None
    about: dict[str, Any]

    @property
    def radii(self) -> list[float]:
        """Returns every radius that is attacked, the evaluation's own first."""
        return list(dict.fromkeys([self.epsilon, *self.curve]))

    def each(self) -> list["Settings"]:
        """Returns the settings of each ball, with a report of its own: `report.linf.json`."""
        return [
            dataclasses.replace(
                self, norm=norm, epsilon=epsilon, report=self.report.with_suffix(f".{norm}.json")
            )
            for norm, epsilon in self.balls
        ]


def complete(flags: Any) -> Settings:
    """Fills what the flags leave open from the `metrics.json` of the run, or of the zoo's network.

    Args:
      flags: those of `flags.evaluate`, parsed.

    Raises:
      ValueError: neither or both of workdir and network; something that neither says.
    """
    source, run = loading.chosen(flags.workdir, flags.network)

    def choose(name, default=None):
        value = getattr(flags, name)
        return run.get(name, default) if value is None else value

    balls = _balls(flags, run)
    # Without attacks, or with balls of their own, there is no ball to ask for.
    needed = 1 if flags.corruptions or balls else 2
    for name, example in (("dataset", "digits"), ("epsilon", "8"))[:needed]:
        if choose(name) is None:
            raise ValueError(
                f"--{name} is not given and no run says it: such as --{name}={example}"
            )
    return Settings(
        flags=flags,
        source=source,
        report=places.of(flags.json) if flags.json else _default_report(flags),
        dataset=choose("dataset"),
        split=flags.split,
        data_dir=choose("data_dir"),
        image_size=choose("image_size"),
        eval_resize=choose("eval_resize"),
        epsilon=float(choose("epsilon", 0)),
        norm=choose("norm", "linf"),
        balls=balls,
        curve=tuple(_number(x, "--curve=0,1,2,4,8", 0.0, _LARGEST_RADIUS) for x in flags.curve),
        input_range=None
        if flags.input_range is None
        else tuple(_number(text, "--input_range=0,1") for text in flags.input_range),
        about=run,
    )


def load_network(settings: Settings) -> tuple[Any, tf.distribute.Strategy | None]:
    """Returns the network, fed with pixels, and the strategy in whose scope it was made or None.

    Raises:
      ValueError: a network or a strategy that is not there.

    A worker of `multi_worker` takes the devices of its own machine (see `shares`).
    """
    name = settings.flags.strategy
    if settings.input_range is not None or settings.flags.preprocessing != "none":
        loading.refuse_prepared(settings.source)
    if settings.flags.logical_cpus > 1:
        # Before TensorFlow looks at the devices, which it does once.
        distribution.split_cpu(settings.flags.logical_cpus)
    if name == "multi_worker":
        name = "mirrored" if len(distribution.devices_here()) > 1 else "one_device"
    strategy = None if name == "one_device" else distribution.strategy(name)
    scope = strategy.scope() if strategy else contextlib.nullcontext()
    with scope, quiet.waiting(f"loading {settings.source}"):
        network = loading.load(settings.source)
    loading.image_form(network)
    return loading.adapt(network, settings.input_range, settings.flags.preprocessing), strategy


def load_surrogate(
    settings: Settings, network: Any, strategy: tf.distribute.Strategy | None
) -> tuple[Any, str] | None:
    """Returns the network on which attacks are computed, with what tells it; None: the network.

    Raises:
      ValueError: it takes other images or has other classes, or attacks are to be restarted.
    """
    source = settings.flags.surrogate
    if source is None:
        return None
    if settings.flags.restarts > 1:
        raise ValueError(
            f"--restarts={settings.flags.restarts} does not apply to --surrogate, where one image "
            "is shown for each attack; leave it out"
        )
    scope = strategy.scope() if strategy else contextlib.nullcontext()
    with scope, quiet.waiting(f"loading {source}"):
        surrogate = loading.load(source)
    ours, theirs = loading.image_form(network), loading.image_form(surrogate)
    pairs = zip((*ours[0], ours[1]), (*theirs[0], theirs[1]), strict=True)
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError(
            f"the surrogate {source} maps {theirs[0]} pixels to {theirs[1]} classes and the "
            f"network {ours[0]} to {ours[1]}; give a surrogate for the same images and classes"
        )
    return surrogate, f"{source} {loading.weights_hash(surrogate)}"


def load_images(settings: Settings, network: Any) -> tuple[Any, tuple[int | None, ...]]:
    """Returns the images, labelled with the network's classes, and their shape [N, H, W, C]."""
    max_pixels = settings.flags.max_pixels
    info = data.describe(settings.dataset, settings.data_dir, max_pixels=max_pixels)
    loading.check_images(network, settings.image_size, info.num_channels)
    side = settings.image_size or network.input_shape[1]
    dataset = data.load(
        settings.dataset,
        settings.split,
        batch_size=settings.flags.batch_size,
        image_size=side,
        eval_resize=settings.eval_resize,
        data_dir=settings.data_dir,
        max_pixels=max_pixels,
    )
    names, num_classes = loading.class_names(settings.source), network.output_shape[-1]
    dataset = classes.labelled(dataset, info, num_classes, names, settings.flags.classes)
    num_images = info.num_examples[settings.split]
    if settings.flags.ids is not None:
        wanted = selection.positions(
            settings.flags.ids, settings.dataset, settings.split, max_pixels
        )
        dataset, num_images = selection.Selected(dataset, wanted), len(wanted)
    num_images = min(num_images, settings.flags.num_images or num_images)
    sides = (side, side) if side else info.image_shape[:2]
    return dataset, (num_images, *sides, info.num_channels)


# What decides the figures, and therefore the name of a report that is given none.
DECISIVE = (
    "attacks dataset split ids classes num_images image_size eval_resize input_range preprocessing "
    "epsilon norm step_size restarts last_iterate curve seed batch_size fold_batch_norm image_type "
    "surrogate norms epsilons corruptions severities corruption_baseline"
).split()


def _default_report(flags):
    """Names the report of a run after what is asked beyond the default, so that each has its own.

    `RUN/report.json`; with `--attacks=autoattack --num_images=1000` it is
    `RUN/report_autoattack_num_images-1000.json`. That of `--network=nets/mine.keras` is
    `report_nets-mine.json` in the current directory.
    """
    parts = ["report"]
    if flags.workdir is None:
        parts.append(_plain(flags.network.removesuffix(".keras")))
    for name in DECISIVE:
        flag = flags[name]
        if flag.value == flag.default:
            continue
        value = flag.value if isinstance(flag.value, list) else [flag.value]
        text = "-".join(_plain(f"{v:g}" if isinstance(v, float) else str(v)) for v in value)
        parts.append(text if name == "attacks" else f"{name}-{text}")
    name = "_".join(parts)
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}-{zlib.crc32(name.encode()):08x}"
    return places.of(flags.workdir or "") / f"{name}.json"


def _plain(text):
    return re.sub(r"[^A-Za-z0-9.+_-]+", "-", text.removeprefix(os.sep)).strip("-")


def _balls(flags, run):
    """Returns (norm, radius) of each of several balls, of the flags or else of the run."""
    norms, epsilons = flags.norms, flags.epsilons
    if not norms and not epsilons and not any(flags[one].present for one in ("norm", "epsilon")):
        norms, epsilons = run.get("norms", []), run.get("epsilons", [])
    example = "--norms=linf,l2,l1 --epsilons=8,127.5,3060"
    if len(norms) != len(epsilons) or len(norms) == 1 or len(set(norms)) < len(norms):
        raise ValueError(
            f"--norms={','.join(norms)} and --epsilons={','.join(map(str, epsilons))}; give two "
            f"norms or more, each once, and a radius for each: {example}"
        )
    for name in ("norm", "epsilon", "step_size", "curve"):
        if norms and flags[name].present:
            raise ValueError(f"--{name} is of one ball, and --norms gives several; leave one out")
    radii = [_number(text, example, 0.0, _LARGEST_RADIUS) for text in epsilons]
    return tuple((geometry.check_norm(norm), r) for norm, r in zip(norms, radii, strict=True))


def _number(text, example, least=-sys.float_info.max, most=sys.float_info.max):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise ValueError(f"{text!r} is not a number that fits here; write such as {example}")
    return value
