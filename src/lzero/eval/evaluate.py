"""Evaluate a policy: greedy exact match on held-out tasks, and on request sampled exact match and pass@k."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from lzero.config import Config
from lzero.errors import TrainError
from lzero.eval.statistics import interval
from lzero.protocols import TaskSource
from lzero.rollout.concurrency import run_all
from lzero.rollout.failures import Failing, explain, listed
from lzero.rollout.runner import Runner
from lzero.rollout.summary import mean_pass_at_k, mean_score, score_by_hops, summarise
from lzero.seeds import derive_seed
from lzero.store import Phase, Record, RunDirectory
from lzero.types import Sampling

logger = logging.getLogger(__name__)

GREEDY = Sampling(temperature=0.0)


class Evaluation(Struct, frozen=True, kw_only=True):
    """Result of an evaluation. `score` is the mean core score over the episodes that did not fail, `num_failed` of `num_episodes` failed.

    A greedy evaluation (one episode per task) gives greedy EM, with an empty `pass_at_k`. A sampled one gives sampled EM, and
    `pass_at_k[k]` is the probability that at least one of k episodes of a task scores 1 (unbiased; k up to the episodes of a task).
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
    """A line of metrics.jsonl: `score`, its 95 % interval over tasks (`score_low`, `score_high`), `score_2_hops`, `pass@4`, `num_failed` …,
    and the summary of the records."""
    failing: Failing = Failing()
    """Failed attempts by task."""


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Evaluates the policy of `runner` on the first `eval.num_tasks` tasks of `source`; the seeds are the same at any time.

    Calls `on_task` when a task is done. All methods raise TrainError if too many episodes, or all, fail.
    """

    runner: Runner
    source: TaskSource
    config: Config
    on_task: Callable[[], None] = lambda: None
    checks_version: bool = False

    @property
    def num_tasks(self) -> int:
        return min(self.config.eval.num_tasks, len(self.source))

    async def greedy(self, *, update: int = 0) -> Evaluation:
        """Run one episode per task at temperature 0. `update`: the policy version, part of the episodes' ids."""
        return await self._evaluate("eval", GREEDY, num_episodes=1, update=update)

    async def sampled(self, *, update: int = 0) -> Evaluation:
        """Run `eval.sampled_episodes` episodes per task, at `rollout.temperature` and `eval.top_p`."""
        sampling = Sampling(temperature=self.config.rollout.temperature, top_p=self.config.eval.top_p)
        num_episodes = self.config.eval.sampled_episodes
        return await self._evaluate("sampled", sampling, num_episodes=num_episodes, update=update)

    async def record(self, run: RunDirectory, *, update: int = 0) -> list[Evaluation]:
        """Make the greedy evaluation and, if configured, the sampled one; write each to `run` when it ends.

        Raises StoreError, and with `checks_version` TrainError if another policy version than `update` has drawn a token.
        """
        kinds = [self.greedy, self.sampled] if self.config.eval.sampled_episodes else [self.greedy]
        evaluations = []
        for kind in kinds:
            evaluation = await kind(update=update)
            if self.checks_version:
                check_version(evaluation.records, update)
            await asyncio.to_thread(run.write_records, evaluation.records, phase=evaluation.phase, update=update)
            line = {**evaluation.metrics, **evaluation.failing.line()}
            run.append_metrics(line, phase=evaluation.phase, update=update)
            evaluations.append(evaluation)
        return evaluations

    async def _evaluate(self, phase: Phase, sampling: Sampling, *, num_episodes: int, update: int) -> Evaluation:
        start = time.monotonic()

        async def record(position: int) -> Record:
            record = await self.runner.record(
                self.source.task(position),
                name=f"{phase}-{update}/{position}",
                num_episodes=num_episodes,
                sampling=sampling,
                seed=derive_seed(self.config.run.seed, phase, position),
            )
            self.on_task()
            return record

        records = await run_all(record(position) for position in range(self.num_tasks))
        failing = self.runner.take_failures()
        counted = failing.metrics() | self.runner.scorer.take_metrics()
        metrics = counted | {"time/eval_s": time.monotonic() - start}
        evaluation = msgspec.structs.replace(_judge(phase, records, metrics), failing=failing)
        if evaluation.num_failed:
            logger.warning(
                "%d of %d episodes failed twice and are not scored: %s; most at %s",
                evaluation.num_failed,
                evaluation.num_episodes,
                listed(failing.kinds),
                "; ".join(map(str, failing.worst)),
            )
        return evaluation


def check_version(records: Sequence[Record], version: int) -> None:
    """Raise TrainError if another policy version than this has drawn a token of these records."""
    others = {each for record in records for each in record.group().versions} - {version}
    if others:
        raise TrainError(
            f"the evaluation of policy version {version} has tokens of {', '.join(map(str, sorted(others)))}: check whether another "
            "program changes the weights of the engine"
        )


def _judge(phase: Phase, records: Sequence[Record], metrics: dict[str, float]) -> Evaluation:
    scores = [score for record in records for score in record.scores]
    num_episodes = sum(len(record.episodes) for record in records)
    if not scores:
        failures = [episode.failure for record in records for episode in record.episodes if episode.failure]
        raise TrainError(f"none of {num_episodes} episodes could be scored: {explain(failures)}")
    score = mean_score(records)
    low, high = interval([mean_score([record]) for record in records if record.scores])
    by_hops = score_by_hops(records)
    chances = mean_pass_at_k(records) if phase == "sampled" else {}
    num_failed = num_episodes - len(scores)
    return Evaluation(
        phase=phase,
        score=score,
        score_by_hops=by_hops,
        pass_at_k=chances,
        num_tasks=len(records),
        num_episodes=num_episodes,
        num_failed=num_failed,
        records=tuple(records),
        metrics={
            "score": score,
            "score_low": low,
            "score_high": high,
            **{f"score_{hops}_hops": value for hops, value in by_hops.items()},
            **{f"pass@{k}": value for k, value in chances.items()},
            "num_tasks": float(len(records)),
            "num_failed": float(num_failed),
            **summarise(records),
            **metrics,
        },
    )
