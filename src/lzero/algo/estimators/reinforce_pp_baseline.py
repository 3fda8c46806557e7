"""REINFORCE++ with a baseline: returns less those of the group, normalised over the batch."""

from collections.abc import Sequence

from lzero.algo.credit import Advantages, DiscountedEstimator, mean, normalised, returns
from lzero.types import Attempt


class ReinforcePPBaseline(DiscountedEstimator):
    """The paper has episodes of one step, where this is the same. As in the batch, the mean is taken over all steps that have an
    advantage."""

    name = "reinforce++_baseline"
    source = "arXiv 2501.03262"
    formula = "B_t = R_t − mean of the group's steps; then (B_t − mean) / (std + 1e-8)"
    over = "all steps of the batch"

    def advantages(self, attempts: Sequence[Attempt]) -> Advantages:
        of_steps = returns(attempts, self.gamma)
        groups: dict[str, list[float]] = {}
        for attempt, own in zip(attempts, of_steps, strict=True):
            groups.setdefault(attempt.group, []).extend(own)
        baselines = {group: mean(values) for group, values in groups.items() if values}
        return normalised(
            [
                tuple(value - baselines[attempt.group] for value in own)
                for attempt, own in zip(attempts, of_steps, strict=True)
            ]
        )
