"""Reads the specs of optimisers, such as "tfa:Lookahead(tfa:LAMB):sync_period=5".

See `sat_tf.addons.optimizers`, which makes them.
"""

import dataclasses
import math
from collections.abc import Mapping

from sat_tf import specs

_BETAS = {"beta_1": 0.9, "beta_2": 0.999}
OPTIONS: Mapping[str, Mapping[str, float | int | bool]] = {
    "AdaBelief": {**_BETAS, "epsilon": 1e-14, "rectify": True},
    "AdamW": {**_BETAS, "epsilon": 1e-7},
    "LAMB": {**_BETAS, "epsilon": 1e-6},
    "NovoGrad": {**_BETAS, "epsilon": 1e-7},
    "RectifiedAdam": {**_BETAS, "epsilon": 1e-7},
    "SGDW": {},
    "Yogi": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-3, "initial_accumulator_value": 1e-6},
    "Lookahead": {"sync_period": 6, "slow_step_size": 0.5},
    "SWA": {"start_averaging": 0, "average_period": 10},
}
_WRAPPERS = ("Lookahead", "SWA")
# What an option may be: from the first number on, and below the second.
_RANGES = {
    "beta_1": (0, 1), "beta_2": (0, 1), "beta1": (0, 1), "beta2": (0, 1),
    "epsilon": (1e-30, math.inf), "initial_accumulator_value": (1e-30, math.inf),
    "sync_period": (1, 2**31), "slow_step_size": (1e-6, 1.000001),
    "start_averaging": (0, 2**31), "average_period": (1, 2**31), "rectify": (0, 2),
}  # fmt: skip

NAMES = tuple(f"tfa:{name}" for name in OPTIONS)


@dataclasses.dataclass(frozen=True)
class Spec:
    """An optimiser's name, what it wraps, and its options.

    Attributes:
      name: without "tfa:", or "sgd".
      inner: what a wrapper wraps.
      options: those that are given and those that are not.
    """

    name: str
    inner: "Spec | None" = None
    options: Mapping[str, float | int | bool] = dataclasses.field(default_factory=dict)

    @property
    def decays(self) -> bool:
        """Whether its step decays kernels."""
        return any(one.name in ("AdamW", "LAMB", "SGDW") for one in self.chain)

    @property
    def chain(self) -> tuple["Spec", ...]:
        """This one, the one that it wraps, and so on."""
        return (self, *(self.inner.chain if self.inner else ()))


def name_of(spec: str) -> str:
    """Returns what stands before parentheses and options: "tfa:SWA" of "tfa:SWA(sgd)".

    A spec that does not begin with "tfa:" is a name as it is.
    """
    spec = spec.strip()
    if not spec.startswith("tfa:"):
        return spec
    outer, _ = _taken_apart(spec)
    return specs.split(outer, path=True)[0]


def parse(spec: str) -> Spec:
    """Reads the spec of an optimiser.

    Raises:
      ValueError: an unknown name or option, a value out of range, parentheses that are missing,
        not closed, or too many.
    """
    spec = spec.strip()
    if spec == "sgd":
        return Spec("sgd")
    outer, inside = _taken_apart(spec)
    full, texts = specs.split(outer, path=True)
    specs.one_of("optimizer", full, ("sgd", *NAMES))
    name = full.removeprefix("tfa:")
    if (inside is not None) != (name in _WRAPPERS):
        raise ValueError(
            f"optimizer {spec!r}: {full} wraps "
            + (f"another one: write {full}(sgd)" if inside is None else "no other one")
        )
    inner = None if inside is None else parse(inside)
    if inner is not None and name in [one.name for one in inner.chain]:
        raise ValueError(f"optimizer {spec!r}: {full} wraps itself; leave one out")
    return Spec(name, inner, _options(full, OPTIONS[name], texts))


def _taken_apart(spec):
    """Splits `f(g:a=1):b=2` into `f:b=2` and `g:a=1`; the second is None without parentheses."""
    head, opened, rest = spec.partition("(")
    if not opened and ")" not in spec:
        return spec, None
    inside, closed, tail = rest.rpartition(")")
    if not opened or not closed or not inside.strip() or tail.strip()[:1] not in ("", ":"):
        raise ValueError(
            f"optimizer {spec!r} is not NAME(OTHER):option=value; write "
            "tfa:Lookahead(sgd):sync_period=5"
        )
    return head + tail.strip(), inside


def _options(name, defaults, texts):
    options = dict(defaults)
    for key, text in texts.items():
        if key not in defaults:
            valid = ", ".join(defaults) or "none"
            raise ValueError(f"optimizer {name} has no option {key!r}; options: {valid}")
        options[key] = _value(name, key, text, type(defaults[key]))
    return options


def _value(name, key, text, kind):
    least, below = _RANGES[key]
    try:
        value = {"true": 1, "false": 0}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        value = math.nan
    if not least <= value < below:
        sort = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        limits = "" if kind is bool else f" from {least:g} to below {below:g}"
        raise ValueError(f"optimizer {name}: {key}={text!r}; give {sort}{limits}")
    return kind(value)
