"""The figures of an evaluation in percent, as tables for the terminal."""

from collections.abc import Callable, Sequence

import numpy as np

from sat_tf.evaluation.outcome import CurvePoint, Outcome, steps_curve
from sat_tf.evaluation.report.statistics import aligned, percent, span


def attacks(clean: np.ndarray, outcomes: Sequence[Outcome]) -> str:
    """Returns a row for each attack: its accuracies and its cost, within 80 columns.

    Args:
      clean: bool [N], clean images classified right.
      outcomes: in the order in which the attacks ran.
    """
    paper = any(outcome.last_iterate is not None for outcome in outcomes)
    head = ["", *(["last\niterate"] if paper else []), "standing", "95 %\ninterval", "attacked"]
    rows = [[*head, "seconds", *COST]]
    blank = [""] if paper else []
    rows.append(["clean", *blank, percent(clean), _span(clean), "", "", *("" for _ in COST)])
    for outcome in outcomes:
        last = outcome.last_iterate
        rows.append(
            [
                outcome.name,
                *(blank if last is None else [percent(last)]),
                percent(outcome.standing),
                _span(outcome.standing),
                f"{outcome.attacked.sum():,}",
                f"{outcome.seconds:.1f}",
                *cost(outcome, _short),
            ]
        )
    return aligned(rows)


# Evaluations of the network, as `cost` writes them.
COST = ("needed", "paid", "saved")


def cost(outcome: Outcome, write: Callable[[int], str] = "{:,}".format) -> tuple[str, str, str]:
    """Writes the evaluations needed and paid for, and the share that packing saved."""
    share = outcome.saved_by_packing
    saved = "" if share is None else f"{round(100 * share)} %"
    return write(outcome.image_steps), write(outcome.slot_steps), saved


def _short(number):
    """Writes three digits of a large number: 72.2k, 5.07M."""
    if number < 10_000:
        return f"{number:,}"
    power = min((len(f"{float(f'{number:.3g}'):.0f}") - 1) // 3, 4)
    return f"{number / 1000**power:#.3g}".rstrip(".") + "_kMGT"[power]


def _span(correct):
    return span(correct).replace(" to ", "-")


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
