"""Build the input of an estimator: the trajectories of a batch, with the KL penalty subtracted from their rewards if configured."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import torch

from lzero.algo.credit import TokenValues, Trajectory
from lzero.algo.kl import kl_estimate
from lzero.types import Episode, Group, Sample


def trajectories(
    groups: Sequence[Group], values: Mapping[tuple[str, int], Sequence[float]] | None = None
) -> list[Trajectory]:
    """Return a trajectory for every episode of the groups, in their order. `values`: those of a critic, as `values_by_step` has them."""
    return [
        Trajectory(
            group=f"{number}/{group.task.id}",
            rewards=reward.per_step,
            states=_states(episode),
            values=None if values is None else _values(episode, values),
        )
        for number, group in enumerate(groups)
        for episode, reward in zip(group.episodes, group.rewards, strict=True)
    ]


def _states(episode: Episode) -> tuple[str, ...]:
    """Return for each step a hash of the turn that the policy answered: the task, or the output of its last cell."""
    return tuple(
        blake2b(np.asarray(step.prompt.new_ids, dtype=np.int64).tobytes(), digest_size=8).hexdigest()
        for step in episode.steps
    )


def _values(episode: Episode, values: Mapping[tuple[str, int], Sequence[float]]) -> TokenValues:
    return tuple(tuple(values.get((episode.id, step), ())) for step in range(len(episode.steps)))


def values_by_step(
    samples: Sequence[Sample], values: Sequence[Sequence[float]]
) -> dict[tuple[str, int], Sequence[float]]:
    """Return (episode id, step) → a value for each of its tokens, from a value for each token of each sample."""
    found: dict[tuple[str, int], list[float]] = {}
    for sample, own in zip(samples, values, strict=True):
        for step, value in zip(sample.step_index, own, strict=True):
            if step >= 0:
                found.setdefault((sample.episode_id, step), []).append(value)
    return dict(found)


def penalties(
    samples: Sequence[Sample],
    references: Sequence[Sequence[float]],
    policy: Sequence[Sequence[float]],
    *,
    kind: str,
) -> dict[tuple[str, int], float]:
    """Return (episode id, step) → the sum of its tokens' KL estimates, in nats, which `kl_in = "reward"` subtracts from its reward."""
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
    trajectories: Sequence[Trajectory], ids: Sequence[str], costs: Mapping[tuple[str, int], float], *, kl_coef: float
) -> list[Trajectory]:
    """Return the trajectories with `kl_coef` times its cost subtracted from each step's reward. `ids`: episode id of each trajectory."""
    return [
        trajectory.paid(
            tuple(reward - kl_coef * costs.get((name, step), 0.0) for step, reward in enumerate(trajectory.rewards))
        )
        for name, trajectory in zip(ids, trajectories, strict=True)
    ]
