"""What one attack found: verdicts of single images, and what they cost."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sat_tf.attacks.names import name_of
from sat_tf.evaluation.plan import Stage, describe


@dataclasses.dataclass
class Outcome:
    """What one attack did.

    Attributes:
      name: such as "pgd-50".
      settings: what reproduces the attack; lengths in pixels.
      attacked: bool [N], which images it was given: all of them, or the survivors so far.
      standing: bool [N], survivors of this attack and all before it; a clean image that is
        misclassified never stands. For PGD no iterate may be misclassified ("any iterate").
      last_iterate: bool [N], whether the last iterate of every restart is classified right, as the
        paper counts, whatever came before; None for attacks that leave broken images.
      broken_step: int [N], evaluations of the attack before the one that broke the image: 0 is the
        start; -1 where this attack broke nothing.
      distance: float [N], norm of the perturbation returned, in pixels.
      unconfirmed: images that the attack called broken and a second evaluation did not.
      seconds: wall time of the sweeps that gave this outcome.
      slot_steps, image_steps: evaluations paid for and needed.
      plain_steps: what a plain loop pays: every step, restart and target for every image attacked.
    """

    name: str
    settings: dict[str, Any]
    attacked: np.ndarray
    standing: np.ndarray
    last_iterate: np.ndarray | None
    broken_step: np.ndarray
    distance: np.ndarray
    unconfirmed: int
    seconds: float
    slot_steps: int
    image_steps: int
    plain_steps: int

    @property
    def saved_by_packing(self) -> float | None:
        """Returns `1 - paid / plain`; None where nothing was attacked."""
        return 1 - self.slot_steps / self.plain_steps if self.plain_steps else None


@dataclasses.dataclass
class CurvePoint:
    """Accuracy at one radius.

    Attributes:
      epsilon: in pixels.
      standing: bool [N], survivors of all attacks up to this radius.
      seconds: wall time beyond the smaller radii.
    """

    epsilon: float
    standing: np.ndarray
    seconds: float


class Examples(NamedTuple):
    """The first images, for a picture.

    Attributes:
      clean, adversarial: float32 [G, H, W, C] in pixels; adversarial as the attacks left them.
      labels: int32 [G].
      probabilities: of the clean and of the adversarial images, [G, classes] each.
    """

    clean: np.ndarray
    adversarial: np.ndarray
    labels: np.ndarray
    probabilities: tuple[np.ndarray, np.ndarray]


def of_stage(stage: Stage, standing: np.ndarray) -> list[Outcome]:
    """Returns what each attack of a finished stage did.

    Args:
      stage: whose sweeps are done.
      standing: bool [N], which images stood before it.
    """
    if stage.last_iterate:
        return [_of_trajectory(stage, attack, standing) for attack in stage.attacks]
    return [_of_packed(stage, standing)]


def _of_trajectory(stage, attack, standing):
    confirmed = [one.misclassified & ~one.unconfirmed[:, None] for one in stage.sweeps]
    # A shorter attack is the beginning of this one: its last iterate stands in column `steps`.
    within = np.logical_or.reduce(confirmed)[:, : attack.steps + 1]
    fooled = standing & within.any(1)
    last = np.any([one.misclassified[:, attack.steps] for one in stage.sweeps], 0)
    return Outcome(
        name=name_of(attack),
        settings=describe(attack) | {"restarts": len(stage.sweeps)},
        standing=standing & ~fooled,
        last_iterate=~last,
        broken_step=np.where(fooled, within.argmax(1), -1),
        **_totals(stage, standing),
    )


def _of_packed(stage, standing):
    (sweep,) = stage.sweeps
    broken = standing & sweep.broken
    return Outcome(
        name=sweep.attack.name,
        settings=describe(sweep.attack),
        standing=standing & ~broken,
        last_iterate=None,
        broken_step=np.where(broken, sweep.steps - 1, -1),
        **_totals(stage, standing),
    )


def _totals(stage, standing):
    attacked, sweeps = stage.candidates(standing), stage.sweeps
    cost = getattr(sweeps[0].attack, "step_cost", 1)  # see `transfer.Transferred`
    return {
        "attacked": attacked,
        "distance": np.max([one.distance for one in sweeps], 0),
        "unconfirmed": int(np.any([one.unconfirmed for one in sweeps], 0).sum()),
        "seconds": sum(one.seconds for one in sweeps),
        "slot_steps": cost * sum(one.slot_steps for one in sweeps),
        "image_steps": cost * sum(one.image_steps for one in sweeps),
        "plain_steps": cost * int(attacked.sum()) * sum(one.attack.num_steps for one in sweeps),
    }


def broken_by(clean: np.ndarray, outcomes: Sequence[Outcome]) -> np.ndarray:
    """Returns the number of the attack that broke each image, int [N]; -1 where none did.

    An image that is misclassified when clean was broken by no attack.
    """
    found, standing = np.full(len(clean), -1), clean
    for number, outcome in enumerate(outcomes):
        found[standing & ~outcome.standing] = number
        standing = outcome.standing
    return found


def steps_curve(outcome: Outcome) -> list[tuple[int, float]]:
    """Returns how the fraction that stands falls with an attack's evaluations.

    Returns:
      Pairs (evaluations after the start, fraction standing) wherever the fraction changes, from
      the first to the last.
    """
    before = int((outcome.standing | (outcome.broken_step >= 0)).sum())
    fell = np.bincount(outcome.broken_step[outcome.broken_step >= 0], minlength=1)
    left = (before - np.cumsum(fell)) / len(outcome.standing)
    changes = [step for step in range(len(left)) if step == 0 or left[step] != left[step - 1]]
    return [(int(step), float(left[step])) for step in changes]
