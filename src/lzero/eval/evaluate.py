"""How good a policy is: greedy exact match on held-out tasks, and sampled exact match and pass@k when asked."""

import logging
import math
from collections.abc import Sequence

from msgspec import Struct

from lzero.config import Config
from lzero.errors import TrainError
from lzero.protocols import TaskSource
from lzero.rollout.concurrency import run_all
from lzero.rollout.runner import Runner
from lzero.rollout.summary import failure_metrics, score_by_hops, summarise
from lzero.seeds import derive_seed
from lzero.store import Phase, Record
from lzero.types import Sampling

logger = logging.getLogger(__name__)

GREEDY = Sampling(temperature=0.0)


class Evaluation(Struct, frozen=True, kw_only=True):
    """`score` is the mean core score over the episodes that did not fail; `num_failed` of `num_episodes` did, and are not in it.

    Of a greedy evaluation (one episode a task) that is greedy EM, and `pass_at_k` is empty. Of a sampled one it is sampled EM,
    and `pass_at_k[k]` the probability that at least one of k episodes of a task scores 1 (unbiased; k up to the episodes of a task).
    """

    phase: Phase
    score: float
    score_by_hops: dict[int, float]
    pass_at_k: dict[int, float]
    num_tasks: int
    num_episodes: int
    num_failed: int
    records: tuple[Record, ...]
    metrics: dict[str, float]


async def evaluate(runner: Runner, source: TaskSource, config: Config, *, update: int = 0) -> Evaluation:
    """Greedy, over the first `eval.num_tasks` tasks of `source`. `update` is the policy version, part of the episodes' ids."""
    return await _evaluate(runner, source, config, phase="eval", sampling=GREEDY, num_episodes=1, update=update)


async def evaluate_sampled(runner: Runner, source: TaskSource, config: Config, *, update: int = 0) -> Evaluation:
    """`eval.sampled_episodes` episodes of each of the same tasks, at `rollout.temperature`."""
    return await _evaluate(
        runner,
        source,
        config,
        phase="sampled",
        sampling=Sampling(temperature=config.rollout.temperature),
        num_episodes=config.eval.sampled_episodes,
        update=update,
    )


async def _evaluate(
    runner: Runner,
    source: TaskSource,
    config: Config,
    *,
    phase: Phase,
    sampling: Sampling,
    num_episodes: int,
    update: int,
) -> Evaluation:
    """Raises TrainError when too many episodes fail, or all do."""
    num_tasks = min(config.eval.num_tasks, len(source))
    records = await run_all(
        runner.record(
            source.task(position),
            name=f"{phase}-{update}/{position}",
            num_episodes=num_episodes,
            sampling=sampling,
            seed=derive_seed(config.run.seed, phase, position),
        )
        for position in range(num_tasks)
    )
    failures = runner.take_failures()
    scores = [score for record in records for score in record.scores]
    num_failed = num_tasks * num_episodes - len(scores)
    if not scores:
        raise TrainError(f"none of {num_failed} episodes could be scored: {_kinds(failures)}")
    if num_failed:
        logger.warning(
            "%d of %d episodes failed twice and are left out: %s",
            num_failed,
            num_failed + len(scores),
            _kinds(failures),
        )
    return Evaluation(
        phase=phase,
        score=sum(scores) / len(scores),
        score_by_hops=score_by_hops(records),
        pass_at_k=mean_pass_at_k(records) if num_episodes > 1 else {},
        num_tasks=num_tasks,
        num_episodes=len(scores) + num_failed,
        num_failed=num_failed,
        records=tuple(records),
        metrics=summarise(records) | failure_metrics(failures),
    )


def pass_at_k(num_episodes: int, num_right: int, k: int) -> float:
    """Unbiased probability that at least one of k episodes, drawn without replacement, is right: 1 − C(n−c, k) / C(n, k)
    (Chen et al. 2021, arXiv 2107.03374, equation 1). Raises ValueError for k above n."""
    if not 1 <= k <= num_episodes:
        raise ValueError(f"pass@{k} of {num_episodes} episodes is not defined")
    return 1.0 - math.comb(num_episodes - num_right, k) / math.comb(num_episodes, k)


def mean_pass_at_k(records: Sequence[Record]) -> dict[int, float]:
    """For k = 1, 2, 4, … and the largest number of episodes that tasks have; a task that failures left with fewer is not in that mean."""
    counts = [(len(record.scores), sum(score == 1.0 for score in record.scores)) for record in records]
    largest = max(number for number, _ in counts)
    powers = {2**exponent for exponent in range(largest.bit_length()) if 2**exponent <= largest}
    means = {}
    for k in sorted(powers | {largest}):
        values = [pass_at_k(number, right, k) for number, right in counts if number >= k]
        means[k] = sum(values) / len(values)
    return means


def evaluation_metrics(evaluation: Evaluation) -> dict[str, float]:
    """For one line of metrics.jsonl: the record's summary, `score`, `score_<h>_hops`, `pass@<k>` and `num_failed`."""
    return {
        "score": evaluation.score,
        **{f"score_{hops}_hops": score for hops, score in evaluation.score_by_hops.items()},
        **{f"pass@{k}": value for k, value in evaluation.pass_at_k.items()},
        "num_tasks": float(evaluation.num_tasks),
        "num_failed": float(evaluation.num_failed),
        **evaluation.metrics,
    }


def _kinds(failures: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in failures.items() if count) or "no failure was counted"
