"""What an evaluation is going to do: stages of sweeps, each over the survivors of the last."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from sat_tf.attacks import PGD
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.attacks.targeted import SteppedTargetedPGD
from sat_tf.attacks.trajectory import Trajectory
from sat_tf.evaluation.options import Options
from sat_tf.evaluation.packing.packed import Verdict
from sat_tf.evaluation.sweep import Sweep


@dataclasses.dataclass
class Stage:
    """One attack, or several PGD attacks of which the shorter are the beginning of the longest.

    Attributes:
      attacks: what is reported, shortest first.
      sweeps: what is run: one for each restart of a trajectory, else one.
      last_iterate: whether every image gets every step, as the paper counts.
    """

    attacks: list[Any]
    sweeps: list[Sweep]
    last_iterate: bool

    def candidates(self, standing: np.ndarray) -> np.ndarray:
        """Returns which images it is for, of those that stood before it: bool [N]."""
        return np.ones_like(standing) if self.last_iterate else standing

    def falls_earliest(self, number: int, verdict: Verdict) -> bool:
        """Tells whether no sweep before `number` broke the verdict's image in fewer steps.

        Of several restarts the report names the step of the earliest break, so it is the image of
        that break that goes with it.
        """
        index = verdict.index
        earlier = [
            _fell(sweep.broken[index], sweep.misclassified[index]) for sweep in self.sweeps[:number]
        ]
        return not earlier or _fell(verdict.confirmed, verdict.entries["wrong"]) <= min(earlier)


@dataclasses.dataclass
class Plan:
    """All that is run, in its order.

    Attributes:
      stages: the attacks of the report.
      curve: the stages of each radius, ascending; none at radius 0, where nothing can be attacked,
        and none where the attacks are those of the report.
      own_radii: radii of the curve that take the verdicts of the report.
      left_out: attacks that cannot run, with why.
    """

    stages: list[Stage]
    curve: dict[float, list[Stage]]
    own_radii: set[float]
    left_out: dict[str, str]

    @property
    def sweeps(self) -> list[Sweep]:
        """Returns all sweeps in the order in which they run."""
        return sweeps_of([*self.stages, *itertools.chain(*self.curve.values())])


def make(attacks: Sequence[Any], options: Options, num_images: int, num_classes: int) -> Plan:
    """Plans an evaluation.

    Args:
      attacks: `PGD` or stepped attacks.
      options: see `Options`: curve, restarts, last_iterate, left_out.
      num_images: of the data set.
      num_classes: of the network.

    Raises:
      ValueError: no attack can run with so many classes.
    """

    def planned(attacks, prefix, last_iterate):
        usable, unavailable = available(attacks, num_classes)
        options_here = {"restarts": options.restarts, "last_iterate": last_iterate}
        return stages(usable, prefix, num_images, **options_here), unavailable

    # The prefixes begin the keys of the sweeps in the file of verdicts.
    main, unavailable = planned(attacks, "main", options.last_iterate)
    left_out = {**options.left_out, **unavailable}
    if not main:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ValueError(f"no attack can run on this network ({reasons}); use pgd-50")
    own_radii = {radius for radius, one in options.curve.items() if list(one) == list(attacks)}
    curve = {}
    for radius in sorted(options.curve):
        to_run = options.curve[radius] if radius and radius not in own_radii else []
        curve[radius], _ = planned(to_run, f"curve/{radius:g}", False)
    return Plan(main, curve, own_radii, left_out)


def stages(
    attacks: Sequence[Any], prefix: str, num_images: int, *, restarts: int, last_iterate: bool
) -> list[Stage]:
    """Plans attacks in the order given; PGD with `last_iterate` comes first.

    Args:
      attacks: `PGD` or stepped attacks.
      prefix: begins the keys of the sweeps.
      num_images: size of the data set.
      restarts: random starts of each PGD.
      last_iterate: whether PGD runs to its end on every image.
    """
    planned = []
    if last_iterate:
        for group in _groups([attack for attack in attacks if isinstance(attack, PGD)]):
            trajectory = Trajectory(group[-1])
            sweeps = [
                Sweep.blank(
                    f"{prefix}/{trajectory.name}/{i}",
                    trajectory,
                    num_images,
                    title=trajectory.name,
                    noise=f"pgd/{i}",
                    columns=group[-1].steps + 1,
                )
                for i in range(restarts if group[-1].random_start else 1)
            ]
            planned.append(Stage(group, sweeps, True))
        attacks = [attack for attack in attacks if not isinstance(attack, PGD)]
    for attack in attacks:
        stepped = _stepped(attack, restarts)
        sweep = Sweep.blank(
            f"{prefix}/{len(planned)}/{stepped.name}",
            stepped,
            num_images,
            title=f"epsilon {stepped.epsilon:g}, {stepped.name}",
            noise=stepped.name,
        )
        planned.append(Stage([stepped], [sweep], False))
    return planned


def available(attacks: Sequence[Any], num_classes: int) -> tuple[list[Any], dict[str, str]]:
    """Splits attacks in those that can run with so many classes and those left out, with why."""
    usable, left_out = [], {}
    for attack in attacks:
        limit = getattr(attack, "unavailable", None)
        reason = limit and limit(num_classes)
        if reason is None:
            usable.append(attack)
        else:
            left_out[attack.name] = reason
    return usable, left_out


def describe(attack: Any) -> dict[str, Any]:
    """Returns the plain settings of an attack: what reproduces it, all lengths in pixels."""
    found = {
        name: value
        for name, value in vars(attack).items()
        if isinstance(value, int | float | str | bool) and not name.startswith("_")
    }
    inner = getattr(attack, "pgd", None)
    return (describe(inner) if inner is not None else {}) | found


def titles(planned: Sequence[Stage]) -> str:
    """Names the attacks as a person asks for them: "pgd-10,20,50,200, square"."""
    return ", ".join(
        "pgd-" + ",".join(str(attack.steps) for attack in stage.attacks)
        if stage.last_iterate
        else stage.attacks[0].name
        for stage in planned
    )


def sweeps_of(planned: Sequence[Stage]) -> list[Sweep]:
    """Returns the sweeps of some stages in the order in which they run."""
    return [sweep for stage in planned for sweep in stage.sweeps]


def _stepped(attack, restarts):
    towards = isinstance(attack, SteppedTargetedPGD)
    # Towards a class it has its restarts already, where the evaluation asks for no more.
    if not isinstance(attack, PGD) and not (towards and restarts > 1):
        return attack
    pgd = attack.pgd if towards else attack
    settings = {
        "epsilon": pgd.epsilon,
        "step_size": pgd.step_size,
        "steps": pgd.steps,
        "restarts": restarts if pgd.random_start else 1,
        "random_start": pgd.random_start,
        "norm": pgd.norm,
    }
    if towards:
        return SteppedTargetedPGD(attack.target, eot_steps=attack.eot_steps, **settings)
    return RestartedPGD(**settings)


def _groups(attacks):
    groups = {}
    for attack in attacks:
        key = (attack.epsilon, attack.step_size, attack.norm, attack.random_start)
        groups.setdefault((*key, attack.batch_norm), []).append(attack)
    return [sorted(group, key=lambda attack: attack.steps) for group in groups.values()]


def _fell(broken, misclassified):
    """Returns the first iterate of a break, or a number beyond all where there was none."""
    return int(misclassified.argmax()) if broken else len(misclassified)
