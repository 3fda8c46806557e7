"""Step-level GAE: a step is one action, and the critic judges the state before it."""

from collections.abc import Sequence

from lzero.algo.credit import Trajectory
from lzero.algo.gae import Credit, ValueEstimator, gae, sums


class GAE(ValueEstimator):
    """V_t is the critic's value before the first token of step t. All tokens of a step have its advantage and its target."""

    name = "gae"
    source = "arXiv 1506.02438"
    formula = "Σ_{t' ≥ t} (γ λ)^(t' − t) δ_t', with δ_t = r_t + γ V_{t+1} − V_t; then (A − mean) / (std + 1e-8)"
    over = "all steps of the batch"

    def token_credit(self, trajectories: Sequence[Trajectory]) -> list[Credit]:
        values = [tuple(own[0] if own else 0.0 for own in trajectory.values or ()) for trajectory in trajectories]
        raw = [
            gae(trajectory.rewards, own, gamma=self.gamma, gae_lambda=self.gae_lambda)
            for trajectory, own in zip(trajectories, values, strict=True)
        ]
        return [
            Credit(
                steps=steps, tokens=_to_tokens(steps, trajectory), targets=_to_tokens(sums(advantages, own), trajectory)
            )
            for trajectory, steps, advantages, own in zip(trajectories, self._adjusted(raw), raw, values, strict=True)
        ]


def _to_tokens(numbers: Sequence[float], trajectory: Trajectory) -> tuple[tuple[float, ...], ...]:
    return tuple((number,) * len(own) for number, own in zip(numbers, trajectory.values or (), strict=True))
