"""Names with options: `resnet18:width=16`."""


def parse(spec: str) -> tuple[str, dict[str, int | float | bool | str]]:
    """Splits `name:key=value,key=value`.

    Values become bool ("true", "false"), int or float where they read so, else stay text.

    Raises:
      ValueError: an option without "=".
    """
    name, _, tail = spec.partition(":")
    options = {}
    for item in filter(None, tail.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"option {item!r} of {spec!r} lacks a value; write {name}:key=value")
        options[key.strip()] = _value(value.strip())
    return name.strip(), options


def _value(text):
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
