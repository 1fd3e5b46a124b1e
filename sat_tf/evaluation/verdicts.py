"""The file that lets a killed evaluation go on: verdicts of single images, sweep by sweep."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from sat_tf.evaluation.sweep import Sweep
from sat_tf.runs import places, sealed

# 2: verdicts of format 1 may have been found by a PGD without a gradient on sure images.
FORMAT = 2
# What is kept of a sweep, by its name in the file.
_ARRAYS = {name: name for name in ("done", "broken", "steps", "distance", "unconfirmed")} | {
    "wrong": "misclassified"
}
_TOP5 = "in_top5"
_NUMBERS = ("seconds", "slot_steps")
# Settings that change how floats are rounded and nothing else: a file from before them goes on.
_OF_ROUNDING = ("fold_batch_norm",)


@dataclasses.dataclass
class VerdictFile:
    """Keeps sweeps in an `.npz` file, replaced as a whole so that a kill leaves the old or the new.

    The file belongs to one run: the same network, images, attacks, seed and batch size, as
    `identity` says. A file of another run, or a damaged one, is refused and left alone.

    Args:
      path: where it is.
      identity: JSON values that decide the verdicts.
      overwrite: whether to ignore what is there and replace it at the first save.
      image_type: how the images of the verdicts are kept beside, or None.
      asked: the attacks as a person names them, for the message to another evaluation.

    Attributes:
      images: uint32 [N], CRC-32 of each image that is kept beside; None where none are, or where
        an older version kept them.
      through: [worker, number of workers] where all attacks on a worker's share are in it (see
        `shares`), else None.
    """

    path: pathlib.Path
    identity: dict[str, Any]
    overwrite: bool = False
    image_type: str | None = None
    asked: str = ""
    images: np.ndarray | None = dataclasses.field(default=None, init=False)
    through: list[int] | None = dataclasses.field(default=None, init=False)
    _restored: tuple[int, str | None] = dataclasses.field(default=(0, None), init=False)

    def restore(self, sweeps: list[Sweep], examples: np.ndarray) -> bool:
        """Fills the sweeps and the example images in place with what the file holds.

        Returns:
          Whether there was such a file.

        Raises:
          ValueError: a damaged file or one of another run, with what differs.
        """
        if self.overwrite or not self.path.exists():
            return False
        with places.fetched(self.path) as local:
            stored, header = self._read(local)
        found = header["identity"]
        for name in _OF_ROUNDING:
            found.setdefault(name, self.identity.get(name))
        different = sorted(
            name
            for name in self.identity.keys() | found.keys()
            if _switched_on(self.identity.get(name)) != _switched_on(found.get(name))
        )
        if different:
            raise ValueError(
                f"{self.path} belongs to another evaluation: "
                f"{self._difference(header, different)}; give another --json, or --overwrite to "
                "replace it"
            )
        self._require_images(header.get("image_type"))
        try:
            examples[...] = stored["examples"]
            for number, sweep in enumerate(sweeps):
                for name, attribute in _ARRAYS.items():
                    getattr(sweep, attribute)[...] = stored[f"{number}/{name}"]
                sweep.in_top5 = stored.get(f"{number}/{_TOP5}")  # an older version did not look
                for name in _NUMBERS:
                    setattr(sweep, name, stored[f"{number}/{name}"].item())
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error
        self.images, self.through = stored.get("images"), header.get("through")
        # Asked for the report alone, without images, an evaluation that finds nothing new to do
        # leaves the note of the images that an earlier one kept.
        self._restored = (_num_done(sweeps), header.get("image_type"))
        return True

    def save(self, sweeps: list[Sweep], examples: np.ndarray) -> None:
        """Writes everything: the old file or the new one, never a part."""
        image_type = self.image_type
        if image_type is None and self._restored[0] == _num_done(sweeps):
            image_type = self._restored[1]
        header = {"format": FORMAT, "identity": self.identity, "image_type": image_type}
        header |= {"asked": self.asked, "through": self.through}
        arrays = {"header": np.array(json.dumps(header)), "examples": examples}
        if image_type is not None and self.images is not None:
            arrays["images"] = self.images
        for number, sweep in enumerate(sweeps):
            for name, attribute in (*_ARRAYS.items(), *zip(_NUMBERS, _NUMBERS, strict=True)):
                arrays[f"{number}/{name}"] = np.asarray(getattr(sweep, attribute))
            if sweep.in_top5 is not None:
                arrays[f"{number}/{_TOP5}"] = sweep.in_top5
        with sealed.replacing(self.path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def _read(self, path):
        try:
            sealed.check_archive(path)
            # Opened here, as NumPy leaves open what it finds damaged.
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                stored = {name: file[name] for name in file.files}
            header = json.loads(str(stored["header"]))
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']}, this version reads {FORMAT}")
            if not isinstance(header["identity"], dict):
                raise ValueError("it does not say whose it is")
        except Exception as error:  # an unsealed file's damage may be anything to a parser
            raise self._damaged(error) from error
        return stored, header

    def _damaged(self, error):
        return ValueError(
            f"{self.path} is damaged ({error}) and was left alone; move it away, or give "
            "--overwrite to evaluate from the beginning"
        )

    def _require_images(self, found):
        if self.image_type in (None, found):
            return
        held = "without their images" if found is None else f"with images as {found}"
        raise ValueError(
            f"{self.path} holds verdicts {held}, and images as {self.image_type} are asked for; "
            "give another --json, or --overwrite to evaluate from the beginning"
        )

    def _difference(self, header, names):
        sides = [(self.identity, self.asked), (header["identity"], header.get("asked"))]
        parts = []
        for name in names:
            here, there = (one.get(name) for one, _ in sides)
            if name == "attacks":
                parts.append(_attacks_differ(here, there, [asked for _, asked in sides]))
            elif isinstance(here, str) and isinstance(there, str):  # hashes tell nobody anything
                parts.append(f"other {_PLURALS.get(name, name)}")
            else:
                parts.append(f"{name} {json.dumps(here)} here, {json.dumps(there)} there")
        return "; ".join(parts)


def _attacks_differ(here, there, asked):
    """Says in a few words how two lists of (key, settings of a sweep) differ."""
    here, there = here or [], there or []
    names = [
        text or ",".join(key for key, _ in one)
        for one, text in zip((here, there), asked, strict=True)
    ]
    if names[0] != names[1]:
        return f"attacks {names[0]} here, {names[1]} there"
    if len(here) != len(there):
        return f"{len(here)} runs of attacks here, {len(there)} there"
    for (_, one), (_, other) in zip(here, there, strict=True):
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                return f"{name} {one.get(name)} here, {other.get(name)} there"
    return "the order of the attacks"


_PLURALS = {"network": "weights of the network", "images": "images or labels"}


def _switched_on(value):
    """Drops settings that are false: to a file that is older than a setting it was off."""
    if isinstance(value, dict):
        return {name: _switched_on(one) for name, one in value.items() if one is not False}
    return [_switched_on(one) for one in value] if isinstance(value, list) else value


def _num_done(sweeps):
    return sum(int(sweep.done.sum()) for sweep in sweeps)


def verdict_path(report: str | os.PathLike) -> pathlib.Path:
    """Returns where the verdicts of a report are kept: `report.json` has `report.verdicts.npz`."""
    return places.of(report).with_suffix(".verdicts.npz")
