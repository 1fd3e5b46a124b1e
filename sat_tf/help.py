"""What `--help` shows: a program's docstring, then its flags by theme."""

import re
import sys
import textwrap
from collections.abc import Iterator

from absl import flags


def text(description: str) -> str:
    """Writes what a program does and its flags, by theme, in 80 columns.

    Args:
      description: the program's docstring, with examples.
    """
    lines = [description.strip()]
    for theme, members in _themes():
        lines += ["", f"{theme}:"]
        for flag in members:
            lines.append(f"  --{'[no]' * flag.boolean}{flag.name}  {_kind(flag)}")
            lines += textwrap.wrap(
                _about(flag), 80, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
    lines += ["", "--flagfile=FILE reads flags from a file, one a line."]
    return "\n".join(lines)


def _themes() -> Iterator[tuple[str, list[flags.Flag]]]:
    """Yields headings with their flags, in the order in which the program adopted them."""
    themes = {}
    for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
        name = flags.FLAGS.find_module_defining_flag(flag.name)
        starts = getattr(sys.modules.get(name), "THEMES", {})  # several themes in one module
        about = sys.modules[name].__doc__ if name in sys.modules else "Flags"
        theme = starts.get(flag.name) or (list(themes)[-1] if starts else about.strip().rstrip("."))
        themes.setdefault(theme, []).append(flag)
    yield from themes.items()


def _kind(flag):
    """Writes what a flag takes, in which range, and its default."""
    kind = "yes or no" if flag.boolean else flag.parser.syntactic_help or "text"
    if values := getattr(flag.parser, "enum_values", None):
        kind = ", ".join(values)
    default = flag.default_as_str
    return f"{kind}; default {default[1:-1]}" if default and default[1:-1] else kind


def _about(flag):
    """Writes a flag's own words, without what absl adds to them."""
    return re.sub(r"^<[^>]*>: |;\s+repeat this option .*", "", flag.help)
