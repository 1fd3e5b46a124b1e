"""The optimisers of TensorFlow Addons by name: `tfa:LAMB`, `tfa:Lookahead(tfa:LAMB):sync_period=5`.

    spec   = "tfa:" name ["(" spec ")"] [":" option {"," option}]

The spec in parentheses is the optimiser that another one wraps: `sgd` or a `tfa:` name.

| name | options with their defaults | kernels are decayed |
|---|---|---|
| AdaBelief | beta_1=0.9, beta_2=0.999, epsilon=1e-14, rectify=true | in the loss |
| AdamW | beta_1=0.9, beta_2=0.999, epsilon=1e-7 | by itself |
| LAMB | beta_1=0.9, beta_2=0.999, epsilon=1e-6 | by itself |
| NovoGrad | beta_1=0.9, beta_2=0.999, epsilon=1e-7 | in the loss |
| RectifiedAdam | beta_1=0.9, beta_2=0.999, epsilon=1e-7 | in the loss |
| SGDW | none: momentum and nesterov are the recipe's | by itself |
| Yogi | beta1=0.9, beta2=0.999, epsilon=1e-3, initial_accumulator_value=1e-6 | in the loss |
| Lookahead(…) | sync_period=6, slow_step_size=0.5 | as the one inside |
| SWA(…) | start_averaging=0, average_period=10 | as the one inside |

Learning rate and its schedule are the recipe's. So is the coefficient of weight decay: AdamW, LAMB
and SGDW take it into their steps, `w <- w - rate * weight_decay * w` for AdamW and SGDW, and then
it is not in the loss; it concerns kernels in either place. (Addons itself wants `rate *
weight_decay` as the `weight_decay` of AdamW and SGDW, and leaves it to the caller to follow the
schedule.)

Source: tensorflow_addons.optimizers, version 0.23.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from sat_tf import specs
from sat_tf.addons.legacy import Bridge, LegacyOptimizer
from sat_tf.addons.opening import legacy_keras, tensorflow_addons

_BETAS = {"beta_1": 0.9, "beta_2": 0.999}
_OPTIONS: Mapping[str, Mapping[str, float | int | bool]] = {
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

NAMES = tuple(f"tfa:{name}" for name in _OPTIONS)


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
    return Spec(name, inner, _options(full, _OPTIONS[name], texts))


def make(
    spec: str,
    learning_rate: keras.optimizers.schedules.LearningRateSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    decays: Callable[[keras.Variable], bool] = lambda variable: True,
) -> LegacyOptimizer:
    """Makes an optimiser of TensorFlow Addons.

    Args:
      spec: as above.
      learning_rate: a schedule.
      momentum: of `sgd` and SGDW.
      nesterov: of `sgd` and SGDW.
      weight_decay: what AdamW, LAMB and SGDW take into their step; the others have no use for it.
      decays: which weights are decayed.

    Raises:
      ValueError: as `parse`; TensorFlow Addons is not installed.
    """
    parsed = parse(spec)
    classes = tensorflow_addons().optimizers
    momenta = {"momentum": momentum, "nesterov": nesterov}

    def legacy(one: Spec, bridge: Bridge):
        if one.name == "sgd":
            kind = legacy_keras().optimizers.legacy.SGD
            return bridge.class_of(kind)(bridge.learning_rate, **momenta)
        kind = bridge.class_of(getattr(classes, one.name))
        if one.inner is not None:
            return kind(legacy(one.inner, bridge), **one.options)
        options = dict(one.options)
        if one.name == "SGDW":
            options |= momenta
        if one.name == "LAMB":
            options["weight_decay"] = weight_decay
        elif one.decays:
            options["weight_decay"] = lambda: weight_decay * bridge.learning_rate()
        return kind(learning_rate=bridge.learning_rate, **options)

    made = {"make": lambda bridge: legacy(parsed, bridge), "decays": decays, "name": parsed.name}
    for one in parsed.chain:
        if one.name == "SWA":
            return _Averaging(one.options["start_averaging"], learning_rate, **made)
    return LegacyOptimizer(learning_rate, **made)


class _Averaging(LegacyOptimizer):
    """Knows the average that SWA keeps of each weight."""

    def __init__(self, start: int, learning_rate, **options):
        super().__init__(learning_rate, **options)
        self._start = start

    def averaged(self, weight: keras.Variable) -> tf.Tensor:
        """Returns the average of a weight; itself before the first of what is averaged."""
        average = self.slot("SWA", "average", weight).value
        return tf.where(self.iterations.value > self._start, average, weight.value)


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
