"""Checks of the reward, on made-up episodes."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import chain

from lzero.config import RewardConfig
from lzero.errors import RewardError
from lzero.rewards import exact_match, normalize
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
        if not subject.config.reward.function:
            found += [problem for task in tasks for problem in form_problems(task, subject.config.reward)]
        yield Line(
            f"reward, {split}: {name}", f"answers of {len(tasks):,} tasks", [f"{split}: {each}" for each in found]
        )


def form_problems(task: Task, config: RewardConfig) -> list[str]:
    """Return a sentence for each gold answer that `reward.match` and `reward.numbers` compare wrongly: normalisation leaves nothing of it,
    or its plain spelling scores 0."""
    problems = []
    for gold in task.answers:
        if not normalize(gold, match=config.match, numbers=config.numbers):
            problems.append(
                f'{task.id}: reward.match = "{config.match}" deletes the whole gold answer {gold!r}, so it matches any answer that '
                'is deleted whole. Set reward.match = "unicode", or remove the task'
            )
        elif (
            not any(map(str.isalpha, gold))
            and (plain := normalize(gold)) != normalize(gold, numbers="text")
            and not exact_match(plain, task.answers, match=config.match, numbers=config.numbers)
        ):
            problems.append(
                f"{task.id}: the gold answer {gold!r} is {plain!r}, and that spelling scores 0. "
                'Set reward.numbers = "value" with reward.match = "unicode", or add it to `aliases`'
            )
    return problems


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
