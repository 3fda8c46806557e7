"""Compare the evaluations of two runs task by task.

Both runs have answered the same tasks, so their scores can be subtracted task by task. The interval of these paired differences is usually
narrower than those of the two scores.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from lzero.errors import ConfigError
from lzero.eval.statistics import interval, mean, sign_test
from lzero.store import EpisodeLine, Phase, list_episodes, list_questions
from lzero.text import counted


class TaskScore(Struct, frozen=True, kw_only=True):
    """Mean score of a task's episodes in one run, and the answer of the first one."""

    score: float
    answer: str | None


class Flip(Struct, frozen=True, kw_only=True):
    """A task that two runs score differently."""

    task: str
    question: str
    gold: tuple[str, ...]
    before: TaskScore
    after: TaskScore

    @property
    def difference(self) -> float:
        return self.after.score - self.before.score


class Evaluated(Struct, frozen=True, kw_only=True):
    """An evaluation of a run: the scores of its tasks under one policy version."""

    run: str
    update: int
    scores: dict[str, TaskScore]
    """By task."""
    questions: dict[str, tuple[str, tuple[str, ...]]]
    """By task: the question and its gold answers."""
    num_failed: int
    """Episodes that failed, which have no score."""

    def question(self, task: str) -> tuple[str, tuple[str, ...]]:
        """Return the question of a task and its gold answers; ("", ()) for a task that the run does not have."""
        return self.questions.get(task, ("", ()))


class SideBySide(Struct, frozen=True, kw_only=True):
    """A task that some runs score differently than others: what each answered."""

    task: str
    question: str
    gold: tuple[str, ...]
    scores: tuple[TaskScore | None, ...]
    """In the order of the runs; None for a run that has not scored the task."""


class Comparison(Struct, frozen=True, kw_only=True):
    """Differences of a run from the baseline, over the tasks that both have scored."""

    baseline: str
    run: str
    num_tasks: int
    unpaired: int
    """Tasks that only one of the two has scored, or that ask another question in each."""
    before: float
    after: float
    difference: float
    low: float
    high: float
    """95 % interval of the difference."""
    p_value: float
    """P-value of the exact sign test."""
    flips: tuple[Flip, ...]
    """Lost tasks first, then gained ones, each in the order of their ids."""


def read_evaluation(path: Path, *, phase: Phase, update: int | None = None) -> Evaluated:
    """Return a run's evaluation of `update`, or its last one. Raises StoreError, and ConfigError if there is none."""
    lines = [line for line in list_episodes(path) if line.phase == phase]
    updates = sorted({line.update for line in lines})
    if not updates or update not in (None, *updates):
        wanted = f'no evaluation of phase "{phase}"' + ("" if update is None else f" of update {update}")
        there = f"; there are those of updates {', '.join(map(str, updates))}" if updates else ""
        raise ConfigError(f"{path} has {wanted}{there}")
    update = updates[-1] if update is None else update
    questions = list_questions(path, phase=phase, update=update)
    return evaluated(str(path), update, (line for line in lines if line.update == update), questions)


def evaluated(
    run: str, update: int, lines: Iterable[EpisodeLine], questions: dict[str, tuple[str, tuple[str, ...]]]
) -> Evaluated:
    """Return the scores of one evaluation's episodes, by task."""
    by_task: dict[str, list[EpisodeLine]] = {}
    num_failed = 0
    for line in lines:
        if line.score is None:
            num_failed += 1
        else:
            by_task.setdefault(line.task, []).append(line)
    scores = {
        task: TaskScore(score=mean([line.score or 0.0 for line in own]), answer=own[0].answer)
        for task, own in by_task.items()
    }
    return Evaluated(run=run, update=update, scores=scores, questions=questions, num_failed=num_failed)


def labels(runs: Sequence[Evaluated]) -> list[str]:
    """Return a name for each run: its directory, with the policy version if another one has the same directory."""
    names = [run.run for run in runs]
    return [f"{run.run}@{run.update}" if names.count(run.run) > 1 else run.run for run in runs]


def side_by_side(runs: Sequence[Evaluated]) -> list[SideBySide]:
    """Return the tasks that the runs score differently, those first that the first run scores best, then by id."""
    found = []
    for task in sorted({task for run in runs for task in run.scores}):
        question, gold = next(run.question(task) for run in runs if task in run.scores)
        scores = tuple(run.scores.get(task) if run.question(task)[0] == question else None for run in runs)
        if len({each.score for each in scores if each is not None}) > 1:
            found.append(SideBySide(task=task, question=question, gold=gold, scores=scores))
    return sorted(found, key=lambda each: -each.scores[0].score if each.scores[0] else 1.0)


def shared_tasks(one: Evaluated, other: Evaluated) -> list[str]:
    """Return the tasks that both have scored, by id. Tasks of the same id that ask different questions are different tasks."""
    both = one.scores.keys() & other.scores.keys()
    return sorted(task for task in both if one.question(task)[0] == other.question(task)[0])


def compare(baseline: Evaluated, other: Evaluated) -> Comparison:
    """Compare two evaluations. Raises ConfigError if they share no task."""
    shared = shared_tasks(baseline, other)
    if not shared:
        raise ConfigError(
            f"{baseline.run} and {other.run} have scored no task in common ({counted(len(baseline.scores), 'task')} and "
            f"{counted(len(other.scores), 'task')}): compare evaluations of the same tasks"
        )
    pairs = [_flip(task, baseline, other) for task in shared]
    differences = [pair.difference for pair in pairs]
    low, high = interval(differences)
    return Comparison(
        baseline=baseline.run,
        run=other.run,
        num_tasks=len(shared),
        unpaired=len(baseline.scores.keys() | other.scores.keys()) - len(shared),
        before=mean([pair.before.score for pair in pairs]),
        after=mean([pair.after.score for pair in pairs]),
        difference=mean(differences),
        low=low,
        high=high,
        p_value=sign_test(differences),
        flips=tuple(
            sorted((pair for pair in pairs if pair.difference), key=lambda pair: (pair.difference > 0, pair.task))
        ),
    )


def _flip(task: str, baseline: Evaluated, other: Evaluated) -> Flip:
    question, gold = baseline.question(task)
    return Flip(task=task, question=question, gold=gold, before=baseline.scores[task], after=other.scores[task])
