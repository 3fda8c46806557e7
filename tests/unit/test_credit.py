"""What `Trainer` hands to an estimator."""

import pytest

from lzero.train.credit import attempts, penalties
from lzero.types import Sample


def test_the_penalty_of_a_step_is_that_of_its_tokens_together() -> None:
    sample = Sample(
        episode_id="e",
        token_ids=(1, 2, 3, 4, 5),
        mask=(0, 1, 1, 0, 1),
        step_index=(-1, 0, 0, -1, 1),
        logprobs=(0.0,) * 5,
        versions=(0,) * 5,
        temperature=1.0,
    )
    references, policy = [(0.0, -1.0, -2.0, 0.0, -3.0)], [(0.0, -0.5, -1.0, 0.0, -3.5)]
    costs = penalties([sample], references, policy, kind="k1")
    assert costs == {("e", 0): pytest.approx(0.5 + 1.0), ("e", 1): pytest.approx(-0.5)}


def test_nothing_is_credited_for_nothing() -> None:
    assert attempts([]) == []
