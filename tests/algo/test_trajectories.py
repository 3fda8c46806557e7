"""The input that `Trainer` passes to an estimator."""

import pytest
from builders import make_sample

from lzero.algo.trajectories import penalties, trajectories


def test_the_penalty_of_a_step_is_that_of_its_tokens_together() -> None:
    sample = make_sample((-1, 0, 0, -1, 1), name="e")
    references, policy = [(0.0, -1.0, -2.0, 0.0, -3.0)], [(0.0, -0.5, -1.0, 0.0, -3.5)]
    costs = penalties([sample], references, policy, kind="k1")
    assert costs == {("e", 0): pytest.approx(0.5 + 1.0), ("e", 1): pytest.approx(-0.5)}


def test_nothing_is_credited_for_nothing() -> None:
    assert trajectories([]) == []
