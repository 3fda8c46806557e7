"""Check the model as a run would use it: its directory, its chat template, the budgets of its prompts, the engine."""

from collections.abc import Iterator

from lzero.agent.broker import SubmitFinalAnswer
from lzero.agent.episode import asked
from lzero.agent.prompt import system_prompt, task_turn
from lzero.agent.setting import LIBRARIES
from lzero.engine.kinds import Finding, kind_of
from lzero.model_files import num_layers
from lzero.models import resolve
from lzero.text import counted
from lzero.train.lora import check_lora
from lzero.train.preflight.subject import SPLITS, Subject
from lzero.types import Task

LONGEST = 3
"""Number of tasks per split, those with the longest questions, for which the tokens of the first prompt are counted."""


def check_model(subject: Subject) -> Iterator[Finding]:
    """Check that the chat template works, and that the engine can serve the model with the run's budgets."""
    if subject.renderer is not None:
        yield Finding("chat template", f"a turn ends with token {subject.renderer.end_of_turn}")
    yield from kind_of(subject.config).check(subject.config)
    if frozen := subject.config.train.frozen_layers:
        layers = num_layers(resolve(subject.config.model.path))
        problem = f"train.frozen_layers = {frozen}: the model has {layers} layers, and one at least must learn"
        yield Finding("train.frozen_layers", f"{frozen} of {layers}", [problem] if layers and frozen >= layers else [])
    if subject.config.lora.rank:
        names, share = check_lora(subject.config)
        yield Finding("lora.rank", f"{subject.config.lora.rank} in {', '.join(names)}: {share:.2%} of the parameters")


def check_prompts(subject: Subject) -> Iterator[Finding]:
    """Check that the first prompts of the longest tasks leave room for a reply, and that prompts have a template for each ability."""
    config = subject.config
    if subject.renderer is None:
        return
    for split in SPLITS:
        tasks = sorted(subject.tasks(split), key=lambda task: -len(task.question))[:LONGEST]
        counts = {task.id: _count(subject, task) for task in tasks}
        longest = max(counts, key=lambda name: counts[name])
        needed = counts[longest] + config.agent.response_tokens
        problems = []
        if needed > config.agent.max_tokens:
            problems.append(
                f"{split}: {longest}: its first prompt has {counts[longest]:,} tokens, which with agent.response_tokens = "
                f"{config.agent.response_tokens:,} exceed agent.max_tokens = {config.agent.max_tokens:,}: set it to {needed:,} or more"
            )
        yield Finding(
            f"prompts, {split}",
            f"the longest has {counted(counts[longest], 'token')} of {config.agent.max_tokens:,}",
            problems,
        )


def _count(subject: Subject, task: Task) -> int:
    config = subject.config
    assert subject.renderer is not None
    scene = subject.rehearsal(task)
    described = (*scene.tools, *subject.scenes.tools, SubmitFinalAnswer())
    system = system_prompt(config.agent, described, task, libraries=LIBRARIES + config.repl.packages)
    return len(subject.renderer.start(system, task_turn(config.agent, asked(task, scene.observation))))
