"""Turns what passes noted into what is reported."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sat_tf.attacks.names import name_of
from sat_tf.evaluation import plan
from sat_tf.evaluation.outcome import Outcome
from sat_tf.evaluation.passes import Pass


def outcomes(stage: plan.Stage, standing: np.ndarray) -> list[Outcome]:
    """Returns what each attack of a finished stage did.

    Args:
      stage: whose passes are done.
      standing: bool [N], which images stood before it.
    """
    if stage.last_iterate:
        return [_of_trajectory(stage, attack, standing) for attack in stage.attacks]
    return [_of_packed(stage, standing)]


def _of_trajectory(stage, attack, standing):
    confirmed = [work.wrong & ~work.unconfirmed[:, None] for work in stage.passes]
    within = np.logical_or.reduce(confirmed)[:, : attack.steps + 1]
    fooled = standing & within.any(1)
    attacked = np.ones_like(standing)
    return Outcome(
        name=name_of(attack),
        settings=plan.describe(attack) | {"restarts": len(stage.passes)},
        attacked=attacked,
        standing=standing & ~fooled,
        last_iterate=~np.any([work.wrong[:, attack.steps] for work in stage.passes], 0),
        broken_step=np.where(fooled, within.argmax(1), -1),
        **_totals(stage.passes, attacked),
    )


def _of_packed(stage, standing):
    (work,) = stage.passes
    broken = standing & work.broken
    return Outcome(
        name=work.attack.name,
        settings=plan.describe(work.attack),
        attacked=standing,
        standing=standing & ~broken,
        last_iterate=None,
        broken_step=np.where(broken, work.steps - 1, -1),
        **_totals(stage.passes, standing),
    )


def _totals(passes: Sequence[Pass], attacked: np.ndarray) -> dict[str, Any]:
    return {
        "distance": np.max([work.distance for work in passes], 0),
        "unconfirmed": int(np.any([work.unconfirmed for work in passes], 0).sum()),
        "seconds": sum(work.seconds for work in passes),
        "slot_steps": sum(work.slot_steps for work in passes),
        "image_steps": sum(work.image_steps for work in passes),
        "plain_steps": int(attacked.sum()) * sum(work.attack.num_steps for work in passes),
    }
