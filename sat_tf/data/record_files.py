"""Which TFRecord files a path means: one, those of a pattern, or those in a folder."""

import pathlib
import re
from collections import defaultdict

_ENDING = ".tfrecord"  # TFDS has the number behind it: "name.tfrecord-00000-of-00004"
_NUMBER = re.compile(r"-(\d+)-of-(\d+)")
# No hidden files, which a writer or a file manager leaves, and no copies called ".bak".
_FILE = re.compile(r"(?!\.).*\.tfrecord(-\d+-of-\d+)?")


def found(place: pathlib.Path) -> list[pathlib.Path]:
    """Returns the TFRecord files of a path in the order of their names; none: it means others.

    Args:
      place: a file; a pattern of their names in one folder, such as `extra-*-of-*.tfrecord`; or
        a folder in which they lie.

    Raises:
      ValueError: of numbered files ("-00001-of-00004") some are missing or too many; files of one
        set written twice, in another number of files; a folder of several sets.
    """
    if place.is_file():
        return [place] if _ENDING in place.name else []
    inside = place.iterdir() if place.is_dir() else place.parent.glob(place.name)
    files = sorted(one for one in inside if _FILE.fullmatch(one.name) and one.is_file())
    sets = defaultdict(list)
    for one in files:
        if match := _NUMBER.search(one.name):
            sets[_NUMBER.sub("", one.name), int(match[2])].append(int(match[1]))
    names = {name for name, _ in sets}
    for one in files:
        if one.name in names:  # the whole set in one file, beside its parts
            sets[one.name, 1].append(0)
    _check(sets, place)
    if place.is_dir() and len(sets) > 1:
        names = sorted(name for name, _ in sets)
        raise ValueError(
            f"{place} holds the files of several sets, {', '.join(names)}; name those of one, such "
            f"as {place / names[0].replace(_ENDING, '*' + _ENDING + '*')}"
        )
    return files


def _check(sets, place):
    for name, count in sets:
        other = next((n for own, n in sets if own == name and n != count), None)
        if other is not None:
            raise ValueError(
                f"{place} means files of {name} in {min(count, other)} and in {max(count, other)} "
                "parts, of which one is older; move those away"
            )
    for (name, count), numbers in sets.items():
        missing = [str(number) for number in range(count) if number not in numbers]
        if missing:
            raise ValueError(
                f"{place} means {len(numbers)} of the {count} files of {name}; missing: "
                f"{', '.join(missing[:8])}"
            )
        if len(numbers) > count:
            raise ValueError(
                f"{place} means {len(numbers)} files of {name}, which are {count} by their names: "
                f"numbers {', '.join(map(str, sorted(numbers)[:8]))}; move away what is not of them"
            )
