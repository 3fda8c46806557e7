"""`lzero show`: list the episodes of a run, or print one step by step."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from lzero.cli.arguments import takes
from lzero.cli.saved import OpenedEpisode, SavedPath, is_training_run, open_saved
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from lzero.store import SavedEpisode


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Options of `lzero show`: print one episode of a run, or a list. `failed` to `page` choose from the list."""

    path: SavedPath
    episode: Annotated[
        str, typer.Argument(metavar="[EPISODE]", help="Id of an episode of a training run.", show_default=False)
    ] = ""
    step: Annotated[int | None, Option("--step", min=1, help="Print only this step, from 1.")] = None
    prompt: Annotated[bool, Option("--prompt", help="Print each step's prompt, too, as the model saw it.")] = False
    model: Annotated[
        Path | None, Option("--model", help="With --prompt: directory of the local model whose tokens the prompts are.")
    ] = None
    failed: Annotated[bool, Option("--failed", help="List episodes that failed.")] = False
    wrong: Annotated[bool, Option("--wrong", help="List episodes that score less than 1.")] = False
    task: Annotated[str, Option("--task", help="List episodes of the task with this id.")] = ""
    limit: Annotated[int | None, Option(min=1, help="Episodes of a page of the list (40).")] = None
    page: Annotated[int | None, Option(min=1, help="Which page of the list, from 1.")] = None
    json: Annotated[
        bool, Option("--json", help="Print JSON: a line an episode of the list, or one line with all of one.")
    ] = False


@takes(Shown)
def show(wanted: Shown) -> None:
    """List the episodes of a training run, or print one: question, thoughts, code, outputs, answer, gold answer, score, reward.

    Example: lzero show runs/world-20260131-174501 --wrong

    A run of `lzero run` has one episode, which is printed.
    """
    path, step = wanted.path, wanted.step
    if is_training_run(path) and not wanted.episode:
        from lzero.cli.listing import list_run

        if step or wanted.prompt:
            raise ConfigError(f"{'--step' if step else '--prompt'} needs an episode: lzero show {path} EPISODE")
        list_run(wanted)
        return
    if wanted.model is not None and not wanted.prompt:
        raise ConfigError("--model has no effect without --prompt")
    opened = open_saved(path, wanted.episode)
    for name in ("failed", "wrong", "task", "limit", "page"):
        if getattr(wanted, name):
            raise ConfigError(
                f"--{name} has no effect on one episode: it chooses from the list of a training run's episodes"
            )
    steps = opened.saved.episode.steps
    if step is not None and step > len(steps):
        raise ConfigError(f"--step {step}: the episode has {len(steps)} steps")
    if wanted.json:
        _write_json(opened, step)
        return
    from rich.console import Console

    numbers = range(step, step + 1) if step else range(1, len(steps) + 1)
    _print(
        Console(),
        opened,
        numbers,
        whole=step is None,
        prompts=_prompts(opened.saved, wanted.model) if wanted.prompt else [],
    )


def _write_json(opened: OpenedEpisode, step: int | None) -> None:
    import msgspec

    if step:
        line = msgspec.json.encode(opened.saved.episode.steps[step - 1])
    else:
        scored = {"reward": opened.reward, "dropped": opened.dropped} if opened.reward or opened.dropped else {}
        line = msgspec.json.encode(msgspec.to_builtins(opened.saved) | msgspec.to_builtins(scored))
    sys.stdout.buffer.write(line + b"\n")


def _print(console: "Console", opened: OpenedEpisode, numbers: range, *, whole: bool, prompts: list[str]) -> None:
    from rich.text import Text

    from lzero.cli.steps import StepPrinter, result_lines
    from lzero.visible import clean

    saved = opened.saved
    printer = StepPrinter(console, saved.episode.budgets)
    if whole:
        console.print(Text(clean(saved.task.question), style="bold"))
        made_by = f"{clean(saved.model)} · episode {clean(saved.episode.id)} · lzero {clean(saved.lzero)}"
        console.print(Text(made_by, style="dim"))
        if saved.task.files:
            console.print(Text(f"files: {clean(', '.join(saved.task.files))}", style="dim"))
    for number in numbers:
        if prompts:
            console.print(Text(f"\nprompt of step {number}", style="dim"))
            console.print(Text(clean(prompts[number - 1]), style="blue"), soft_wrap=True)
        printer.print_step(saved.episode.steps[number - 1], number)
    if whole:
        printer.print_answer(saved.episode)
        lines = result_lines(saved.task, opened.reward)
        for line in (*lines, *([f"not trained on: {clean(opened.dropped)}"] if opened.dropped else [])):
            console.print(Text(line, style="dim"), soft_wrap=True)


def _prompts(saved: "SavedEpisode", model: Path | None) -> list[str]:
    """Return the new part of each step's prompt, as the model saw it: decoded tokens, or turns in words."""
    decode = None
    found = []
    for step in saved.episode.steps:
        new = step.prompt
        kept = f"[{new.keep:,} {'turns' if new.new_messages else 'tokens'} as before]\n" if new.keep else ""
        if new.new_messages:
            text = "\n".join(f"[{message.role}]\n{message.content}" for message in new.new_messages)
        else:
            decode = decode or _decoder(saved.model, model)
            text = decode(new.new_ids)
        found.append(kept + text)
    return found


def _decoder(recorded: str, given: Path | None) -> "Callable[[Sequence[int]], str]":
    """Return the decoder of a model's tokens: of the directory that is given, or of the recorded name if that is no directory.

    The record may come from a stranger, so a directory is not opened just because a record names it. Raises ConfigError in that case, and
    ModelError for a tokenizer that cannot be used.
    """
    from lzero.config import NANO, make_config
    from lzero.engine.kinds import kind_of
    from lzero.engine.scripted.kind import SCRIPTED
    from lzero.models import decode

    policy = recorded.removeprefix(SCRIPTED)
    if policy == recorded != NANO and given is None:
        raise ConfigError(
            f"the prompts are tokens of {recorded}. Records may come from strangers, so lzero does not open that directory by itself: "
            f"add --model {recorded}"
        )
    engine = {"engine": {"kind": "scripted", "policy": policy}}
    path = {"model": {"path": str(given or recorded)}}
    config = make_config(path if policy == recorded or given is not None else engine)
    tokenizer = kind_of(config).open_tokenizer(config)
    assert tokenizer is not None
    return lambda ids: decode(ids, tokenizer)
