"""Show one episode of a task, with the reward of each step."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from lzero.cli.steps import step_body
from lzero.store import Record
from lzero.types import Episode, Reward, Task
from lzero.visible import clean


def episode_panel(record: Record, *, title: str) -> Group:
    """Return a panel of the first episode of a record: the question, each step with its reward, and the end."""
    return Group(*_parts(record.task, record.episodes[0], record.rewards[0], title))


def _parts(task: Task, episode: Episode, reward: Reward | None, title: str) -> Iterator[RenderableType]:
    yield Rule(Text(title, style="bold"), align="left", style="dim")
    yield Text.assemble(("question  ", "bold"), clean(task.question))
    for number, step in enumerate(episode.steps):
        earned = f" · reward {reward.per_step[number]:+.3f}" if reward else ""
        yield Text(f"\nstep {number + 1} · {len(step.completion.token_ids)} tokens{earned}", style="dim")
        yield from step_body(step)
    yield Text("")
    yield _ending(task, episode, reward)


def _ending(task: Task, episode: Episode, reward: Reward | None) -> Text:
    if episode.failure is not None:
        failure = episode.failure
        told = f"failed, through no fault of the agent: {failure.kind} at {failure.where}: {failure.what}"
        return Text(clean(told), style="red")
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
