"""REINFORCE++ with a baseline: returns minus the mean return of the group, standardised over the batch."""

from collections.abc import Sequence

from lzero.algo.credit import Advantages, DiscountedEstimator, Trajectory, mean, returns, standardised_over_batch


class ReinforcePPBaseline(DiscountedEstimator):
    """The paper defines it for episodes of one step. For longer ones, the group's mean is over all steps of its episodes."""

    name = "reinforce++_baseline"
    source = "arXiv 2501.03262"
    formula = "B_t = R_t − mean of the group's steps; then (B_t − mean) / (std + 1e-8)"
    over = "all steps of the batch"

    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        of_steps = returns(trajectories, self.gamma)
        groups: dict[str, list[float]] = {}
        for trajectory, own in zip(trajectories, of_steps, strict=True):
            groups.setdefault(trajectory.group, []).extend(own)
        baselines = {group: mean(values) for group, values in groups.items() if values}
        return standardised_over_batch(
            [
                tuple(value - baselines[trajectory.group] for value in own)
                for trajectory, own in zip(trajectories, of_steps, strict=True)
            ]
        )
