"""What `--flagfile` names: a file of flags, one a line, or a recipe by its name."""

import os
import pathlib
import types
from collections.abc import Iterable, Mapping, Sequence

from sat_tf.runs import sealed

NONE: Mapping[str, pathlib.Path] = types.MappingProxyType({})


def recipes(themes: Iterable[types.ModuleType]) -> dict[str, pathlib.Path]:
    """Returns the recipes beside the modules of flags, by name, such as "cifar10/relu"."""
    folders = {pathlib.Path(theme.__file__).parent / "recipes" for theme in themes}
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in folders
        for path in sorted(folder.rglob("*.flags"))
    }


def expanded(
    arguments: Sequence[str],
    known: Mapping[str, pathlib.Path] = NONE,
    folder: pathlib.Path = pathlib.Path(),
    inside: tuple = (),
) -> list[str]:
    """Puts the lines of every flagfile where it is named.

    A path on the command line counts from the current directory, one inside a flagfile from that
    file's folder. (absl counts all from the current directory.) Where no file is, the name of a
    recipe stands for it.

    Args:
      arguments: of the command line, or lines of a flagfile.
      known: recipes by name, as `recipes` returns them.
      folder: where their relative paths count from.
      inside: files that are being read.

    Raises:
      ValueError: a file that cannot be read, that names itself, or that is not as a run wrote it;
        a name that is neither a file's nor a recipe's.
    """
    found, rest = [], iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            found.append(argument)
            continue
        value = value if equals else next(rest, "")
        path = _flagfile(value, known, folder)
        if path.resolve() in inside:
            raise ValueError(f"the flagfile {path} names itself")
        try:
            lines = [line.strip() for line in sealed.read_text(path).splitlines()]
        except OSError as error:
            of = f" (named in {inside[-1]}, whose folder it counts from)" if inside else ""
            raise ValueError(f"cannot open the flagfile: {error}{of}") from error
        lines = [line for line in lines if line and not line.startswith(("#", "//"))]
        found += expanded(lines, known, path.parent, (*inside, path.resolve()))
    return found


def _flagfile(value, known, folder):
    path = folder / os.path.expanduser(value)  # which leaves "~nobody" as it is
    if not os.path.isfile(path) and value in known:
        return known[value]
    if os.path.exists(path) or not known or path.suffix in (".flags", ".txt"):
        return path
    raise ValueError(
        f"--flagfile={value} is neither a file nor the name of a recipe; recipes: "
        f"{', '.join(known)}"
    )
