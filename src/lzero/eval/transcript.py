"""Render an episode for a person in a terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from lzero.agent.outputs import render_output
from lzero.store import Record
from lzero.types import Episode, Reward, Step, Task
from lzero.visible import clean

OUTPUT_CHARS = 1_000
"""The most characters of a cell's output that are shown."""


def episode_panel(record: Record, *, index: int = 0, title: str = "") -> Group:
    """Return a panel of episode `index` of a record: the question, each step's thought, code, output and reward, and the end."""
    return Group(*_parts(record.task, record.episodes[index], record.rewards[index], title))


def _parts(task: Task, episode: Episode, reward: Reward | None, title: str) -> Iterator[RenderableType]:
    yield Rule(Text(title or task.id, style="bold"), align="left", style="dim")
    yield Text.assemble(("question  ", "bold"), clean(task.question))
    for number, step in enumerate(episode.steps):
        yield Text("")
        yield from _step(number, step, reward.per_step[number] if reward else None)
    yield Text("")
    yield _ending(task, episode, reward)


def _step(number: int, step: Step, reward: float | None) -> Iterator[RenderableType]:
    earned = "" if reward is None else f" · reward {reward:+.3f}"
    yield Text(f"step {number + 1} · {len(step.completion.token_ids)} tokens{earned}", style="dim")
    if step.parsed.think:
        yield _indented(Text(clean(step.parsed.think), style="italic"))
    if step.parsed.code is None:
        yield _indented(Text(clean(step.completion.text)))
        yield _indented(Text(step.parsed.problem, style="red"))
        return
    yield _indented(Syntax(clean(step.parsed.code), "python", theme="ansi_light", background_color="default"))
    if step.execution is not None:
        style = "green" if step.execution.status == "ok" else "red"
        yield _indented(Text(render_output(step.execution, max_chars=OUTPUT_CHARS), style=style))


def _ending(task: Task, episode: Episode, reward: Reward | None) -> Text:
    if episode.failure is not None:
        failure = episode.failure
        return Text(
            f"failed, through no fault of the agent: {failure.kind} at {failure.where}: {failure.what}", style="red"
        )
    assert reward is not None, "an episode that did not fail is scored"
    answer = "no answer" if episode.answer is None else f"answered {clean(episode.answer)!r}"
    verdict = ("right", "bold green") if reward.score == 1.0 else (_shortfall(task, reward), "bold red")
    how = episode.status.replace("_", " ")
    return Text.assemble(f"{how} · {answer} · ", verdict, f" · reward {sum(reward.per_step):.3f}")


def _shortfall(task: Task, reward: Reward) -> str:
    if not task.answers:
        return f"score {reward.score:g}"
    gold = clean(repr(task.answers[0]))
    return f"score {reward.score:g}, {gold} is right" if reward.score else f"wrong: {gold} was right"


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2))
