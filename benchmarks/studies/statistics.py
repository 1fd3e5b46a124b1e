"""What several seeds and many images say of a gain: paired by both, as they are shared.

A seed gives both networks the same batches, and both are attacked on the same images, so luck that
they share falls out of the difference.
"""

from typing import NamedTuple

import numpy as np

LEVEL = 0.95
REPLICATES = 10_000


class Gain(NamedTuple):
    """A mean over seeds, in the unit of what was given.

    Attributes:
      deviation: sample standard deviation over seeds; None for one seed.
      interval: 95 % interval of the mean over all seeds there could be; None for one seed.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


def over_seeds(gains: np.ndarray) -> Gain:
    """Computes the mean m, the deviation s and the interval m +- t s / sqrt(S) of S seeds.

    t is the 0.975 quantile of Student's distribution with S - 1 degrees of freedom, which supposes
    that gains are normal. One seed has no deviation, so it has no interval.

    Args:
      gains: [S], S >= 1, a difference for each seed.
    """
    gains = np.asarray(gains, np.float64)
    mean = float(gains.mean())
    if len(gains) < 2:
        return Gain(mean, None, None)
    from scipy import stats  # half a second to import

    deviation = float(gains.std(ddof=1))
    half = stats.t.ppf((1 + LEVEL) / 2, len(gains) - 1) * deviation / np.sqrt(len(gains))
    return Gain(mean, deviation, (float(mean - half), float(mean + half)))


class Test(NamedTuple):
    """What the bootstrap found of a mean difference.

    Attributes:
      interval: 95 %, from the 2.5th to the 97.5th percentile.
      p_value: two-sided, of no difference; at least 2 / (REPLICATES + 1).
    """

    interval: tuple[float, float]
    p_value: float


def over_seeds_and_images(differences: np.ndarray) -> Test:
    """Bootstraps the mean of paired differences over seeds and images at once.

    Each replicate draws S seeds and, apart from them, N images with replacement and takes the mean
    over all pairs of them: m* = sum_si w_s v_i d_si / (S N). Images are drawn by kind: those with
    the same differences for all seeds are as good as one another, so the numbers drawn of each kind
    are multinomial. With one seed only images are drawn, and nothing is said of other seeds; with
    few seeds the interval is too narrow by up to sqrt((S - 1) / S), as seeds drawn with replacement
    vary less than new ones.

    Args:
      differences: [S, N] of -1, 0 and 1: what one network gets right less what the other does.

    Source: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007).
    """
    num_seeds, num_images = differences.shape
    kinds, counts = np.unique(differences, axis=1, return_counts=True)
    # The old generator: its stream is the same in every version of NumPy, and so are the tables.
    random = np.random.RandomState(0)
    images = random.multinomial(num_images, counts / num_images, REPLICATES)
    seeds = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), REPLICATES)
    means = ((images @ kinds.T) * seeds).sum(1) / (num_seeds * num_images)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    fewer = min((means <= 0).sum(), (means >= 0).sum())
    p_value = min(1.0, 2 * (1 + fewer) / (REPLICATES + 1))
    return Test((float(low), float(high)), float(p_value))
