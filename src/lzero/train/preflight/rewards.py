"""Check the reward on made-up episodes."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from lzero.agent.broker import ANSWER_CHARS
from lzero.config import RewardConfig
from lzero.engine.kinds import Finding
from lzero.errors import RewardError
from lzero.rewards import exact_match, normalize
from lzero.rollout.compose import open_scorer
from lzero.rollout.concurrency import run_all
from lzero.rollout.scoring import Scorer
from lzero.train.preflight.subject import SPLITS, Subject
from lzero.types import Budgets, Completion, Episode, Execution, Json, Parsed, Prompt, Sampling, Step, Task

SHOWN_CHARS = 20
ODD = ("[", "nan", "1e999", "\0", "½ 北京", "x" * ANSWER_CHARS)
"""Answers that a reward function may fail on."""


def check_rewards(subject: Subject) -> Iterator[Finding]:
    """Check L0's reward on every gold answer, and a user's reward function, which may cost time or money, on a few episodes."""
    name = subject.config.reward.function
    for split in SPLITS:
        tasks = subject.tasks(split)
        scorer = open_scorer(subject.config)
        if name:
            outcome = subject.rehearsal(tasks[0]).outcome
            over, found = "a right and an empty answer", asyncio.run(function_problems(tasks[:1], scorer, outcome))
            if split == "train" and not found:
                over += f", {len(ODD)} odd ones"
                found = asyncio.run(odd_problems(tasks[0], open_scorer(subject.config), outcome))
        else:
            over, found = f"answers of {len(tasks):,} tasks", asyncio.run(_score_all(tasks, scorer))
            if subject.config.reward.is_exact_match:
                found += [problem for task in tasks for problem in form_problems(task, subject.config.reward)]
        whose = name or "L0's"
        yield Finding(f"reward, {split}: {whose}", over, [f"{split}: {each}" for each in found])


async def function_problems(
    tasks: Sequence[Task], scorer: Scorer, outcome: Mapping[str, Json] | None = None
) -> list[str]:
    """Return a sentence for each task on which the reward function fails, or pays a right answer no more than an empty one.

    With an outcome, which is that of a scene without actions, no answer need score, nor for a task without gold answers.
    """
    problems = []
    for task in tasks:
        try:
            right = await scorer.score(task, made_up(task, task.answers[0] if task.answers else "", outcome))
            empty = await scorer.score(task, made_up(task, "", outcome))
        except RewardError as error:
            problems.append(f"{task.id}: {error}")
        else:
            if task.answers and right.score <= empty.score and outcome is None:
                problems.append(
                    f"{task.id}: the gold answer {task.answers[0]!r} scores {right.score:g}, and an empty answer {empty.score:g}"
                )
    return problems


async def odd_problems(task: Task, scorer: Scorer, outcome: Mapping[str, Json] | None = None) -> list[str]:
    """Return a sentence for each odd answer on which the reward function fails.

    An episode without a score is not trained on, so an agent could void its episode by such an answer.
    """
    problems = []
    for answer in ODD:
        try:
            await scorer.score(task, made_up(task, answer, outcome))
        except RewardError as error:
            shown = repr(answer) if len(answer) < SHOWN_CHARS else f"a text of {len(answer):,} characters"
            problems.append(
                f"{task.id}: {error}; so an agent can submit {shown} to be left out instead of scored: return 0 for it"
            )
    return problems


def form_problems(task: Task, config: RewardConfig) -> list[str]:
    """Return a sentence for each gold answer that `reward.match` and `reward.numbers` compare wrongly.

    Normalisation deletes the whole answer, or its plain spelling scores 0.
    """
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


def made_up(task: Task, answer: str, outcome: Mapping[str, Json] | None = None) -> Episode:
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
        outcome=None if outcome is None else dict(outcome),
    )
