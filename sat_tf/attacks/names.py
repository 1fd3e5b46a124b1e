"""Attacks by name, with the settings of an evaluation."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from sat_tf.attacks import autoattack, own, targeted
from sat_tf.attacks.pgd import PGD

_MOST_STEPS = 10_000  # as --attack_steps

_SINGLE = ("pgd-STEPS", *autoattack.NAMES, *(f"pgd-STEPS-{one}" for one in targeted.TARGETS))
NAMES = (*_SINGLE, "autoattack", *autoattack.VERSIONS, "module:function")


def make(
    name: str,
    *,
    epsilon: float,
    norm: str = "linf",
    num_classes: int,
    step_size: float | None = None,
) -> Any:
    """Makes one attack with the settings of an evaluation; arguments as `parse`.

    Raises:
      ValueError: an unknown name, or a norm that the attack lacks.
    """
    with _named_in_errors(name):
        if name.startswith("pgd"):
            return _pgd(name, epsilon, norm, step_size)
        if name not in autoattack.NAMES:
            raise ValueError(f"unknown; use one of: {', '.join(_SINGLE)}")
        return autoattack.make(name, epsilon=epsilon, norm=norm, num_classes=num_classes)


def parse(
    names: Sequence[str],
    *,
    epsilon: float,
    norm: str,
    num_classes: int,
    step_size: float | None = None,
) -> list[Any]:
    """Makes attacks from names such as `pgd-50` and `autoattack` (which is `standard`).

    What a version of AutoAttack leaves out is not an error: `left_out` names it. A name such as
    `mine:attack` is that of a function of one's own, see `own.make`.

    Args:
      names: of `NAMES`.
      epsilon: radius in pixels.
      norm: "linf", "l2" or "l1", as far as the attacks support it.
      num_classes: of the network.
      step_size: of PGD, in pixels; None takes that of `pgd`.

    Raises:
      ValueError: an unknown name, one that is given twice, none, or a norm that an attack lacks.
    """
    if not names:
        raise ValueError(f"no attack is given; use some of: {', '.join(NAMES)}")
    attacks = []
    common = {"epsilon": epsilon, "norm": norm, "num_classes": num_classes}
    for name in names:
        if version := _version(name):
            with _named_in_errors(name):
                attacks += autoattack.ensemble(version, **common)
        elif ":" in name:
            with _named_in_errors(name):
                attacks.append(own.make(name, **common))
        elif name.startswith("pgd") or name in autoattack.NAMES:
            attacks.append(make(name, step_size=step_size, **common))
        else:
            raise ValueError(f"attack {name!r}: unknown; use some of: {', '.join(NAMES)}")
    kinds = [name_of(attack) for attack in attacks]
    twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if twice:
        raise ValueError(f"attack {twice[0]!r} is given twice, by its name or by a version's")
    return attacks


def left_out(names: Sequence[str], *, norm: str, num_classes: int) -> dict[str, str]:
    """Returns which attacks of AutoAttack's versions `parse` leaves out, and why."""
    versions = [_version(name) for name in names if _version(name)]
    reasons = {}
    for version in versions:
        reasons |= autoattack.left_out(version, norm=norm, num_classes=num_classes)
    return reasons


def name_of(attack: Any) -> str:
    """Returns what reports call an attack."""
    return f"pgd-{attack.steps}" if isinstance(attack, PGD) else attack.name


def pgd(steps: int, *, epsilon: float, norm: str, step_size: float | None = None) -> PGD:
    """Makes PGD that measures robustness.

    A step is `epsilon / 4` unless given (1 pixel at epsilon 4, as the paper; 2 at epsilon 8), and
    for fewer than 4 steps `epsilon / steps`, which reaches the ball's edge.
    """
    if step_size is None:
        step_size = epsilon / min(4, steps)
    return PGD(epsilon=epsilon, step_size=step_size, steps=steps, norm=norm)


def training_step_size(epsilon: float, steps: int) -> float:
    """Returns the step of PGD inside training, in pixels: `epsilon * min(1, 2.5 / steps)`.

    Up to two steps that is epsilon, as the paper (one is FGSM with random start); for more it is
    that of Madry et al.
    """
    return epsilon * min(1, 2.5 / max(steps, 1))  # 0 steps are refused by PGD, in words


def warn_of_fraction(epsilon: float) -> None:
    """Warns on stderr of a radius below a pixel, as others give it for images in [0, 1]."""
    if 0 < epsilon < 1:
        meant = f"{epsilon * 255:.3g}"
        print(
            f"warning: epsilon is {epsilon:g} pixels of 255, which is next to nothing; if "
            f"{meant}/255 is meant, give {meant}",
            file=sys.stderr,
        )


@contextlib.contextmanager
def _named_in_errors(name):
    try:
        yield
    except ValueError as error:
        raise ValueError(f"attack {name!r}: {error}") from error


def _version(name):
    if name == "autoattack":
        return "standard"
    return name if name in autoattack.VERSIONS else None


def _pgd(name, epsilon, norm, step_size):
    kind, _, steps = name.partition("-")
    steps, dash, target = steps.partition("-")
    known = target in (targeted.TARGETS if dash else ("",))
    if kind != "pgd" or not known or not steps.isdecimal() or int(steps) < 1:
        raise ValueError(f"unknown; use some of: {', '.join(NAMES)}, such as pgd-50")
    if int(steps) > _MOST_STEPS:
        raise ValueError(f"{steps} steps came; give at most {_MOST_STEPS:,}")
    plain = pgd(int(steps), epsilon=epsilon, norm=norm, step_size=step_size)
    if not target:
        return plain
    return targeted.SteppedTargetedPGD(
        target, epsilon=epsilon, norm=norm, step_size=plain.step_size, steps=plain.steps
    )
