"""When APGD looks at its progress: the layout of all its evaluations, fixed beforehand."""

import numpy as np

# Radii over epsilon, and shares of the iterations, of the stages of a run.
ONE_STAGE = ((1.0, 1.0),)
# Multi-epsilon L1 (2103.01208, section 3.4).
WIDE_STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))


def checkpoint_windows(iterations: int, norm: str) -> np.ndarray:
    """Returns for every iteration the number since the last checkpoint if it is one, else 0."""
    windows = np.zeros(iterations, np.int32)
    if norm == "l1":
        gap, shrink, smallest = max(int(0.04 * iterations), 1), 0, 1
    else:
        gap, smallest = max(int(0.22 * iterations), 1), max(int(0.06 * iterations), 1)
        shrink = max(int(0.03 * iterations), 1)
    at = gap
    while at <= iterations:
        windows[at - 1] = gap
        gap = max(gap - shrink, smallest)
        at += gap
    return windows


def schedule(
    iterations: int, runs: int, norm: str, stages: tuple[tuple[float, float], ...]
) -> dict[str, np.ndarray]:
    """Lays out the evaluations of all runs, one row each.

    Columns: "run", its number; "factor", the radius over epsilon; "first" and "second", whether it
    is that evaluation of a stage; "fresh", whether it is at a random start; "window", the number
    of iterations since the last checkpoint where one follows, else 0; "counts", whether the point
    lies in the ball of radius epsilon.
    """
    rows = []
    for run in range(runs):
        left = iterations
        for index, (factor, share) in enumerate(stages):
            last = index == len(stages) - 1
            length = left if last else int(share * iterations)
            left -= length
            for local, window in enumerate([0, *checkpoint_windows(length, norm)]):
                fresh = local == 0 and index == 0
                rows.append((run, factor, local == 0, local == 1, fresh, window, last))
    columns = ("run", "factor", "first", "second", "fresh", "window", "counts")
    kinds = (np.int32, np.float32, bool, bool, bool, np.int32, bool)
    return {
        name: np.array(values, kind)
        for name, values, kind in zip(columns, zip(*rows, strict=True), kinds, strict=True)
    }
