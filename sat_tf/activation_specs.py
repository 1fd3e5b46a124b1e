"""Reads the specs of activations, such as "celu:alpha=1.6" (see `sat_tf.activations`)."""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable

import keras
import tensorflow as tf

from sat_tf.activation_functions import FUNCTIONS, ScalarFunction, with_backward

_ALIASES = {"silu": "swish"}
_TRAINABLE = {"smoothrelu": {"beta": 20.0}, "pssilu": {"a": 1.0, "b": 1e-8}}

NAMES = (*FUNCTIONS, *_ALIASES, *_TRAINABLE)


def parse(spec: str) -> tuple[str, dict[str, float | str]]:
    """Splits a spec into the function's name or dotted path and its given parameters.

    Raises:
      ValueError: an unknown name or parameter, or a value that is not a finite number.
    """
    head, _, tail = str(spec).strip().partition(":")
    head = head.strip()
    if head.lower() in NAMES:
        head = _ALIASES.get(head.lower(), head.lower())
        return head, _parse_parameters(spec, tail, _valid_parameters(head, tail))
    target, _, tail = tail.partition(":")
    if not target or "=" in target:
        raise ValueError(
            f"unknown activation {spec!r}; use one of: {', '.join(NAMES)}; or a dotted path "
            "such as my_package.my_module:my_activation"
        )
    path = f"{head}:{target.strip()}"
    _import(path)
    return path, _parse_parameters(spec, tail, None)


def function_of(
    name: str, parameters: dict[str, float | str]
) -> Callable[[tf.Tensor], tf.Tensor] | keras.layers.Layer:
    """Returns what applies an activation that `parse` has read and that has no layer of its own.

    Raises:
      ValueError: a dotted path that makes no Keras layer.
    """
    make = _named if name in FUNCTIONS else _external
    return make(name, parameters)


def _valid_parameters(function: str, tail: str) -> tuple[str, ...]:
    if function in _TRAINABLE:
        return tuple(_TRAINABLE[function])
    valid = (*FUNCTIONS[function].defaults, "backward")
    for item in tail.split(","):
        key, _, value = item.partition("=")
        if key.strip() == "backward":
            valid += tuple(f"backward_{p}" for p in FUNCTIONS[_backward(value)].defaults)
    return valid


def _backward(value: str) -> str:
    name = value.strip().lower()
    name = _ALIASES.get(name, name)
    if name not in FUNCTIONS:
        raise ValueError(f"backward={value!r} is unknown; use one of: {', '.join(FUNCTIONS)}")
    return name


def _parse_parameters(
    spec: str, text: str, valid: tuple[str, ...] | None
) -> dict[str, float | str]:
    parameters = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or (valid is not None and key not in valid):
            known = "any name=number" if valid is None else ", ".join(valid) or "none"
            raise ValueError(f"activation {spec!r}: cannot read {item!r}; parameters: {known}")
        if key in parameters:
            raise ValueError(f"activation {spec!r}: parameter {key!r} is given twice")
        if valid is not None and key == "backward":
            parameters[key] = _backward(value)
        else:
            parameters[key] = _number(spec, key, value, zero=valid is None)
    return parameters


def _number(spec: str, key: str, value: str, zero: bool) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf") or not (zero or number > 0):
        sort = "number" if zero else "number above 0"
        raise ValueError(f"activation {spec!r}: {key}={value!r} is not a finite {sort}")
    return number


def _import(path: str) -> Callable:
    module, _, target = path.partition(":")
    try:
        found = importlib.import_module(module)
        for part in target.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"activation {path!r} cannot be imported ({error}); give package.module:callable "
            f"or one of: {', '.join(NAMES)}"
        ) from error
    if not callable(found):
        raise ValueError(f"activation {path!r} is a {type(found).__name__}, not a callable")
    if isinstance(found, keras.layers.Layer):
        raise ValueError(
            f"activation {path!r} is one layer object, which all sites would share; "
            "name its class or a function that makes it"
        )
    return found


def _named(name: str, parameters: dict) -> Callable[[tf.Tensor], tf.Tensor]:
    parameters = dict(parameters)
    backward = parameters.pop("backward", None)
    prefix = "backward_"
    other = {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}
    own = {k: v for k, v in parameters.items() if not k.startswith(prefix)}
    forward = _at(FUNCTIONS[name], own)
    if backward is None:
        return forward
    return functools.partial(with_backward, forward, _at(FUNCTIONS[backward], other))


def _at(function: ScalarFunction, parameters: dict) -> ScalarFunction:
    return dataclasses.replace(function, defaults={**function.defaults, **parameters})


def _external(path: str, parameters: dict) -> Callable[[tf.Tensor], tf.Tensor]:
    found = _import(path)
    makes_layer = inspect.isclass(found)
    if not makes_layer:
        try:
            arguments = inspect.signature(found).parameters.values()
        except ValueError:
            arguments = None  # a builtin says nothing about itself: a function of a tensor
        if arguments is not None:
            makes_layer = not any(
                a.default is a.empty and a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)
                for a in arguments
            )
    if not makes_layer:
        return lambda x: found(x, **parameters)
    made = found(**parameters)
    if not isinstance(made, keras.layers.Layer):
        raise ValueError(f"activation {path!r} makes a {type(made).__name__}, not a Keras layer")
    return made
