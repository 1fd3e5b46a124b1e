"""Reads the specs of activations, such as "celu:alpha=1.6" (see `sat_tf.activations`)."""

import dataclasses
import functools
import importlib
import inspect
import random
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from sat_tf import specs
from sat_tf.activations.functions import FUNCTIONS, ScalarFunction, with_backward
from sat_tf.activations.trained import TRAINED

_ALIASES = {"silu": "swish"}

# An activation that is a program would come back here.
_being_tried: set[str] = set()

NAMES = (*FUNCTIONS, *_ALIASES, *TRAINED)

# Modules with a `function_of(name, parameters)` and what their names begin with. They are imported
# when one of their names is asked for, as somebody's own activation is.
PACKAGES = {"tfa": "sat_tf.addons.activations"}


def parse(spec: str) -> tuple[str, dict[str, float | str]]:
    """Splits a spec into the function's name or dotted path and its given parameters.

    Raises:
      ValueError: an unknown name or parameter, or a value that is not a finite number.
    """
    spec = str(spec)
    name, options = _split(spec)
    known = name.lower()
    if known in NAMES:
        known = _ALIASES.get(known, known)
        return known, _parameters(spec, options, _valid_parameters(known, options))
    if "=" in name or not name.partition(":")[2]:
        raise ValueError(
            f"unknown activation {spec!r}; use one of: {', '.join(NAMES)}; or a dotted path "
            "such as my_package.my_module:my_activation; or tfa:NAME of TensorFlow Addons"
        )
    parameters = _parameters(spec, options, None)
    if name.partition(":")[0] in PACKAGES:
        _external(name, parameters)  # which says by itself what is wrong
    _try(name, tuple(sorted(parameters.items())), keras.config.dtype_policy().compute_dtype)
    return name, parameters


def with_derivative(spec: str, gradient: str) -> str:
    """Writes the spec of `spec` forward and the derivative of `gradient` backward.

    Raises:
      ValueError: as `parse`; a spec that has trained parameters or a derivative of its own.
    """
    name, own = _split(spec)
    other, parameters = _split(gradient)
    if "backward" in own:
        raise ValueError(f"activation {spec!r} has a derivative of its own; leave backward= out")
    backward = {f"backward_{key}": value for key, value in parameters.items()}
    combined = specs.join(name, {**own, "backward": other, **backward})
    parse(combined)
    return combined


def _split(spec: str) -> tuple[str, dict[str, str]]:
    named = spec.partition(":")[0].strip().lower() in NAMES
    return specs.split(spec, path=not named)


def function_of(
    name: str, parameters: dict[str, float | str]
) -> Callable[[tf.Tensor], tf.Tensor] | keras.layers.Layer:
    """Returns what applies an activation that `parse` has read and that has no layer of its own.

    Raises:
      ValueError: a dotted path that makes no Keras layer.
    """
    make = _named if name in FUNCTIONS else _external
    return make(name, parameters)


def _valid_parameters(function: str, options: dict[str, str]) -> tuple[str, ...]:
    if function in TRAINED:
        return tuple(TRAINED[function].defaults)
    valid = (*FUNCTIONS[function].defaults, "backward")
    if "backward" in options:
        other = FUNCTIONS[_backward(options["backward"])]
        valid += tuple(f"backward_{p}" for p in other.defaults)
    return valid


def _backward(value: str) -> str:
    name = value.strip().lower()
    name = _ALIASES.get(name, name)
    if name not in FUNCTIONS:
        raise ValueError(f"backward={value!r} is unknown; use one of: {', '.join(FUNCTIONS)}")
    return name


def _parameters(
    spec: str, options: dict[str, str], valid: tuple[str, ...] | None
) -> dict[str, float | str]:
    parameters = {}
    for key, value in options.items():
        if valid is not None and key not in valid:
            raise ValueError(
                f"activation {spec!r}: cannot read {f'{key}={value}'!r}; "
                f"parameters: {', '.join(valid) or 'none'}"
            )
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
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        raise ValueError(
            f"activation {path!r} cannot be imported ({_brief(error)}); give "
            f"package.module:callable or one of: {', '.join(NAMES)}"
        ) from error
    if not callable(found):
        raise ValueError(f"activation {path!r} is a {type(found).__name__}, not a callable")
    if isinstance(found, keras.layers.Layer):
        raise ValueError(
            f"activation {path!r} is one layer object, which all sites would share; "
            "name its class or a function that makes it"
        )
    return found


@functools.cache
def _try(path: str, parameters: tuple[tuple[str, float], ...], dtype: str) -> None:
    """Applies somebody's own activation to numbers, once a process, before a network needs it.

    Raises:
      ValueError: it cannot be imported or called, changes shape or dtype, is not finite, or has no
        gradient or none but zeros.
    """
    if path in _being_tried:
        raise ValueError(f"activation {path!r} calls itself when it is made")
    _being_tried.add(path)
    # A layer that is made and thrown away must not change the weights of those made after it.
    random_state = random.getstate()
    try:
        values, slopes = _values_and_slopes(path, dict(parameters), dtype)
    except (Exception, SystemExit) as error:
        raise ValueError(f"activation {path!r} cannot be used: {_brief(error)}") from error
    finally:
        random.setstate(random_state)
        _being_tried.discard(path)
    if slopes is None or not np.any(slopes):
        raise ValueError(f"activation {path!r} has no gradient; give a function of TensorFlow")
    if not np.isfinite(values).all() or not np.isfinite(slopes).all():
        raise ValueError(f"activation {path!r} or its slope is not finite between -3 and 3")


def _values_and_slopes(path, parameters, dtype):
    """Returns f(x) and f'(x), float32 arrays, at x from -3 to 3; f'(x) None without a gradient."""
    apply = _external(path, parameters)
    numbers = tf.cast(tf.reshape(tf.linspace(-3.0, 3.0, 72), [2, 3, 3, 4]), dtype)
    if isinstance(apply, keras.layers.Layer):
        apply.dtype_policy = keras.config.dtype_policy()
        apply.build(numbers.shape)

    @tf.function(autograph=False)
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = apply(x)
            if not tf.is_tensor(y) or y.shape != x.shape or y.dtype != x.dtype:
                raise ValueError(
                    f"expected a tensor of shape {tuple(x.shape)} and {x.dtype.name} as it was "
                    f"given, got {_brief(y)}"
                )
        return y, tape.gradient(y, x)

    return [None if one is None else tf.cast(one, tf.float32).numpy() for one in both(numbers)]


def _brief(thing):
    kind = type(thing).__name__
    if tf.is_tensor(thing):
        return f"one of shape {tuple(thing.shape)} and {thing.dtype.name}"
    return f"{kind}: {' '.join(str(thing).split())[:200]}"


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
    package, _, name = path.partition(":")
    if package in PACKAGES:
        return importlib.import_module(PACKAGES[package]).function_of(name, parameters)
    found = _import(path)
    if inspect.isclass(found) and not issubclass(found, keras.layers.Layer):
        raise ValueError(f"activation {path!r} is a class, but none of Keras layers")
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
    if inspect.isbuiltin(found):
        raise ValueError(f"activation {path!r} is a builtin of no tensor; it is not called")
    made = found(**parameters)
    if not isinstance(made, keras.layers.Layer):
        raise ValueError(f"activation {path!r} makes a {type(made).__name__}, not a Keras layer")
    return made
