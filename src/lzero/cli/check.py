"""`lzero check`: before hours of training, are the tasks answerable and the scorer right?"""

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lzero.cli.arguments import Arguments, read_config

if TYPE_CHECKING:
    from rich.table import Table

    from lzero.config import Config
    from lzero.protocols import RewardFn, TaskSource
    from lzero.types import Episode, Task

MAX_TASKS = 300
"""Tasks checked of a source without end; of a file, all are."""
SHOWN = 10


def check(arguments: Arguments = None) -> None:
    """Check tasks and reward: files load, every gold answer scores 1, an empty one 0, no held-out question is trained on.

    Example: lzero check recipes/world.toml tasks.eval=questions.jsonl
    """
    from rich.table import Column, Table

    from lzero.data.sources import leaks
    from lzero.rollout.build import eval_tasks, open_reward, train_tasks

    config = read_config(arguments)
    reward = open_reward(config)
    sources = {"train": train_tasks(config), "eval": eval_tasks(config)}
    table = Table(Column("", overflow="fold"), "tasks", "gold answers", "problems", title="tasks and reward")
    problems = []
    for name, source in sources.items():
        tasks = [source.task(index) for index in range(_num_checked(source))]
        found = [problem for task in tasks for problem in score_problems(task, reward)]
        table.add_row(
            f"{name}: {getattr(config.tasks, name)}",
            f"{len(tasks):,}" + (" of endless" if len(source) == sys.maxsize else ""),
            f"{sum(len(task.answers) for task in tasks):,}",
            str(len(found)),
        )
        problems += [f"{name}: {problem}" for problem in found]
    leaked = leaks(sources["train"], sources["eval"])
    table.add_row("asked in both", "", "", str(len(leaked)))
    problems += [f"eval: {held_out.id}: the question of train's {train.id}" for train, held_out in leaked]
    if config.tasks.corpus:
        table.add_row(f"corpus: {config.tasks.corpus}", f"{_num_passages(config):,} passages", "", "0")
    _finish(table, problems)


def score_problems(task: "Task", reward: "RewardFn") -> list[str]:
    """What is wrong with how answers to the task are scored, one sentence each."""
    problems = [
        f"{task.id}: the gold answer {gold!r} scores {score:g}, not 1"
        for gold in task.answers
        if (score := reward(task, _episode(task, gold)).score) != 1.0
    ]
    if (score := reward(task, _episode(task, "")).score) != 0.0:
        problems.append(f"{task.id}: an empty answer scores {score:g}, not 0")
    return problems


def _episode(task: "Task", answer: str) -> "Episode":
    """An episode of no steps that submitted `answer`."""
    from lzero.types import Budgets, Episode, Sampling

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


def _num_checked(source: "TaskSource") -> int:
    return MAX_TASKS if len(source) == sys.maxsize else len(source)


def _num_passages(config: "Config") -> int:
    from lzero.data.files import read_passages
    from lzero.tools.corpus import read_corpus

    return sum(1 for _ in read_corpus(Path(config.tasks.corpus), read_passages))


def _finish(table: "Table", problems: list[str]) -> None:
    from rich.console import Console

    Console(markup=False).print(table)  # a path may hold brackets
    if not problems:
        return
    for problem in islice(problems, SHOWN):
        print(problem, file=sys.stderr)
    if len(problems) > SHOWN:
        print(f"… and {len(problems) - SHOWN:,} more", file=sys.stderr)
    raise typer.Exit(1)
