"""Checks of the reward, on made-up episodes."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import chain

from lzero.errors import RewardError
from lzero.rollout.build import open_scorer
from lzero.rollout.concurrency import run_all
from lzero.rollout.scoring import Scorer
from lzero.train.preflight.subject import SPLITS, Line, Subject
from lzero.types import Budgets, Completion, Episode, Execution, Parsed, Prompt, Sampling, Step, Task


def check_rewards(subject: Subject) -> Iterator[Line]:
    """Check that every gold answer scores 1 and an empty answer 0."""
    name = subject.config.reward.function or "L0's"
    for split in SPLITS:
        tasks = subject.tasks(split)
        found = asyncio.run(_score_all(tasks, open_scorer(subject.config)))
        yield Line(
            f"reward, {split}: {name}", f"answers of {len(tasks):,} tasks", [f"{split}: {each}" for each in found]
        )


async def _score_all(tasks: Sequence[Task], scorer: Scorer) -> list[str]:
    return list(chain.from_iterable(await run_all(score_problems(task, scorer) for task in tasks)))


async def score_problems(task: Task, scorer: Scorer) -> list[str]:
    """Return a sentence for each answer to the task that gets a wrong score."""

    async def score(answer: str) -> float:
        return (await scorer.score(task, made_up(task, answer))).score

    try:
        problems = [
            f"{task.id}: the gold answer {gold!r} scores {value:g}, not 1"
            for gold in task.answers
            if (value := await score(gold)) != 1.0
        ]
        if (value := await score("")) != 0.0:
            problems.append(f"{task.id}: an empty answer scores {value:g}, not 0")
    except RewardError as error:
        return [f"{task.id}: {error}"]
    return problems


def made_up(task: Task, answer: str) -> Episode:
    """Return an episode of one step that submitted `answer`."""
    code = f"submit_final_answer({answer!r})"
    step = Step(
        prompt=Prompt(keep=0, new_ids=(0,)),
        completion=Completion(token_ids=(0,), logprobs=(0.0,), text=code, stop_reason="stop", versions=((0, 1),)),
        parsed=Parsed(think="", code=code, well_formed=True),
        execution=Execution(outputs=(), status="ok", duration_s=0.0),
    )
    return Episode(
        id="check",
        task_id=task.id,
        index=0,
        seed=0,
        sampling=Sampling(),
        budgets=Budgets(max_steps=1, max_tokens=2, cell_s=1.0),
        steps=(step,),
        status="finished",
        answer=answer,
    )
