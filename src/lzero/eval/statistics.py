"""Uncertainty of scores: bootstrap intervals, and a test of paired differences. Pure functions."""

import math
import random
import statistics
from collections.abc import Sequence

RESAMPLES = 2_000
"""Resamples of the bootstrap."""
MOST_RESAMPLED = 1_000
"""Most values that are resampled. For more, the interval is that of the normal distribution, to which the bootstrap's converges."""
MOST_EXACT = 10_000
"""Most differences of an exact sign test, whose time grows with their square."""
LEVEL = 0.95


def mean(values: Sequence[float]) -> float:
    """Return the mean; nan for no values."""
    return statistics.fmean(values) if values else math.nan


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Pearson's correlation; nan if one of the two does not vary, or for fewer than two pairs."""
    try:
        return statistics.correlation([one for one, _ in pairs], [other for _, other in pairs])
    except statistics.StatisticsError:
        return math.nan


def interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `values`, one for each task, by the percentile bootstrap (Efron 1979); nan for no values."""
    if not values:
        return math.nan, math.nan
    if min(values) == max(values):
        return values[0], values[0]
    if len(values) > MOST_RESAMPLED:
        half = statistics.NormalDist().inv_cdf((1.0 + LEVEL) / 2.0) * statistics.stdev(values) / math.sqrt(len(values))
        return max(min(values), mean(values) - half), min(max(values), mean(values) + half)
    dice, number = random.Random(seed), len(values)
    means = sorted(math.fsum(dice.choices(values, k=number)) / number for _ in range(RESAMPLES))
    tail = round((1.0 - LEVEL) / 2.0 * RESAMPLES)
    return means[tail], means[-tail - 1]


def sign_test(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of "a task is as likely to gain as to lose", by the exact sign test.

    It ignores tasks without a difference. For scores of 0 and 1 it is McNemar's exact test. For more than MOST_EXACT differences
    it uses the normal distribution, with a correction for continuity.
    """
    gains = sum(each > 0 for each in differences)
    losses = sum(each < 0 for each in differences)
    fewer, number = min(gains, losses), gains + losses
    if number > MOST_EXACT:
        return min(1.0, math.erfc((number - 2 * fewer - 1) / math.sqrt(2 * number)))
    tail = ways = 1  # of `number` tasks, none gains
    for count in range(fewer):
        ways = ways * (number - count) // (count + 1)
        tail += ways
    return float(min(1.0, 2 * tail / 2**number))
