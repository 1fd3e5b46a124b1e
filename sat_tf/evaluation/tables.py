"""The figures of an evaluation in percent, as tables for the terminal."""

from collections.abc import Sequence

import numpy as np

from sat_tf.evaluation.outcome import CurvePoint, Outcome, steps_curve
from sat_tf.evaluation.statistics import aligned, percent, span


def attacks(clean: np.ndarray, outcomes: Sequence[Outcome]) -> str:
    """Returns a row for each attack: its accuracies and its cost.

    Args:
      clean: bool [N], clean images classified right.
      outcomes: in the order in which the attacks ran.
    """
    paper = any(outcome.last_iterate is not None for outcome in outcomes)
    head = ["", *(["last iterate"] if paper else []), "standing", "95 % interval", "attacked"]
    rows = [[*head, "seconds", *COST]]
    blank = [""] if paper else []
    rows.append(["clean", *blank, percent(clean), span(clean), "", "", *("" for _ in COST)])
    for outcome in outcomes:
        last = outcome.last_iterate
        rows.append(
            [
                outcome.name,
                *(blank if last is None else [percent(last)]),
                percent(outcome.standing),
                span(outcome.standing),
                f"{outcome.attacked.sum():,}",
                f"{outcome.seconds:.1f}",
                *cost(outcome),
            ]
        )
    return aligned(rows)


# Evaluations of the network, as `cost` writes them.
COST = ("needed", "paid", "saved")


def cost(outcome: Outcome) -> tuple[str, str, str]:
    """Writes the evaluations needed and paid for, and the share that packing saved."""
    share = outcome.saved_by_packing
    saved = "" if share is None else f"{round(100 * share)} %"
    return f"{outcome.image_steps:,}", f"{outcome.slot_steps:,}", saved


def curve(points: Sequence[CurvePoint]) -> str:
    """Returns accuracy over epsilon."""
    rows = [["epsilon", "standing", "95 % interval"]]
    for point in points:
        rows.append([f"{point.epsilon:g}", percent(point.standing), span(point.standing)])
    return aligned(rows)


def steps(outcomes: Sequence[Outcome]) -> str:
    """Returns what stands after so many evaluations of each attack."""
    rows = [["attack", "evaluations", "standing"]]
    for outcome in outcomes:
        for step, fraction in steps_curve(outcome):
            rows.append([outcome.name, str(step + 1), f"{100 * fraction:.2f}"])
    return aligned(rows)
