"""Read the evaluations of runs for a report."""

import string
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from lzero.config import Config
from lzero.errors import ConfigError
from lzero.eval.breakdown import Breakdown, Part, breakdown
from lzero.eval.compare import Comparison, SideBySide, compare, read_evaluation, shared_tasks, side_by_side
from lzero.eval.evaluate import PHASES
from lzero.eval.statistics import mean
from lzero.rollout.failures import kinds_in
from lzero.rollout.summary import mean_pass_at_k, mean_score
from lzero.store import Phase, Record, RunDirectory, list_episodes, read_records
from lzero.store.run_directory import QUESTIONS
from lzero.types import Episode, Json, Reward, Task

EXAMPLES = {"wrong": 2, "right": 1, "failed": 1}
"""Episodes of each kind that a report shows of an evaluation."""


class Example(Struct, frozen=True, kw_only=True):
    """An episode that the report shows, "right", "wrong" or "failed"."""

    kind: str
    task: Task
    episode: Episode
    reward: Reward | None


class Shown(Struct, frozen=True, kw_only=True):
    """One evaluation in a report: greedy or sampled, of one policy version of a run."""

    label: str
    """A letter, which stands for the evaluation in tables."""
    run: str
    phase: Phase
    update: int
    config: Config
    score: float
    per_task: Part
    """Mean core score of each task that has one."""
    pass_at_k: dict[int, float]
    parts: Breakdown
    num_tasks: int
    num_episodes: int
    num_failed: int
    attempts_failed: dict[str, int]
    """Failed attempts by kind, those with a successful retry included."""
    examples: tuple[Example, ...]

    @property
    def how(self) -> str:
        return PHASES[self.phase]

    @property
    def model(self) -> str:
        """The model, or the policy that plays it."""
        engine = self.config.engine
        return str(getattr(engine, "policy", "") or getattr(engine, "model", "") or self.config.model.path)

    @property
    def sources(self) -> dict[str, Part]:
        """Scores by the source of the tasks, also if all have one."""
        found = self.parts.by.get("source", {})
        names = {example.task.source for example in self.examples}
        return found or ({names.pop(): self.per_task} if len(names) == 1 and "" not in names else {})


class Report(Struct, frozen=True, kw_only=True):
    """Everything that a report shows."""

    evaluations: tuple[Shown, ...]
    comparisons: tuple[Comparison, ...]
    """Of the greedy evaluations with the first one."""
    compared: tuple[str, ...]
    """Labels of the greedy evaluations."""
    flips: tuple[SideBySide, ...]


def read_report(runs: Sequence[Path], *, updates: Sequence[int | None]) -> Report:
    """Read the evaluations of `runs`, each of its policy version in `updates`, or its last. Raises StoreError, ConfigError."""
    shown: list[Shown] = []
    greedy = []
    for run, update in zip(runs, updates, strict=True):
        version = _version(run, update)
        config = RunDirectory.open(run).config
        for phase in PHASES:
            records = list(read_records(run, phase=phase, update=version))
            if records:
                label = _label(len(shown))
                shown.append(_shown(label, run, phase, version, config, records))
                greedy += [(label, read_evaluation(run, phase=phase, update=version))] if phase == "eval" else []
    evaluated = [each for _, each in greedy]
    paired = [other for other in evaluated[1:] if shared_tasks(evaluated[0], other)]
    return Report(
        evaluations=tuple(shown),
        comparisons=tuple(compare(evaluated[0], other) for other in paired),
        compared=tuple(label for label, each in greedy if each is evaluated[0] or each in paired),
        flips=tuple(side_by_side([evaluated[0], *paired])) if paired else (),
    )


def _version(run: Path, update: int | None) -> int:
    """Return the policy version to show. Raises ConfigError if it was not evaluated."""
    there = sorted({line.update for line in list_episodes(run) if line.phase in PHASES})
    if not there or update not in (None, *there):
        which = "" if update is None else f" of policy version {update}"
        begun = any((run / QUESTIONS).glob("*.jsonl"))
        none = f" that is complete: lzero eval --resume {run}" if begun else ": make one with lzero eval"
        others = f"; there are those of {', '.join(map(str, there))}"
        raise ConfigError(f"{run} holds no evaluation{which}{others if there else none}")
    return there[-1] if update is None else update


def _label(number: int) -> str:
    """Return A, B, …, Z, A2, B2, …"""
    turn, letter = divmod(number, len(string.ascii_uppercase))
    return string.ascii_uppercase[letter] + (str(turn + 1) if turn else "")


def _shown(label: str, run: Path, phase: Phase, update: int, config: Config, records: Sequence[Record]) -> Shown:
    scored = [record for record in records if record.scored]
    if not scored:
        raise ConfigError(f"{run}: no episode of its {PHASES[phase]} evaluation has a score; lzero eval --resume {run}")
    num_episodes = sum(len(record.episodes) for record in records)
    return Shown(
        label=label,
        run=str(run),
        phase=phase,
        update=update,
        config=config,
        score=mean_score(records),
        per_task=Part(values=tuple(mean(record.scores) for record in scored)),
        pass_at_k=mean_pass_at_k(records) if phase == "sampled" else {},
        parts=breakdown(records),
        num_tasks=len(records),
        num_episodes=num_episodes,
        num_failed=num_episodes - sum(len(record.scores) for record in records),
        attempts_failed={kind: count for kind, count in kinds_in(_lines(run, phase, update)).items() if count},
        examples=tuple(_examples(records)),
    )


def _lines(run: Path, phase: Phase, update: int) -> list[dict[str, Json]]:
    lines = RunDirectory.open(run).read_metrics()
    return [line for line in lines if (line["phase"], line["update"]) == (phase, update)]


def _examples(records: Sequence[Record]) -> Iterator[Example]:
    left = dict(EXAMPLES)
    for record in records:
        for episode, reward in zip(record.episodes, record.rewards, strict=True):
            kind = "failed" if reward is None else "right" if reward.score == 1.0 else "wrong"
            if left[kind]:
                left[kind] -= 1
                yield Example(kind=kind, task=record.task, episode=episode, reward=reward)
