"""Checks of the reward, on made-up episodes."""

from collections.abc import Iterator

from lzero.protocols import RewardFn
from lzero.train.preflight.subject import SPLITS, Line, Subject
from lzero.types import Budgets, Episode, Sampling, Task


def check_rewards(subject: Subject) -> Iterator[Line]:
    """Every gold answer scores 1, an empty answer 0."""
    reward = subject.reward
    name = subject.config.reward.function or "L0's"
    for split in SPLITS:
        tasks = subject.tasks(split)
        problems = [f"{split}: {problem}" for task in tasks for problem in score_problems(task, reward)]
        yield Line(f"reward, {split}: {name}", f"answers of {len(tasks):,} tasks", problems)


def score_problems(task: Task, reward: RewardFn) -> list[str]:
    """What is wrong with how answers to the task are scored, one sentence each."""
    problems = [
        f"{task.id}: the gold answer {gold!r} scores {score:g}, not 1"
        for gold in task.answers
        if (score := reward(task, made_up(task, gold)).score) != 1.0
    ]
    if (score := reward(task, made_up(task, "")).score) != 0.0:
        problems.append(f"{task.id}: an empty answer scores {score:g}, not 0")
    return problems


def made_up(task: Task, answer: str) -> Episode:
    """An episode of no steps that submitted `answer`."""
    return Episode(
        id="check",
        task_id=task.id,
        index=0,
        seed=0,
        sampling=Sampling(),
        budgets=Budgets(max_steps=1, max_tokens=1, cell_s=1.0),
        steps=(),
        status="finished",
        answer=answer,
    )
