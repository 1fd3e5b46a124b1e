"""What `--help` shows: a program's docstring, then its flags by theme."""

import re
import sys
import textwrap
from collections.abc import Iterator

from absl import flags

from sat_tf import quiet

_WIDTH = 80


def text(description: str) -> str:
    """Writes what a program does and its flags, by theme, in 80 columns.

    Args:
      description: the program's docstring, with examples.
    """
    lines = _description(description)
    for theme, members in _themes():
        lines += ["", f"{theme}:"]
        for flag in members:
            lines += _wrapped(f"  --{'[no]' * flag.boolean}{flag.name}  {_kind(flag)}", 6)
            lines += _wrapped(" " * 6 + _about(flag), 6)
    lines += ["", "--flagfile=FILE reads flags from a file, one a line, or from a recipe by name."]
    return "\n".join(lines)


def _description(text):
    """Fills the paragraphs; an indented example goes on after a backslash, so it can be pasted."""
    lines, program = [], quiet.program(sys.orig_argv)
    if program in quiet.COMMANDS:  # the examples are written for `python -m`
        text = re.sub(r"^( +)python -m \S+", rf"\g<1>{program}", text, flags=re.MULTILINE)
    for paragraph in text.strip().split("\n\n"):
        if paragraph.startswith(" "):
            for example in paragraph.splitlines():
                example = re.sub(r"(?<=\S) {2,}", " ", example)  # where it went on in a new line
                *begun, last = _wrapped(example, 8, _WIDTH - len(" \\"))
                lines += [f"{line} \\" for line in begun] + [last]
        else:
            lines += _wrapped(" ".join(paragraph.split()))
        lines.append("")
    return lines[:-1]


def _wrapped(text, indent=0, width=_WIDTH):
    return textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )


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
    default = (flag.default_as_str or "")[1:-1]
    if isinstance(flag.default, list):
        default = ", ".join(map(str, flag.default))
    kind += ", repeatable" * isinstance(flag, flags.MultiFlag)
    return f"{kind}; default {default}" if default else kind


def _about(flag):
    """Writes a flag's own words, without what absl adds to them."""
    return re.sub(r"^<[^>]*>: |;\s+repeat this option .*", "", flag.help)
