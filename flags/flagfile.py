"""Values of a program's flags as the lines of a flagfile."""

import copy
from collections.abc import Mapping
from typing import Any

from absl import flags


def lines(values: Mapping[str, Any]) -> list[str]:
    """Writes a line for each flag that has a value, by name: "--epsilon=8.0\\n".

    A repeated flag has several lines in one string.
    """
    return [_line(name, value) for name, value in sorted(values.items()) if value is not None]


def defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the values that are the defaults of their flags."""
    return {name: value for name, value in values.items() if value == flags.FLAGS[name].default}


def _line(name, value):
    flag = copy.deepcopy(flags.FLAGS[name])  # the program's own stays as it was given
    if flag.boolean:  # "--nooverwrite" would hide the flag's name
        return f"--{name}={str(value).lower()}\n"
    flag.value = value
    text = flag.serialize()
    return f"{text}\n" if text else ""
