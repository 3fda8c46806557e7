"""Evaluate a policy: greedy exact match on held-out tasks, and on request sampled exact match and pass@k."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from lzero.config import Config
from lzero.errors import StoreError, TrainError
from lzero.eval.breakdown import breakdown
from lzero.eval.finished import Finished, FinishedQuestions, without_paths
from lzero.eval.statistics import interval
from lzero.protocols import TaskSource
from lzero.rollout.concurrency import run_all
from lzero.rollout.failures import Failing, by_task, explain, listed
from lzero.rollout.runner import Runner
from lzero.rollout.summary import mean_pass_at_k, mean_score, score_by_hops, summarise
from lzero.seeds import derive_seed
from lzero.store import Phase, Record, RunDirectory, read_records
from lzero.types import Sampling

logger = logging.getLogger(__name__)

PHASES: Mapping[Phase, str] = {"eval": "greedy", "sampled": "sampled"}
"""Phase of an evaluation → its name in displays and reports."""
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


OnQuestion = Callable[[Phase, Record], None]
"""Observer of finished questions, those of an interrupted evaluation included."""


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Evaluates the policy of `runner` on the first `eval.num_tasks` tasks of `source`; the seeds are the same at any time.

    Calls `on_question` when a question is finished. All methods raise TrainError if too many episodes, or all, fail.
    """

    runner: Runner
    source: TaskSource
    config: Config
    on_question: OnQuestion = lambda phase, record: None
    in_training: bool = False
    """Whether it evaluates between updates: every token must be of the version that it is recorded for, and nobody runs failed questions
    again later."""

    @property
    def num_tasks(self) -> int:
        return min(self.config.eval.num_tasks, len(self.source))

    async def greedy(self, *, update: int = 0) -> Evaluation:
        """Run one episode per task at temperature 0. `update`: the policy version, part of the episodes' ids."""
        return await self._evaluate("eval", update, None)

    async def sampled(self, *, update: int = 0) -> Evaluation:
        """Run `eval.sampled_episodes` episodes per task, at `rollout.temperature` and `eval.top_p`."""
        return await self._evaluate("sampled", update, None)

    async def record(self, run: RunDirectory, *, update: int = 0) -> list[Evaluation]:
        """Make the greedy evaluation and, if configured, the sampled one; write each to `run` when it ends.

        Resumes an evaluation that was interrupted in `run`: questions that it has finished there do not run again, unless they failed.
        Raises StoreError, and `in_training` TrainError if another policy version than `update` has drawn a token.
        """
        finished = [FinishedQuestions(run.path, phase, update) for phase in phases_of(self.config)]
        evaluations = []
        for phase, questions in zip(phases_of(self.config), finished, strict=True):
            if (there := recorded(run, phase, update=update, num_tasks=self.num_tasks)) is not None:
                evaluations.append(there)
                continue
            run.forget_evaluation(phase, update)
            evaluation = await self._evaluate(phase, update, questions)
            if self.in_training:
                check_version(evaluation.records, update)
            await asyncio.to_thread(run.write_records, evaluation.records, phase=phase, update=update)
            line = {**evaluation.metrics, **evaluation.failing.line()}
            run.append_metrics(line, phase=phase, update=update)
            evaluations.append(evaluation)
        if self.in_training or not any(evaluation.num_failed for evaluation in evaluations):
            for questions in finished:
                questions.remove()
        return evaluations

    async def _evaluate(self, phase: Phase, update: int, finished: FinishedQuestions | None) -> Evaluation:
        done = _Done(self, phase, finished)

        async def record(position: int) -> Record:
            if (kept := done.kept.get(position)) is not None:
                return kept
            task = self.source.task(position)
            record = await self.runner.record(
                task,
                name=f"{phase}-{update}/{position}",
                num_episodes=self._num_episodes(phase),
                sampling=self._sampling(phase),
                seed=derive_seed(self.config.run.seed, phase, position),
            )
            await done.add(position, record)
            return record

        records = await run_all(record(position) for position in range(self.num_tasks))
        failing = by_task(done.failures)
        metrics = failing.metrics() | done.judge | {"time/eval_s": done.seconds}
        # In a thread, because the scores of long answers take a while: engines, sessions and signals need this loop.
        judged = await asyncio.to_thread(_judge, phase, records, metrics)
        evaluation = msgspec.structs.replace(judged, failing=failing)
        if evaluation.num_failed:
            logger.warning(
                "%d of %d episodes failed twice and are not scored: %s; most at %s",
                evaluation.num_failed,
                evaluation.num_episodes,
                listed(failing.kinds),
                "; ".join(map(str, failing.worst)),
            )
        return evaluation

    def _num_episodes(self, phase: Phase) -> int:
        return self.config.eval.sampled_episodes if phase == "sampled" else 1

    def _sampling(self, phase: Phase) -> Sampling:
        config = self.config
        return GREEDY if phase == "eval" else Sampling(temperature=config.rollout.temperature, top_p=config.eval.top_p)


class _Done:
    """What is done of an evaluation: records of questions that were finished before (`kept`), failures, counts of the judge, time."""

    def __init__(self, evaluator: Evaluator, phase: Phase, finished: FinishedQuestions | None) -> None:
        self._evaluator, self._phase, self._finished = evaluator, phase, finished
        found = [] if finished is None else finished.open()
        self.kept: dict[int, Record] = {}
        self.failures = [question.failures for question in found]
        self.judge: dict[str, float] = {}
        self._writing = asyncio.Lock()
        for question in found:
            self._count(question.judge)
            self._keep(question)
        for record in self.kept.values():
            evaluator.on_question(phase, record)
        self._start = time.monotonic() - (found[-1].seconds if found else 0.0)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    async def add(self, position: int, record: Record) -> None:
        """Count a question, after it was written."""
        runner = self._evaluator.runner
        failures, judge = runner.take_failures_of(record.task), runner.scorer.take_metrics()
        if self._finished is not None:
            stored = msgspec.structs.replace(record, task=without_paths(record.task))
            question = Finished(position=position, record=stored, failures=failures, judge=judge, seconds=self.seconds)
            async with self._writing:
                await asyncio.to_thread(self._finished.add, question)
        self.failures.append(failures)
        self._count(judge)
        self._evaluator.on_question(self._phase, record)

    def _keep(self, question: Finished) -> None:
        """Keep the record of a question that needs not run again: it did not fail, and the evaluation has the same question."""
        position, source = question.position, self._evaluator.source
        self.kept.pop(position, None)
        if question.is_failed or not 0 <= position < self._evaluator.num_tasks:
            return
        task = source.task(position)
        if question.record.task == without_paths(task):
            self.kept[position] = msgspec.structs.replace(question.record, task=task)

    def _count(self, judge: Mapping[str, float]) -> None:
        for name, count in judge.items():
            self.judge[name] = self.judge.get(name, 0.0) + count


def phases_of(config: Config) -> tuple[Phase, ...]:
    """Return the evaluations to make: greedy, and sampled if configured."""
    return ("eval", "sampled") if config.eval.sampled_episodes else ("eval",)


def recorded(run: RunDirectory, phase: Phase, *, update: int, num_tasks: int) -> Evaluation | None:
    """Return an evaluation that is complete in `run`; None if a question of it is missing or failed.

    Logs a warning if its tables are damaged. Raises StoreError.
    """
    lines = [line for line in run.read_metrics() if (line["phase"], line["update"]) == (phase, update)]
    if not lines or FinishedQuestions(run.path, phase, update).exists():
        return None
    try:
        records = list(read_records(run.path, phase=phase, update=update))
    except StoreError as error:
        logger.warning("%s; the questions run again", error)
        return None
    if len(records) != num_tasks:
        return None
    metrics = {name: value for name, value in lines[-1].items() if isinstance(value, float)}
    return msgspec.structs.replace(_judge(phase, records, {}), metrics=metrics)


def all_recorded(run: RunDirectory, config: Config, source: TaskSource) -> list[Evaluation] | None:
    """Return the evaluations that `Evaluator.record` would make; None if it would run a question. Raises StoreError."""
    num_tasks = min(config.eval.num_tasks, len(source))
    found = [recorded(run, phase, update=0, num_tasks=num_tasks) for phase in phases_of(config)]
    return None if None in found else [each for each in found if each is not None]


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
            **breakdown(records).metrics(),
            **metrics,
        },
    )
