"""What workers that share an evaluation save beside its report, and how it is put together."""

import dataclasses
import glob
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from sat_tf.evaluation.kept_images import KeptImages
from sat_tf.evaluation.store import Store
from sat_tf.evaluation.sweep import Sweep
from sat_tf.evaluation.verdicts import VerdictFile, verdict_path
from sat_tf.runs import atomic, places


@dataclasses.dataclass
class Part:
    """What a worker has saved.

    Attributes:
      place: beside which its files are: `report.worker-1.json`, which is not there itself.
      file: of its verdicts.
      sweeps, examples: as its file holds them.
    """

    place: pathlib.Path
    file: VerdictFile
    sweeps: list[Sweep]
    examples: np.ndarray


def place_of(report: pathlib.Path, worker: int) -> pathlib.Path:
    """Returns beside which name a worker keeps its files: worker 0 beside the report."""
    return report.with_name(f"{report.stem}.worker-{worker}.json") if worker else report


def places_of(report: pathlib.Path) -> list[pathlib.Path]:
    """Returns beside which names workers other than 0 have files."""
    name = re.compile(rf"({re.escape(report.stem)}\.worker-[1-9]\d*)\.(verdicts\.npz|images\.npy)")
    found = report.parent.glob(f"{glob.escape(report.stem)}.worker-*")
    own = {match[1] for path in found if (match := name.fullmatch(path.name))}
    return [report.with_name(f"{one}.json") for one in sorted(own)]


def read(store: Store, place: pathlib.Path) -> Part | None:
    """Reads what is beside `place`; None where nothing was saved yet.

    Raises:
      ValueError: it is damaged, or of another evaluation than the store's.
    """
    while True:
        before = stamp(place)
        try:
            return _read(store, place)
        except ValueError:
            # Where a file is no longer one while another machine puts a new one in its place.
            if stamp(place) == before:
                raise


def _read(store, place):
    file = dataclasses.replace(store.verdicts, path=verdict_path(place), overwrite=False)
    sweeps = [one.emptied() for one in store.plan.sweeps]
    part = Part(place, file, sweeps, np.zeros_like(store.examples))
    return part if file.restore(sweeps, part.examples) else None


def take(store: Store, part: Part | None, wanted: np.ndarray) -> None:
    """Takes over those of the wanted images, bool [N], with which a worker has gone further.

    An image is taken as a whole, with its verdicts of all sweeps: they build on each other. What
    they cost is left.

    Raises:
      ValueError: an image that is kept beside is not there or damaged.
    """
    if part is None:
        return
    further = wanted & (_num_done(part.sweeps) > _num_done(store.plan.sweeps))
    if not further.any():
        return
    for ours, theirs in zip(store.plan.sweeps, part.sweeps, strict=True):
        ours.take(theirs, further)
    first = further[: len(store.examples)]
    store.examples[first] = part.examples[first]
    if store.images:
        kept = KeptImages(_images(part.place), store.images.shape, store.images.image_type)
        kept.check(part.file.images, store.settled() & further)
        rows = kept.rows
        for index in np.flatnonzero(further):
            store.images.put(index, rows[index])


def stamp(place: pathlib.Path) -> tuple[float, int] | None:
    """Returns what is another after every save, None where there was none yet."""
    path = verdict_path(place)
    # The size too: a store tells seconds alone, and whoever is through writes more.
    return (places.modified(path), places.size(path)) if path.exists() else None


def require_idle(those: Sequence[pathlib.Path]) -> None:
    """Sees that no worker still writes beside some places.

    Raises:
      ValueError: one does.
    """
    for place in those:
        refusal = f"a worker still writes {verdict_path(place)}; stop it, or let it come to its end"
        with atomic.locked(place.with_suffix(".lock"), refusal):
            pass


def remove(those: Sequence[pathlib.Path]) -> None:
    """Removes the files beside some places."""
    for place in those:
        for path in (_images(place), verdict_path(place)):  # verdicts last: they name the images
            if path.exists():
                places.remove(path)


def _num_done(sweeps):
    return np.sum([one.done for one in sweeps], 0)


def _images(place):
    return place.with_suffix(".images.npy")
