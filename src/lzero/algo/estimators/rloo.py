"""RLOO: the episode's total reward minus the mean of the group's other episodes."""

import math
from collections.abc import Sequence

from lzero.algo.credit import Advantages, Estimator, Trajectory, per_group


class RLOO(Estimator):
    """Its baseline is unbiased, because it does not depend on the episode itself."""

    name = "rloo"
    source = "arXiv 2402.14740; LOOP, arXiv 2502.01600"
    formula = "R − mean"
    over = "the group's other episodes"

    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        return per_group(trajectories, _minus_mean_of_others)


def _minus_mean_of_others(values: Sequence[float]) -> list[float]:
    if len(values) < 2:
        return [0.0] * len(values)
    total = math.fsum(values)
    return [value - (total - value) / (len(values) - 1) for value in values]
