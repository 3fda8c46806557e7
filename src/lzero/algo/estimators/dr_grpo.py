"""Dr. GRPO: the episode's total reward minus the mean of its group."""

from collections.abc import Sequence

from lzero.algo.credit import Advantages, Estimator, Trajectory, mean, per_group


class DrGRPO(Estimator):
    """Does not divide by the standard deviation, so easy and hard tasks weigh the same. Meant for `algo.average = "constant"`."""

    name = "dr_grpo"
    source = "arXiv 2503.20783"
    formula = "R − mean"
    over = "the group's episodes"

    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        return per_group(trajectories, _centred)


def _centred(values: Sequence[float]) -> list[float]:
    center = mean(values)
    return [value - center for value in values]
