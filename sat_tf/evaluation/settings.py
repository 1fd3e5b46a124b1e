"""What an evaluation evaluates: flags, completed by what the run wrote down about itself."""

import dataclasses
import math
import os
import pathlib
import re
import sys
import zlib
from typing import Any

from sat_tf.runs.workdir import read_metrics

_LARGEST_RADIUS = 1e9  # in pixels, as of --epsilon
_LONGEST_NAME = 150  # so that every file beside the report has a name of at most 255 bytes


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which network, which images, which ball; every field that is not given is filled in.

    Attributes:
      source: what `loading.load` takes.
      report: where the report goes.
      dataset, split, data_dir, image_size, eval_resize: what `data.load` takes.
      epsilon: radius of the ball in pixels.
      norm: "linf" or "l2".
      curve: radii in pixels for accuracy over epsilon.
      input_range: what pixels 0 and 255 are to the network, or None.
      about: what the run says about itself: class_names, model, activation, …
    """

    source: str
    report: pathlib.Path
    dataset: str
    split: str
    data_dir: str | None
    image_size: int | None
    eval_resize: str | None
    epsilon: float
    norm: str
    curve: tuple[float, ...]
    input_range: tuple[float, ...] | None
    about: dict[str, Any]


def complete(given: Any) -> Settings:
    """Fills what the flags leave open from the run's `metrics.json`.

    Args:
      given: the parsed flags of `flags.evaluate`.

    Raises:
      ValueError: neither or both of workdir and network; something that neither says.
    """
    if (given.workdir is None) == (given.network is None):
        raise ValueError("give either --workdir=RUN or --network=FILE.keras")
    run = {} if given.workdir is None else _read_run(pathlib.Path(given.workdir))

    def choose(name, default=None):
        value = getattr(given, name)
        return run.get(name, default) if value is None else value

    for name, example in (("dataset", "digits"), ("epsilon", "8")):
        if choose(name) is None:
            raise ValueError(
                f"--{name} is not given and no run says it: such as --{name}={example}"
            )
    return Settings(
        source=given.workdir or given.network,
        report=pathlib.Path(given.json) if given.json else _default_report(given),
        dataset=choose("dataset"),
        split=given.split,
        data_dir=choose("data_dir"),
        image_size=choose("image_size"),
        eval_resize=choose("eval_resize"),
        epsilon=float(choose("epsilon")),
        norm=choose("norm", "linf"),
        curve=tuple(_number(x, "--curve=0,1,2,4,8", 0.0, _LARGEST_RADIUS) for x in given.curve),
        input_range=None
        if given.input_range is None
        else tuple(_number(text, "--input_range=0,1") for text in given.input_range),
        about=run,
    )


# What decides the figures, and therefore the name of a report that is given none.
_DECISIVE = (
    "attacks dataset split ids classes num_images image_size eval_resize input_range preprocessing "
    "epsilon norm step_size restarts last_iterate curve seed batch_size image_type"
).split()


def _default_report(given):
    """Names the report of a run after what is asked beyond the default, so that each has its own.

    `RUN/report.json`; with `--attacks=autoattack --num_images=1000` it is
    `RUN/report_autoattack_num_images-1000.json`. That of `--network=nets/mine.keras` is
    `report_nets-mine.json` in the current directory.
    """
    parts = ["report"]
    if given.workdir is None:
        parts.append(_plain(given.network.removesuffix(".keras")))
    for name in _DECISIVE:
        flag = given[name]
        if flag.value == flag.default:
            continue
        value = flag.value if isinstance(flag.value, list) else [flag.value]
        text = "-".join(_plain(f"{v:g}" if isinstance(v, float) else str(v)) for v in value)
        parts.append(text if name == "attacks" else f"{name}-{text}")
    name = "_".join(parts)
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}-{zlib.crc32(name.encode()):08x}"
    return pathlib.Path(given.workdir or "") / f"{name}.json"


def _plain(text):
    return re.sub(r"[^A-Za-z0-9.+_-]+", "-", text.removeprefix(os.sep)).strip("-")


def _number(text, example, least=-sys.float_info.max, most=sys.float_info.max):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise ValueError(f"{text!r} is not a number that fits here; write such as {example}")
    return value


def _read_run(workdir):
    if not workdir.is_dir():
        raise ValueError(f"workdir {workdir} is not there; give the directory of a run")
    return read_metrics(workdir)
