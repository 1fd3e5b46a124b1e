"""What an evaluation writes beside `report.json`."""

import contextlib
import json
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from sat_tf.evaluation import kept_images, saved_images
from sat_tf.evaluation.outcome import steps_curve
from sat_tf.evaluation.report import Report, page, plots
from sat_tf.evaluation.report.corruptions import CorruptionReport
from sat_tf.evaluation.report.model_info import model_info
from sat_tf.runs import atomic

NAMES = ("html", "plots", "landscape", "tensorboard", "model_info", "npz", "tfrecord")
_IMAGES = {"npz": saved_images.write_npz, "tfrecord": saved_images.write_tfrecord}
_SUFFIXES = {
    "html": ".html",
    "model_info": ".model_info.json",
    "npz": ".images.npz",
    "tfrecord": ".images.tfrecord",
}
# What a report of one ball, of several and of corruptions has, and the others have not.
KINDS = ("attacks", "norms", "corruptions")
_LAST_SUMMARY = "evaluation/pictures"


def check_names(names: Sequence[str], known: Sequence[str] = NAMES) -> None:
    """Raises a ValueError, with the list, if one of the names is not known."""
    for name in names:
        if name not in known:
            raise ValueError(f"--write holds {name!r}; use some of: {', '.join(known)}")


def refuse_other_kind(path: pathlib.Path, kind: str) -> None:
    """Raises ValueError where a report of another kind is there, which no verdicts guard.

    Args:
      path: of the report.
      kind: of `KINDS`: what the report to be written holds.
    """
    try:
        found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError:  # no report
        return
    held = [one for one in KINDS if isinstance(found, dict) and one in found]
    if held and kind not in held:
        raise ValueError(
            f"{path} is a report of {held[0]} and would become one of {kind}; give another --json, "
            "or --overwrite to replace it"
        )


@contextlib.contextmanager
def reserve(names: Sequence[str], path: pathlib.Path) -> Iterator[None]:
    """Keeps a report to one process, and sees before any attack that it can be written.

    Raises:
      ValueError: another evaluation is writing it.
      OSError: its directory cannot be written to, or a directory or device has its name or that of
        a file beside it.
    """
    suffixes = [path.suffix, *(_SUFFIXES[name] for name in names if name in _SUFFIXES)]
    for suffix in suffixes:
        atomic.refuse_special(path.with_suffix(suffix))
    refusal = f"another process is evaluating into {path}; wait for it or give another --json"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(atomic.locked(path.with_suffix(".lock"), refusal))
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"cannot write {path}: {reason}; give another --json") from error
        yield


def require_space(
    names: Sequence[str], paths: Sequence[pathlib.Path], shape: Sequence[int], image_type: str
) -> None:
    """Looks whether the adversarial images that `names` asks for fit on the disk, by estimate.

    They are kept while the evaluation goes on, and copied once for each format; what is kept
    already counts as written.

    Args:
      names: of `NAMES`.
      paths: of the reports; each keeps the images.
      shape: [N, H, W, C] of the images.
      image_type: of `kept_images.IMAGE_TYPES`.

    Raises:
      ValueError: another image type.
      OSError: they do not fit, with the bytes that are missing.
    """
    kept_images.check_type(image_type)
    kept = [one for one in (image_file(names, path) for path in paths) if one is not None]
    if not kept:
        return
    copies = 1 + len(set(names) & _IMAGES.keys())
    size = len(kept) * copies * math.prod(shape) * np.dtype(image_type).itemsize
    written = sum(one.stat().st_size for one in kept if one.is_file())
    atomic.require_space(paths[0].parent, size - written, "the adversarial images")


def image_file(names: Sequence[str], path: pathlib.Path) -> pathlib.Path | None:
    """Returns where the images of a report are kept, or None where `names` asks for none.

    Raises:
      ValueError: it would be in a store.
    """
    if not set(names) & _IMAGES.keys():
        return None
    atomic.refuse_remote(path)
    return path.with_suffix(".images.npy")


def write(
    report: Report,
    names: Sequence[str],
    path: pathlib.Path,
    *,
    title: str,
    about: dict[str, Any],
) -> list[pathlib.Path]:
    """Writes what `names` asks for beside the report, which is there already.

    For `report.json`: `report.html`; `report.curve.png`, `report.steps.png` and
    `report.pictures.png`; the directory `report.tensorboard`; `report.model_info.json`;
    `report.images.npz` and `report.images.tfrecord`.

    Args:
      report: what to write.
      names: of `NAMES`.
      path: of the report.
      title: heading of the page.
      about: what the run says about itself; class_names, dataset and model are used.

    Returns:
      What was written.

    Raises:
      ValueError: an unknown name, images that were not kept, or a package that is not installed.
    """
    check_names(names)
    try:
        return _write(report, names, path, title, about)
    except ImportError as error:
        raise ValueError(
            f"{error.name} is not installed, so not all of --write={','.join(names)} is written; "
            f"{path} is: pip install {error.name} and give the same command again"
        ) from error


def _write(report, names, path, title, about):
    class_names, written = about.get("class_names"), []
    for name in sorted(set(names) & _IMAGES.keys()):
        if report.saved_images is None:
            raise ValueError(f"{name} needs the adversarial images: evaluate with image_file")
        written.append(path.with_suffix(f".images.{name}"))
        _IMAGES[name](written[-1], report.saved_images.kept.rows, report.columns())
    if "html" in names:
        written.append(path.with_suffix(".html"))
        atomic.write_text(written[-1], page.write(report, title, class_names))
    if "plots" in names:
        for name, png in plots.draw_all(report, class_names).items():
            written.append(_write_picture(png, path.with_suffix(f".{name}.png")))
    if "landscape" in names and report.landscape is not None and "plots" not in names:
        drawn = plots.png(plots.landscape(report, class_names))
        written.append(_write_picture(drawn, path.with_suffix(".landscape.png")))
    if "tensorboard" in names:
        written.append(path.with_suffix(".tensorboard"))
        summaries(report, written[-1], class_names)
    if "model_info" in names:
        written.append(path.with_suffix(".model_info.json"))
        atomic.write_text(
            written[-1], json.dumps(model_info(report.to_dict(), about), indent=2) + "\n"
        )
    return written


def _write_picture(png, path):
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(png)
    return path


def write_corruptions(
    report: CorruptionReport, names: Sequence[str], path: pathlib.Path, title: str
) -> list[pathlib.Path]:
    """Writes what `names` asks for, html or plots, beside a corruption report; returns the files.

    For `report.json`: `report.html` and `report.heat_map.png`.
    """
    written = []
    if "html" in names:
        written.append(path.with_suffix(".html"))
        atomic.write_text(written[-1], report.html(title))
    if "plots" in names:
        written.append(_write_picture(report.heat_map(), path.with_suffix(".heat_map.png")))
    return written


def summaries(
    report: Report, directory: pathlib.Path, class_names: Sequence[str] | None = None
) -> None:
    """Writes TensorBoard events: accuracies, the steps of each attack, the curve, the pictures.

    `evaluation/steps/NAME` has the attack's evaluations as its step and `evaluation/epsilon` has
    the radius in thousandths of a pixel.

    Raises:
      OSError: not everything reached the disk.
    """
    before = set(directory.glob("*"))
    writer = tf.summary.create_file_writer(str(directory))
    with writer.as_default(step=0):
        tf.summary.scalar("evaluation/clean_accuracy", report.clean_accuracy)
        tf.summary.scalar("evaluation/adversarial_accuracy", report.adversarial_accuracy)
        for outcome in report.outcomes:
            tf.summary.scalar(f"evaluation/standing/{outcome.name}", outcome.standing.mean())
            if outcome.last_iterate is not None:
                name = f"evaluation/last_iterate/{outcome.name}"
                tf.summary.scalar(name, outcome.last_iterate.mean())
            for step, fraction in steps_curve(outcome):
                tf.summary.scalar(f"evaluation/steps/{outcome.name}", fraction, step=step)
        for point in report.curve:
            step = round(1000 * point.epsilon)
            tf.summary.scalar("evaluation/epsilon", point.standing.mean(), step=step)
        grid = tf.io.decode_png(plots.grid(report, class_names), channels=3)
        tf.summary.image(_LAST_SUMMARY, grid[None])
    writer.close()
    # TensorFlow drops events that do not fit on the disk without a word.
    if not _is_whole(sorted(set(directory.glob("*")) - before)):
        raise OSError(f"cannot write {directory}: its events are cut off; is the disk full?")


def _is_whole(files):
    try:
        records = list(tf.data.TFRecordDataset([str(file) for file in files]))
    except tf.errors.DataLossError:
        return False
    last = [tf.compat.v1.Event.FromString(record.numpy()).summary for record in records[-1:]]
    return any(value.tag == _LAST_SUMMARY for summary in last for value in summary.value)
