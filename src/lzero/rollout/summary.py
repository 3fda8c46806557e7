"""Summarise a set of records in numbers, for a display, a table and metrics.jsonl."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import get_args

from lzero.store import Record
from lzero.types import Episode, Reward, Status


def summarise(records: Sequence[Record]) -> dict[str, float]:
    """Return the metrics `rollout/…`, `reward/…`, `status/…` and `groups/…`; docs/training.md explains each.

    Means are over the episodes that did not fail, those of dropped groups included, because the training data alone would bias them. Means
    of nothing are left out.
    """
    pairs = [pair for record in records for pair in record.scored]
    metrics = {"rollout/episodes": float(len(pairs))}
    if pairs:
        metrics |= {"rollout/score": _mean(reward.score for _, reward in pairs)}
        metrics |= {f"rollout/score_{hops}_hops": score for hops, score in score_by_hops(records).items()}
        metrics |= _reward_means([reward for _, reward in pairs])
        metrics |= _episode_means([episode for episode, _ in pairs])
    several = [record.scores for record in records if len(record.scores) > 1]
    if several:
        metrics |= {f"rollout/pass@{k}": value for k, value in mean_pass_at_k(records).items() if k > 1}
        metrics["groups/uniform"] = _mean(set(scores) in ({0.0}, {1.0}) for scores in several)
    for record in records:
        name = f"groups/{record.dropped or 'kept'}"
        metrics[name] = metrics.get(name, 0.0) + 1.0
    return metrics


def mean_score(records: Iterable[Record]) -> float:
    """Return the mean core score of the episodes that did not fail; nan if all failed."""
    scores = [score for record in records for score in record.scores]
    return _mean(scores) if scores else math.nan


def score_by_hops(records: Sequence[Record]) -> dict[int, float]:
    """Return the mean score for each number of hops, over tasks that state it."""
    by_hops: dict[int, list[Record]] = {}
    for record in records:
        if record.scores and record.task.hops is not None:
            by_hops.setdefault(record.task.hops, []).append(record)
    return {hops: mean_score(by_hops[hops]) for hops in sorted(by_hops)}


def pass_at_k(num_episodes: int, num_right: int, k: int) -> float:
    """Return the probability that at least one of k episodes, drawn without replacement, is right: 1 − C(n−c, k) / C(n, k).

    Unbiased (Chen et al. 2021, arXiv 2107.03374, equation 1). Raises ValueError for k above n.
    """
    if not 1 <= k <= num_episodes:
        raise ValueError(f"pass@{k} of {num_episodes} episodes is not defined")
    return 1.0 - math.comb(num_episodes - num_right, k) / math.comb(num_episodes, k)


def mean_pass_at_k(records: Sequence[Record]) -> dict[int, float]:
    """Return the mean pass@k for k = 1, 2, 4, … and the largest number of episodes of a task.

    A task with fewer than k episodes, because some failed, is left out of that mean.
    """
    counts = [(len(record.scores), sum(score == 1.0 for score in record.scores)) for record in records]
    largest = max(number for number, _ in counts)
    powers = {2**exponent for exponent in range(largest.bit_length()) if 2**exponent <= largest}
    means = {}
    for k in sorted(powers | {largest}):
        values = [pass_at_k(number, right, k) for number, right in counts if number >= k]
        means[k] = sum(values) / len(values)
    return means


def _reward_means(rewards: Sequence[Reward]) -> dict[str, float]:
    names = dict.fromkeys(name for reward in rewards for name in reward.parts)
    parts = {f"reward/{name}": _mean(sum(reward.parts.get(name, ())) for reward in rewards) for name in names}
    totals = [sum(reward.per_step) for reward in rewards]
    return {"reward/total": _mean(totals), "reward/std": statistics.pstdev(totals), **parts}


def _episode_means(episodes: Sequence[Episode]) -> dict[str, float]:
    steps = [step for episode in episodes for step in episode.steps]
    lengths = [step.completion.num_tokens for step in steps]
    metrics = {
        "rollout/steps_per_episode": len(steps) / len(episodes),
        "rollout/tokens_per_episode": sum(lengths) / len(episodes),
        "rollout/tokens": float(sum(lengths)),
        "rollout/trims_per_episode": sum(step.trimmed for step in steps) / len(episodes),
        "rollout/tool_calls_per_episode": sum(len(step.tool_calls) for step in steps) / len(episodes),
        "rollout/queued_s_per_episode": sum(call.queued_s for step in steps for call in step.tool_calls)
        / len(episodes),
    }
    if steps:
        metrics["rollout/tokens_per_step"] = _mean(lengths)
        metrics["rollout/longest_step"] = float(max(lengths))
        metrics["rollout/cut_off"] = _mean(step.completion.stop_reason == "length" for step in steps)
    for status in get_args(Status):
        if status != "failed":
            metrics[f"status/{status}"] = _mean(episode.status == status for episode in episodes)
    return metrics


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
