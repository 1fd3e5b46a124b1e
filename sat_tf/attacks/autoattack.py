"""Attacks by name, and the ensembles of AutoAttack as lists of them."""

from typing import Any, NamedTuple

from sat_tf import specs
from sat_tf.attacks import geometry, stepped
from sat_tf.attacks.apgd import APGD
from sat_tf.attacks.fab import FAB
from sat_tf.attacks.square import Square


class _Kind(NamedTuple):
    """What a name makes.

    Attributes:
      make: the attack's class; its `norms` are those for which it is defined.
      settings: arguments that the name stands for.
      targeted: whether it aims at classes, as many as the network has up to `_MAX_TARGETS`.
    """

    make: type[stepped.Stepped]
    settings: dict[str, Any]
    targeted: bool = False


# The table of attacks by name: one that stands here is known to every program.
_KINDS = {
    "apgd-ce": _Kind(APGD, {"loss": "ce"}),
    "apgd-dlr": _Kind(APGD, {"loss": "dlr"}),
    "apgd-t": _Kind(APGD, {"loss": "dlr-targeted"}, targeted=True),
    "fab": _Kind(FAB, {"targeted": False}),
    "fab-t": _Kind(FAB, {"targeted": True}, targeted=True),
    "square": _Kind(Square, {}),
}
NAMES = tuple(_KINDS)
# What each version runs, in its order: a name, and the settings that differ from `make`'s.
_ORDERS = {
    "standard": (("apgd-ce", {}), ("apgd-t", {}), ("fab-t", {}), ("square", {})),
    "plus": (
        ("apgd-ce", {"restarts": 5}),
        ("apgd-dlr", {"restarts": 5}),
        ("fab", {"restarts": 5}),
        ("square", {}),
        ("apgd-t", {}),
        ("fab-t", {}),
    ),
    "rand": (("apgd-ce", {"eot_steps": 20}), ("apgd-dlr", {"eot_steps": 20})),
    "quick": (("apgd-ce", {}), ("apgd-t", {"num_targets": 3})),  # ours, not AutoAttack's
}
VERSIONS = tuple(_ORDERS)
_MAX_TARGETS = 9


def make(
    name: str, *, epsilon: float, norm: str = "linf", num_classes: int, **settings
) -> stepped.SteppedAttack:
    """Makes an attack with AutoAttack's settings.

    100 iterations, one run, `min(9, num_classes - 1)` targets, Square with 5,000 queries. L1 uses
    the three radii of `APGD(wide=True)`.

    Args:
      name: one of `NAMES`.
      epsilon: radius in pixels.
      norm: one of `geometry.NORMS` that the attack knows.
      num_classes: the network's, for the number of targets.
      **settings: arguments of the attack's class that shall differ.

    Raises:
      ValueError: an unknown name, a norm the attack does not know, or a wrong setting.
    """
    kind = _KINDS[specs.one_of("attack", name, NAMES)]
    geometry.check_norm(norm, kind.make.norms)
    settings = {**kind.settings, "epsilon": epsilon, "norm": norm, **settings}
    if kind.targeted:
        settings.setdefault("num_targets", max(min(_MAX_TARGETS, num_classes - 1), 1))
    if kind.make is APGD:
        settings.setdefault("wide", norm == "l1")
    return kind.make(**settings)


def members(version: str) -> tuple[str, ...]:
    """Returns the names of a version's attacks, in its order."""
    return tuple(name for name, _ in _order(version))


def ensemble(
    version: str = "standard", *, epsilon: float, norm: str = "linf", num_classes: int
) -> list[stepped.SteppedAttack]:
    """Makes the attacks of a version of AutoAttack, in its order; `left_out` names the rest.

    Each is to see only the images that stood all before it.

    | version | attacks |
    |---|---|
    | standard | apgd-ce, apgd-t, fab-t, square |
    | plus | apgd-ce and apgd-dlr with 5 restarts, fab with 5, square, apgd-t, fab-t |
    | rand | apgd-ce and apgd-dlr with gradients averaged over 20 evaluations |
    | quick | apgd-ce, apgd-t with the 3 targets of the largest logits |

    `quick` is a choice of ours for a first verdict: an upper bound of what `standard` leaves, never
    the figure to report. Every other is that of the source.

    Source: Croce and Hein, arXiv 2003.01690. L1 has 5 restarts of apgd-ce and 5 targets of apgd-t,
    as in 2103.01208.

    Args:
      version: one of `VERSIONS`.
      epsilon: radius in pixels.
      norm: one of `geometry.NORMS`.
      num_classes: the network's.

    Raises:
      ValueError: an unknown version or norm.
    """
    attacks = []
    for name, settings in _order(version):
        settings = {**_l1_settings(name, norm, num_classes), **settings}
        attack = make(name, epsilon=epsilon, norm=norm, num_classes=num_classes, **settings)
        if attack.unavailable(num_classes) is None:
            attacks.append(attack)
    return attacks


def left_out(version: str = "standard", *, norm: str = "linf", num_classes: int) -> dict[str, str]:
    """Returns which attacks of a version `ensemble` leaves out, and why: what a report must say."""
    reasons = {}
    for name, settings in _order(version):
        attack = make(name, epsilon=0.0, norm=norm, num_classes=num_classes, **settings)
        reason = attack.unavailable(num_classes)
        if reason is not None:
            reasons[name] = reason
    return reasons


def _order(version):
    return _ORDERS[specs.one_of("version", version, VERSIONS)]


def _l1_settings(name, norm, num_classes):
    if norm != "l1":
        return {}
    return {
        "apgd-ce": {"restarts": 5},
        "apgd-t": {"num_targets": max(min(5, num_classes - 1), 1)},
    }.get(name, {})
