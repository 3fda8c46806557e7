"""Play one task as a person or a scripted policy instead of a model."""

import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lzero.agent.broker import SubmitFinalAnswer
from lzero.agent.outputs import render_output
from lzero.cli.keyboard import Keyboard
from lzero.cli.steps import outcome_lines, result_lines
from lzero.config import Config
from lzero.engine.kinds import OpenedEngine
from lzero.engine.scripted.engine import WithoutModel, complete
from lzero.errors import ConfigError
from lzero.models import decode
from lzero.protocols import ToolSpec
from lzero.types import Completion, Episode, Reward, Sampling, Task
from lzero.visible import clean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

HELP = """You are the agent. The prompt below is exactly what the model reads.
Type Python, several lines if you like; an empty line runs it. Tools: {tools}.
A reply that begins with < is sent as typed, with <think>…</think> and <code>, up to a line that contains </code>.
Ctrl-D gives up.
"""
PATIENCE_S = 24 * 3600.0
"""Seconds that a person may think; far more than an engine may take."""

Answer = Callable[[str, int], Awaitable[str]]
"""An asynchronous policy: (transcript, seed) → reply."""


class GaveUp(Exception):
    """The input ended during the episode."""


async def play_task(config: Config, *, index: int, policy: str) -> bool:
    """Play held-out task `index`. Return False if lzero failed. Raises GaveUp when the input ends."""
    from lzero.rollout.compose import build, eval_tasks

    source = eval_tasks(config)
    if index >= len(source):
        raise ConfigError(f"--index {index}: {config.tasks.eval} has {len(source)} tasks, numbered from 0")
    task = source.task(index)
    by_hand = not policy
    answer = _typed(Keyboard()) if by_hand else _scripted(policy, task)
    echo = not (by_hand and sys.stdin.isatty())
    async with build(
        patient(config),
        make_engine=partial(_on_stage, answer, echo=echo),
        session_s=config.agent.work_s,  # a person may think for longer than a server keeps sessions
    ) as opened:
        scene = await opened.scenes.rehearse(task)
        if by_hand:
            tools = tool_names((*scene.tools, *opened.scenes.tools), notepad=config.agent.notepad)
            print(HELP.format(tools=tools))
        name = f"play/{task.id}"
        record = await opened.runner.record(task, name=name, num_episodes=1, sampling=Sampling(), seed=config.run.seed)
    print(ending(task, record.episodes[0], record.rewards[0], config))
    return record.rewards[0] is not None


def _on_stage(answer: Answer, tokenizer: "PreTrainedTokenizerFast | None", *, echo: bool) -> OpenedEngine:
    from lzero.models import build_tokenizer

    tokenizer = tokenizer or build_tokenizer()
    return OpenedEngine(engine=PlayEngine(answer, tokenizer, echo=echo), tokenizer=tokenizer, concurrency=1)


def patient(config: Config) -> Config:
    """Return the configuration with timeouts for a person who thinks."""
    rollout = config.rollout.model_copy(update={"episode_timeout_s": PATIENCE_S})
    repl = config.repl if config.repl.is_elsewhere else config.repl.model_copy(update={"lifetime_s": PATIENCE_S})
    return config.model_copy(update={"rollout": rollout, "repl": repl})


def tool_names(tools: Sequence[ToolSpec], *, notepad: bool) -> str:
    """Return the calls that a person may make: "search(query), submit_final_answer(answer), notepad"."""
    calls = [f"{tool.name}({', '.join(tool.parameters)})" for tool in (*tools, SubmitFinalAnswer())]
    return ", ".join([*calls, "notepad"] if notepad else calls)


class PlayEngine(WithoutModel):
    """An engine that shows the new part of each prompt, and waits for the answer."""

    def __init__(self, answer: Answer, tokenizer: "PreTrainedTokenizerFast", *, echo: bool) -> None:
        self._answer = answer
        self._tokenizer = tokenizer
        self._echo = echo
        self._seen = ""

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion:
        prompt = decode(ids, self._tokenizer)
        print(clean(prompt.removeprefix(self._seen)), end="", flush=True)
        completion = complete(await self._answer(prompt, sampling.seed), sampling, self._tokenizer)
        if self._echo:
            print(clean(completion.text))
        if completion.stop_reason == "length":
            print(f"(cut off after {len(completion.token_ids)} tokens, by agent.response_tokens or the tokens left)")
        self._seen = prompt + decode(completion.token_ids, self._tokenizer)
        return completion


def _scripted(name: str, task: Task) -> Answer:
    from lzero.engine.scripted.kind import find_policy, not_understood

    policy = find_policy(name, key="--policy")
    if complaint := not_understood(name, task):
        raise ConfigError(complaint)

    async def answer(transcript: str, seed: int) -> str:
        return policy(transcript, seed)

    return answer


def _typed(keyboard: Keyboard) -> Answer:
    async def answer(transcript: str, seed: int) -> str:
        return await read_reply(keyboard.line)

    return answer


async def read_reply(next_line: Callable[[], Awaitable[str | None]]) -> str:
    """Read a reply that a person types: code up to an empty line, or, if it begins with `<`, everything up to `</code>`.

    Raises GaveUp if the input ends before anything was typed.
    """
    lines: list[str] = []
    while (line := await next_line()) is not None:
        if not lines and not line.strip():
            continue
        lines.append(line)
        if lines[0].startswith("<"):
            if "</code>" in line:
                break
        elif not line.strip():
            break
    if not lines:
        raise GaveUp
    text = "\n".join(lines).rstrip()
    return text if text.startswith("<") else f"<code>\n{text}\n</code>"


def ending(task: Task, episode: Episode, reward: Reward | None, config: Config) -> str:
    """Return the result as lines: the last output, the answer, the outcome, and `result_lines`."""
    lines = []
    last = episode.steps[-1] if episode.steps else None
    if last is not None and last.execution is not None:
        lines += ["", render_output(last.execution, max_chars=config.agent.output_chars)]
    if episode.failure is not None:
        lines += ["", f"lzero failed ({episode.failure.kind}, {episode.failure.where}): {clean(episode.failure.what)}"]
    answer = "none" if episode.answer is None else clean(episode.answer)
    lines += [
        "",
        f"status  {episode.status.replace('_', ' ')}, {len(episode.steps)} of {episode.budgets.max_steps} steps",
        f"answer  {answer}",
    ]
    return "\n".join([*lines, *outcome_lines(episode), *result_lines(task, reward)])
