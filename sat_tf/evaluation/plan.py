"""What an evaluation is going to do: stages of passes, each over the survivors of the last."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from sat_tf.attacks import PGD
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.attacks.trajectory import Trajectory
from sat_tf.evaluation.packing.packed import Verdict
from sat_tf.evaluation.passes import Pass


@dataclasses.dataclass
class Stage:
    """One attack, or several PGD attacks of which the shorter are the beginning of the longest.

    Attributes:
      attacks: what is reported, shortest first.
      passes: what is run: one for each restart of a trajectory, else one.
      last_iterate: whether every image gets every step, as the paper counts.
      title: what progress is headed.
    """

    attacks: list[Any]
    passes: list[Pass]
    last_iterate: bool
    title: str

    def salt(self, number: int) -> str:
        """Returns what keeps the noise of a pass apart from that of the others."""
        return f"pgd/{number}" if self.last_iterate else self.attacks[0].name


def stages(
    attacks: Sequence[Any], prefix: str, num_images: int, *, restarts: int, last_iterate: bool
) -> list[Stage]:
    """Plans attacks in the order given; PGD with `last_iterate` comes first.

    Args:
      attacks: `PGD` or stepped attacks.
      prefix: begins the keys of the passes.
      num_images: size of the data set.
      restarts: random starts of each PGD.
      last_iterate: whether PGD runs to its end on every image.
    """
    planned = []
    if last_iterate:
        for group in _groups([attack for attack in attacks if isinstance(attack, PGD)]):
            trajectory = Trajectory(group[-1])
            passes = [
                Pass.blank(
                    f"{prefix}/{trajectory.name}/{i}", trajectory, num_images, group[-1].steps + 1
                )
                for i in range(restarts if group[-1].random_start else 1)
            ]
            planned.append(Stage(group, passes, True, trajectory.name))
        attacks = [attack for attack in attacks if not isinstance(attack, PGD)]
    for attack in attacks:
        stepped = _stepped(attack, restarts)
        work = Pass.blank(f"{prefix}/{len(planned)}/{stepped.name}", stepped, num_images)
        title = f"epsilon {stepped.epsilon:g}, {stepped.name}"
        planned.append(Stage([stepped], [work], False, title))
    return planned


def available(attacks: Sequence[Any], num_classes: int) -> tuple[list[Any], dict[str, str]]:
    """Splits attacks in those that can run with so many classes and those left out, with why."""
    kept, left_out = [], {}
    for attack in attacks:
        limit = getattr(attack, "unavailable", None)
        reason = limit and limit(num_classes)
        if reason is None:
            kept.append(attack)
        else:
            left_out[attack.name] = reason
    return kept, left_out


def describe(attack: Any) -> dict[str, Any]:
    """Returns the plain settings of an attack: what reproduces it, all lengths in pixels."""
    found = {
        name: value
        for name, value in vars(attack).items()
        if isinstance(value, int | float | str | bool) and not name.startswith("_")
    }
    inner = getattr(attack, "pgd", None)
    return (describe(inner) if inner is not None else {}) | found


def _stepped(attack, restarts):
    if not isinstance(attack, PGD):
        return attack
    return RestartedPGD(
        epsilon=attack.epsilon,
        step_size=attack.step_size,
        steps=attack.steps,
        restarts=restarts if attack.random_start else 1,
        random_start=attack.random_start,
        norm=attack.norm,
    )


def _groups(attacks):
    groups = {}
    for attack in attacks:
        key = (attack.epsilon, attack.step_size, attack.norm, attack.random_start)
        groups.setdefault((*key, attack.batch_norm), []).append(attack)
    return [sorted(group, key=lambda attack: attack.steps) for group in groups.values()]


def falls_earliest(stage: Stage, number: int, verdict: Verdict) -> bool:
    """Tells whether no earlier pass of the stage broke the verdict's image in fewer steps.

    Of several restarts the report names the step of the earliest break, so it is the image of that
    break that goes with it.
    """
    index = verdict.index
    earlier = [_fell(work.broken[index], work.wrong[index]) for work in stage.passes[:number]]
    return not earlier or _fell(verdict.broken, verdict.extras["wrong"]) <= min(earlier)


def _fell(broken, wrong):
    return int(wrong.argmax()) if broken else len(wrong)


def titles(planned: Sequence[Stage]) -> str:
    """Names the attacks as a person asks for them: "pgd-10,20,50,200, square"."""
    return ", ".join(
        "pgd-" + ",".join(str(attack.steps) for attack in stage.attacks)
        if stage.last_iterate
        else stage.attacks[0].name
        for stage in planned
    )


def passes_of(planned: Sequence[Stage]) -> list[Pass]:
    """Returns all passes in the order in which they run."""
    return [work for stage in planned for work in stage.passes]
