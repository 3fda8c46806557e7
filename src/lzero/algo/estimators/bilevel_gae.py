"""Bi-level GAE, L0's estimator with a critic: GAE over steps, then GAE over the tokens of each step.

    step  0            1
    V     .2 .4        .5 .6         before each token
    r        0            1          of each step
    R        .93          1.         return of each step: its GAE over (.4, .6), the values before the last tokens, + that value
    A     .72 .53      .49 .40       GAE over the tokens of each step by itself, with R as the reward of its last token

(γ = λ = .95 over steps, .99 over tokens; shown before they are standardised.)
"""

from collections.abc import Sequence
from itertools import chain, islice

from lzero.algo.credit import TokenValues, Trajectory, mean
from lzero.algo.gae import Credit, ValueEstimator, gae, sums
from lzero.config.base import Fraction


class BilevelGAE(ValueEstimator):
    """V_t is the critic's value before the last token of step t, which the discount over tokens has not made smaller."""

    name = "bilevel_gae"
    source = "L0, arXiv 2506.23667"
    formula = (
        "R_t = V_t + GAE over steps; then GAE over the tokens of the step, with R_t as the reward of its last token and no value after it; "
        "then (A − mean) / (std + 1e-8)"
    )
    over = "all action tokens of the batch"

    token_gamma: Fraction = 0.99
    """Discount per token within a step. Below 1, it favours short replies."""
    token_lambda: Fraction = 0.99
    """Decay per token of the differences within a step."""

    def token_credit(self, trajectories: Sequence[Trajectory]) -> list[Credit]:
        raw = [self._of_tokens(trajectory) for trajectory in trajectories]
        adjusted = self._adjusted([tuple(chain.from_iterable(own)) for own in raw])
        return [
            Credit(
                steps=tuple(mean(own) if own else 0.0 for own in tokens),
                tokens=tokens,
                targets=tuple(map(sums, before, trajectory.values or ())),
            )
            for trajectory, before, numbers in zip(trajectories, raw, adjusted, strict=True)
            for tokens in [_cut(numbers, before)]
        ]

    def _of_tokens(self, trajectory: Trajectory) -> TokenValues:
        """Return the advantage of each token of each step."""
        values = trajectory.values or ()
        last = tuple(own[-1] if own else 0.0 for own in values)
        returns = sums(gae(trajectory.rewards, last, gamma=self.gamma, gae_lambda=self.gae_lambda), last)
        return tuple(
            gae(
                (*(0.0,) * (len(own) - 1), total)[: len(own)], own, gamma=self.token_gamma, gae_lambda=self.token_lambda
            )
            for own, total in zip(values, returns, strict=True)
        )


def _cut(numbers: Sequence[float], like: TokenValues) -> TokenValues:
    """Return the numbers in parts of the lengths of `like`."""
    rest = iter(numbers)
    return tuple(tuple(islice(rest, len(own))) for own in like)
