"""Checks of the model, as a run would use it: its directory, its chat template, the budgets of its prompts, the engine."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lzero.agent.broker import SubmitFinalAnswer
from lzero.agent.episode import LIBRARIES
from lzero.agent.prompt import system_prompt, task_turn
from lzero.config import Config
from lzero.protocols import Tool
from lzero.rollout.build import POLICY, find_policy, fitting_concurrency, open_user_code
from lzero.text import counted
from lzero.tools.search import PassageIndex, Search
from lzero.train.preflight.subject import SPLITS, Line, Subject
from lzero.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LONGEST = 3
"""Number of tasks of a split, those with the longest questions, whose first prompts are counted."""


def check_model(subject: Subject) -> Iterator[Line]:
    """Check that the directory holds a model and its tokenizer, that the chat template works, and that the engine can serve the model with
    the run's budgets and memory."""
    config = subject.config
    name = f"model.path: {config.model.path}"
    if config.model.path.startswith(POLICY):
        find_policy(config.model.path.removeprefix(POLICY), option=f"model.path = {config.model.path!r}")
        yield Line(name, "a scripted policy: for lzero eval and play")
        return
    renderer = subject.renderer
    yield Line("chat template", f"a turn ends with token {renderer.end_of_turn}")
    from lzero.models import load_model, resolve, select_device

    device = select_device(config.model.device)
    model = load_model(resolve(config.model.path), dtype=config.model.dtype, device=device)
    problems = _vocabulary_problems(subject, model)
    yield Line(name, f"{model.num_parameters():,} parameters, {config.model.dtype} on {device}", problems)
    yield from _engine(config, model)


def _vocabulary_problems(subject: Subject, model: "PreTrainedModel") -> list[str]:
    size, largest = model.config.get_text_config().vocab_size, max(subject.tokenizer.get_vocab().values())
    if largest < size:
        return []
    return [
        f"model.path = {subject.config.model.path!r}: the tokenizer has ids to {largest:,}, the model's vocabulary ends at {size - 1:,}: "
        "take the tokenizer that belongs to the weights"
    ]


def _engine(config: Config, model: "PreTrainedModel") -> Iterator[Line]:
    from lzero.engine.local.cache import Forward
    from lzero.engine.local.probe import check_policy
    from lzero.threads import computing_alone

    tokens, slots = config.agent.max_tokens, fitting_concurrency(config, model)
    with computing_alone():
        check_policy(Forward(model, num_slots=slots, max_tokens=tokens))
    wanted = config.rollout.concurrency
    fewer = f"; memory for rollout.concurrency = {wanted:,} is missing" if slots < wanted else ""
    yield Line("local engine", f"{slots:,} at once of episodes of {tokens:,} tokens{fewer}")


def check_prompts(subject: Subject) -> Iterator[Line]:
    """Check that the first prompts of the longest tasks leave room for a reply, and that prompts have a template for each ability."""
    config = subject.config
    _, tools = open_user_code(config)
    for split in SPLITS:
        tasks = sorted(subject.tasks(split), key=lambda task: -len(task.question))[:LONGEST]
        counts = {task.id: _count(subject, task, tools) for task in tasks}
        longest = max(counts, key=lambda name: counts[name])
        needed = counts[longest] + config.agent.response_tokens
        problems = []
        if needed > config.agent.max_tokens:
            problems.append(
                f"{split}: {longest}: its first prompt has {counts[longest]:,} tokens, which with agent.response_tokens = "
                f"{config.agent.response_tokens:,} exceed agent.max_tokens = {config.agent.max_tokens:,}: set it to {needed:,} or more"
            )
        yield Line(
            f"prompts, {split}",
            f"the longest has {counted(counts[longest], 'token')} of {config.agent.max_tokens:,}",
            problems,
        )


def _count(subject: Subject, task: Task, tools: tuple[Tool, ...]) -> int:
    config = subject.config
    described = (Search(PassageIndex(()), num_results=config.tasks.search_results), *tools, SubmitFinalAnswer())
    system = system_prompt(config.agent, described, task, libraries=LIBRARIES + config.repl.packages)
    return len(subject.renderer.start(system, task_turn(config.agent, task.question)))
