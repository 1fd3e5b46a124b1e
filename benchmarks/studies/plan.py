"""Plans of studies: which networks are trained, with which seeds, and what attacks them.

A plan is an `.ini` file (see `plans/small.ini`) with three kinds of sections:

    [study]             flags of all trainings; baseline, the row that the others are compared with
    [evaluation NAME]   flags of `sat_tf.evaluate`, a title for the table; rows: default all
    [row NAME]          flags of `sat_tf.train`, seeds; against: another row than the baseline

The first evaluation gives the clean accuracy. One with `--curve` is a picture and no column.
"""

import configparser
import pathlib
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sat_tf.runs import sealed

FOLDER = pathlib.Path(__file__).parent / "plans"
# What a section may hold: key, and its value where it is left out (None: it may not be).
_KEYS: Mapping[str, Mapping[str, str | None]] = {
    "study": {"flags": None, "baseline": None},
    "evaluation": {"flags": None, "title": None, "rows": ""},
    "row": {"flags": None, "seeds": None, "against": ""},
}


class Evaluation(NamedTuple):
    """What attacks the networks of some rows."""

    name: str
    title: str
    flags: tuple[str, ...]
    rows: tuple[str, ...]

    @property
    def is_curve(self) -> bool:
        """Tells whether it is a picture of accuracy over epsilon."""
        return any(flag.startswith("--curve") for flag in self.flags)


class Row(NamedTuple):
    """Networks that differ in their seed alone, and the row that they are compared with."""

    name: str
    flags: tuple[str, ...]
    seeds: tuple[int, ...]
    against: str


class Plan(NamedTuple):
    """A study: rows in the order in which they are run, evaluations in that of the columns."""

    name: str
    rows: dict[str, Row]
    evaluations: dict[str, Evaluation]

    def of_row(self, row: str) -> list[Evaluation]:
        """Returns the evaluations of a row's networks."""
        return [one for one in self.evaluations.values() if row in one.rows]

    @property
    def columns(self) -> list[Evaluation]:
        """Returns the evaluations that are columns of the table."""
        return [one for one in self.evaluations.values() if not one.is_curve]


def read(source: str) -> Plan:
    """Reads a plan of `plans/` by its name, or a file of one's own by its path.

    Raises:
      ValueError: no such plan, or one that says something else than the module's head does.
    """
    known = {path.stem: path for path in sorted(FOLDER.glob("*.ini"))}
    path = known.get(source, pathlib.Path(source))
    if not path.is_file():
        raise ValueError(f"--plan={source} is neither a file nor a plan; plans: {', '.join(known)}")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(sealed.read_text(path), str(path))
        return _plan(path.stem, {name: dict(parser[name]) for name in parser.sections()})
    except configparser.Error as error:
        raise ValueError(f"{path} is no plan: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def chosen(kind: str, given: Iterable[str], known: Iterable[str]) -> list[str]:
    """Returns the names that were given, or all where none was.

    Raises:
      ValueError: one is unknown, or given twice.
    """
    given, known = list(given), list(known)
    for name in given:
        if name not in known:
            raise ValueError(f"{kind} {name!r} is unknown; valid are: {', '.join(known)}")
        if given.count(name) > 1:
            raise ValueError(f"{kind} {name} is given twice; give it once")
    return given or known


def _plan(name, sections):
    found = {kind: {} for kind in _KEYS}
    for section, values in sections.items():
        kind, _, own = section.partition(" ")
        if kind not in _KEYS or (kind == "study") == bool(own):
            raise ValueError(
                f"section [{section}] is unknown; valid are: [study], [evaluation NAME], [row NAME]"
            )
        if own and not re.fullmatch("[a-z0-9_]+", own):
            raise ValueError(f"[{section}]: a name is made of a-z, 0-9 and _, as it names files")
        found[kind][own] = _values(section, values, _KEYS[kind])
    if missing := [kind for kind in _KEYS if not found[kind]]:
        raise ValueError(f"it has no section [{missing[0]}]; a plan needs {', '.join(_KEYS)}")
    study, rows = found["study"][""], found["row"]
    common = shlex.split(study["flags"])
    (baseline,) = chosen("baseline", [study["baseline"]], rows)
    return Plan(
        name,
        {row: _row(row, values, common, baseline, rows) for row, values in rows.items()},
        {
            one: Evaluation(
                one,
                values["title"],
                tuple(shlex.split(values["flags"])),
                tuple(chosen(f"[evaluation {one}]: row", values["rows"].split(), rows)),
            )
            for one, values in found["evaluation"].items()
        },
    )


def _values(section, values, keys):
    for key in values:
        if key not in keys:
            raise ValueError(f"[{section}]: {key!r} is unknown; valid are: {', '.join(keys)}")
    for key, default in keys.items():
        if default is None and not values.get(key):
            raise ValueError(f"[{section}] has no {key}; it needs one")
    return {key: values.get(key, default) for key, default in keys.items()}


def _row(name, values, common, baseline, rows):
    seeds = values["seeds"].replace(",", " ").split()
    for seed in seeds:
        if not re.fullmatch("0|[1-9][0-9]*", seed):
            raise ValueError(f"[row {name}]: {seed!r} is no seed; give whole numbers, as 0 1 2")
        if seeds.count(seed) > 1:
            raise ValueError(f"[row {name}]: seed {seed} stands twice; give it once")
    against = values["against"] or baseline
    chosen(f"[row {name}]: against", [against], rows)
    flags = (*common, *shlex.split(values["flags"]))
    return Row(name, flags, tuple(map(int, seeds)), against)
