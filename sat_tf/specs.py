"""Names, and the grammar of names with options: `resnet18:width=16`, `celu:alpha=1.6`.

    spec   = name [":" option {"," option}]
    option = key "=" value

White space around names, keys and values does not count, nor does an empty option, such as the one
after a last comma. What stands after a key's first "=" is its value.
"""

from collections.abc import Iterable, Mapping


def one_of(sort: str, name: str, valid: Iterable[str]) -> str:
    """Returns a name that is valid.

    Raises:
      ValueError: another one, with the list of those that are.
    """
    if name not in valid:
        raise ValueError(f"{sort} is {name!r}; use one of: {', '.join(valid)}")
    return name


def split(spec: str, *, path: bool = False) -> tuple[str, dict[str, str]]:
    """Splits a spec into its name and the texts of its options.

    Args:
      spec: as above.
      path: whether the name is `package.module:callable`, which holds a colon of its own.

    Raises:
      ValueError: an option without a key or "=", or one that is given twice.
    """
    name, *tails = spec.split(":", 2 if path else 1)
    if path and tails:
        name = f"{name.strip()}:{tails.pop(0).strip()}"
    name = name.strip()
    options: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in "".join(tails).split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not key or not equals:
            raise ValueError(f"option {item!r} of {spec!r} lacks a value; write {name}:key=value")
        if key in options:
            raise ValueError(f"option {key!r} of {spec!r} is given twice; leave one out")
        options[key] = value
    return name, options


def join(name: str, options: Mapping[str, object]) -> str:
    """Writes the spec that `split` reads."""
    texts = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{name}:{texts}" if texts else name


def parse(spec: str) -> tuple[str, dict[str, int | float | bool | str]]:
    """Splits a spec; values become bool ("true", "false"), int or float where they read so.

    Raises:
      ValueError: as `split`.
    """
    name, options = split(spec)
    return name, {key: _value(text) for key, text in options.items()}


def _value(text):
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
