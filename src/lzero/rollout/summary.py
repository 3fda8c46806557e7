"""What a set of records says, in numbers for a display, a table and metrics.jsonl."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from lzero.store import Record
from lzero.types import Episode, Reward, Status


def summarise(records: Sequence[Record]) -> dict[str, float]:
    """Means over the episodes that did not fail, dropped groups included (what is trained on would flatter or belittle the policy).

        rollout/score               mean core score, 0 to 1; rollout/score_2_hops and so on where tasks tell their hops
        reward/total, reward/<part> mean sum over an episode's steps
        rollout/episodes            how many
        rollout/steps_per_episode, rollout/tokens_per_step, rollout/tokens (sampled, in all)
        status/<status>             share of the episodes
        groups/<reason>             groups dropped, by reason; groups/kept

    Means of nothing are left out.
    """
    pairs = [pair for record in records for pair in record.scored]
    metrics = {"rollout/episodes": float(len(pairs))}
    if pairs:
        metrics |= {"rollout/score": _mean(reward.score for _, reward in pairs)}
        metrics |= {f"rollout/score_{hops}_hops": score for hops, score in score_by_hops(records).items()}
        metrics |= _reward_means([reward for _, reward in pairs])
        metrics |= _episode_means([episode for episode, _ in pairs])
    for record in records:
        name = f"groups/{record.dropped or 'kept'}"
        metrics[name] = metrics.get(name, 0.0) + 1.0
    return metrics


def mean_score(records: Iterable[Record]) -> float:
    """Mean core score of the episodes that did not fail; nan if all did."""
    scores = [score for record in records for score in record.scores]
    return _mean(scores) if scores else math.nan


def score_by_hops(records: Sequence[Record]) -> dict[int, float]:
    """The same for the tasks of each hop count, where tasks tell it."""
    scored = [record for record in records if record.scores]
    counts = sorted({record.task.hops for record in scored if record.task.hops is not None})
    return {hops: mean_score(record for record in scored if record.task.hops == hops) for hops in counts}


def failure_metrics(counts: Mapping[str, int]) -> dict[str, float]:
    """`{"failures/repl": 2.0, …}`."""
    return {f"failures/{kind}": float(count) for kind, count in counts.items()}


def _reward_means(rewards: Sequence[Reward]) -> dict[str, float]:
    names = dict.fromkeys(name for reward in rewards for name in reward.parts)
    parts = {f"reward/{name}": _mean(sum(reward.parts.get(name, ())) for reward in rewards) for name in names}
    return {"reward/total": _mean(sum(reward.per_step) for reward in rewards), **parts}


def _episode_means(episodes: Sequence[Episode]) -> dict[str, float]:
    lengths = [len(step.completion.token_ids) for episode in episodes for step in episode.steps]
    metrics = {
        "rollout/steps_per_episode": len(lengths) / len(episodes),
        "rollout/tokens": float(sum(lengths)),
    }
    if lengths:
        metrics["rollout/tokens_per_step"] = _mean(lengths)
    for status in get_args(Status):
        if status != "failed":
            metrics[f"status/{status}"] = _mean(episode.status == status for episode in episodes)
    return metrics


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
