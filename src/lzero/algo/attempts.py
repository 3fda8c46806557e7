"""What an estimator is given: the episodes of a batch, and what leaving the initial policy takes off their rewards."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import torch

from lzero.algo.kl import kl_estimate
from lzero.types import Attempt, Episode, Group, Sample


def attempts(groups: Sequence[Group]) -> list[Attempt]:
    """Every episode of a batch as credit is given to it, in order."""
    return [
        Attempt(group=f"{number}/{group.task.id}", rewards=reward.per_step, states=_states(episode))
        for number, group in enumerate(groups)
        for episode, reward in zip(group.episodes, group.rewards, strict=True)
    ]


def _states(episode: Episode) -> tuple[str, ...]:
    """A name of the turn that the policy answered in each step: the task, or what its last cell put out."""
    return tuple(
        blake2b(np.asarray(step.prompt.new_ids, dtype=np.int64).tobytes(), digest_size=8).hexdigest()
        for step in episode.steps
    )


def penalties(
    samples: Sequence[Sample],
    references: Sequence[Sequence[float]],
    policy: Sequence[Sequence[float]],
    *,
    kind: str,
) -> dict[tuple[str, int], float]:
    """(episode id, step) → the KL estimate of its tokens, added up: `kl_in = "reward"` takes it off the step's reward."""
    sums: dict[tuple[str, int], float] = {}
    for sample, reference, own in zip(samples, references, policy, strict=True):
        estimates = kl_estimate(
            torch.tensor(own, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64), kind
        ).tolist()
        for step, value in zip(sample.step_index, estimates, strict=True):
            if step >= 0:
                key = sample.episode_id, step
                sums[key] = sums.get(key, 0.0) + value
    return sums


def penalised(
    attempts: Sequence[Attempt], ids: Sequence[str], costs: Mapping[tuple[str, int], float], *, kl_coef: float
) -> list[Attempt]:
    """The attempts, of the episodes `ids`, each of whose steps is paid `kl_coef` times its cost less."""
    return [
        attempt.paid(
            tuple(reward - kl_coef * costs.get((name, step), 0.0) for step, reward in enumerate(attempt.rewards))
        )
        for name, attempt in zip(ids, attempts, strict=True)
    ]
