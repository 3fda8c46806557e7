"""Show an episode's steps in a terminal: live, or from a record.

The text of agents, cells and tools is not trusted. It is shown without escapes and control characters, and never as markup.
"""

from collections import deque
from collections.abc import Iterator

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from lzero.agent.notepad import render_notepad
from lzero.agent.outputs import cut, render_output
from lzero.agent.watch import Watcher
from lzero.protocols import Scene
from lzero.text import counted
from lzero.types import Budgets, Episode, Json, Notepad, Reward, Step, Task, ToolCall
from lzero.visible import clean

OUTPUT_CHARS = 2_000
"""The most characters of a cell's output that are shown."""
TEXT_CHARS = 20_000
"""The most characters of a thought, of code or of an answer."""
CALL_CHARS = 160
"""The most characters of a tool call's arguments, and of its result."""
LIVE_LINES = 12
"""The most lines of a reply in view while it is streamed."""


class StepPrinter(Watcher):
    """Prints steps as a watcher of an episode.

        with StepPrinter(console, budgets) as printer:
            episode = await run_episode(…, watcher=printer)
            printer.print_answer(episode)

    A terminal shows a reply, its cell and its calls live, and replaces them by the whole step at its end. Elsewhere each step is printed at
    its end.
    """

    def __init__(self, console: Console, budgets: Budgets | None = None) -> None:
        self._console = console
        self._budgets = budgets
        self._number = 0
        self._notepad = Notepad()
        self._live: Live | None = None
        self._tail: deque[tuple[str, str]] = deque(maxlen=4_000)
        """(kind, piece) of the reply that is being streamed."""
        self._cell = ""
        self._calls: list[ToolCall] = []

    def __enter__(self) -> "StepPrinter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore the terminal. Safe to call twice."""
        if self._live is not None:
            self._live.stop()
        self._live = None
        self._tail.clear()
        self._cell, self._calls = "", []

    def on_scene(self, scene: Scene) -> None:
        if scene.observation:
            self._console.print(Text(cut(clean(scene.observation), TEXT_CHARS)))

    def on_text(self, kind: str, piece: str) -> None:
        if kind == "restart":
            self._tail.clear()
        else:
            self._tail.append((kind, piece))
        self._show()

    def on_cell(self, code: str) -> None:
        self._cell = code
        self._show()

    def on_call(self, call: ToolCall) -> None:
        self._calls.append(call)
        self._show()

    def on_step(self, step: Step) -> None:
        self.close()
        self._number += 1
        self.print_step(step, self._number)

    def print_step(self, step: Step, number: int) -> None:
        """Print a complete step; `number` counts from 1. Prints the notepad if it differs from the last step printed."""
        for part in self._parts(step, number):
            self._console.print(part)
        self._notepad = step.notepad

    def print_answer(self, episode: Episode) -> None:
        """Print how the episode ended, what it used, its answer as Markdown, and the outcome of its scene."""
        self._console.print()
        self._console.print(Rule(Text(_ending(episode), style="bold"), align="left", style="dim"))
        if episode.failure is not None:
            failure = episode.failure
            what = f"failed, through no fault of the agent: {failure.kind} at {clean(failure.where)}: {clean(failure.what)}"
            self._console.print(Text(what, style="red"))
        if episode.answer is not None:
            self._console.print(Markdown(cut(clean(episode.answer), TEXT_CHARS), hyperlinks=False))
        elif episode.status == "out_of_tokens" and not episode.steps:
            told = f"max_tokens = {episode.budgets.max_tokens:,} is too small for the prompt and a reply: raise it (--max-tokens)"
            self._console.print(Text(told, style="red"))
        elif episode.failure is None:
            self._console.print(Text("no answer was submitted", style="red"))
        for line in outcome_lines(episode):
            self._console.print(Text(line, style="dim"), soft_wrap=True)

    def _show(self) -> None:
        if self._live is None and self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._coming, refresh_per_second=8, transient=True)
            self._live.start()

    def _coming(self) -> RenderableType:
        """Return the view of the current step."""
        width = self._console.width
        parts: list[RenderableType] = [Text(f"step {self._number + 1} …", style="dim")]
        if self._cell:
            parts.append(_indented(_code(_last_lines(clean(self._cell), width=width))))
            parts += [_indented(_call(call)) for call in self._calls[-LIVE_LINES:]]
            parts.append(_indented(Text("running …", style="dim")))
        else:
            coming = tuple(self._tail)  # in one go, because another thread refreshes the terminal
            text = clean("".join(piece for _, piece in coming))
            thinks = bool(coming) and coming[-1][0] == "reasoning"
            parts.append(_indented(Text(_last_lines(text, width=width), style="italic dim" if thinks else "dim")))
        return Group(*parts)

    def _parts(self, step: Step, number: int) -> Iterator[RenderableType]:
        yield Text("")
        yield Text(_heading(step, number, self._budgets), style="dim")
        if step.trimmed:
            yield _indented(Text("earlier steps were dropped from the prompt", style="yellow"))
        yield from step_body(step)
        if step.notepad != self._notepad:
            shown = render_notepad(step.notepad, max_chars=OUTPUT_CHARS) or "<notepad>\n</notepad>"
            yield _indented(Text(clean(shown), style="cyan"))


def step_body(step: Step) -> Iterator[RenderableType]:
    """Yield thought, code, calls and output of a step."""
    if step.kind == "summarise":
        yield _indented(_prose(step.completion.text))
        return
    if step.parsed.think:
        yield _indented(_prose(step.parsed.think))
    if step.parsed.code is not None:
        yield _indented(_code(cut(clean(step.parsed.code), TEXT_CHARS)))
    elif not step.parsed.think:
        yield _indented(_prose(step.completion.text))
    for call in step.tool_calls:
        yield _indented(_call(call))
    if step.execution is not None:
        shown = render_output(step.execution, max_chars=OUTPUT_CHARS)
        yield _indented(Text(shown, style="green" if step.execution.status == "ok" else "red"))
    if step.parsed.problem:
        yield _indented(Text(clean(step.parsed.problem), style="red"))


def tokens_of(step: Step) -> int | None:
    """Return the number of tokens of a step's prompt and reply together; None if only the endpoint counts them, and did not report it."""
    usage, prompt = step.completion.usage, step.prompt
    if usage is not None:
        return usage.prompt_tokens + usage.completion_tokens
    if prompt.new_messages:
        return None
    return prompt.keep + len(prompt.new_ids) + len(step.completion.token_ids)


def _heading(step: Step, number: int, budgets: Budgets | None) -> str:
    """Return a line such as "step 2 of 6 · 812 of 16,000 tokens · model 1.2 s · cell 0.1 s"."""
    tokens = tokens_of(step)
    parts = [f"step {number} of {budgets.max_steps}" if budgets else f"step {number}"]
    if step.kind == "summarise":
        parts = [f"step {number}: a summary replaces the steps so far"]
    if tokens is not None:
        parts.append(f"{tokens:,} of {budgets.max_tokens:,} tokens" if budgets else f"{tokens:,} tokens")
    if "engine" in step.timings:
        parts.append(f"model {step.timings['engine']:.1f} s")
    if step.execution is not None:
        parts.append(f"cell {step.execution.duration_s:.1f} s")
    return " · ".join(parts)


def _ending(episode: Episode) -> str:
    usages = [step.completion.usage for step in episode.steps if step.completion.usage is not None]
    parts = [episode.status.replace("_", " "), counted(len(episode.steps), "step")]
    if usages:
        read, written = sum(usage.prompt_tokens for usage in usages), sum(usage.completion_tokens for usage in usages)
        parts.append(f"{read:,} tokens read, {written:,} written")
        costs = [usage.cost_usd for usage in usages if usage.cost_usd is not None]
        parts += [f"{sum(costs):.4f} USD"] if costs else []
    if episode.budgets.work_s is not None:
        work_s = sum(step.timings.get("work", 0.0) for step in episode.steps)
        parts.append(f"{work_s:.1f} of {episode.budgets.work_s:,g} s for cells and tools")
    return " · ".join(parts)


def outcome_lines(episode: Episode) -> list[str]:
    """Return a line on the outcome of the episode's scene, if it has one."""
    return [] if episode.outcome is None else [f"outcome {clean(cut(_literal(episode.outcome), OUTPUT_CHARS))}"]


def result_lines(task: Task, reward: Reward | None) -> list[str]:
    """Return lines on the gold answers, the score and the parts of the reward, as far as they are known."""
    lines = [f"gold    {' | '.join(task.answers)}"] if task.answers else []
    if reward is not None:
        parts = ", ".join(f"{name} {sum(values):.3g}" for name, values in reward.parts.items())
        lines += [f"score   {reward.score:g}", f"reward  {sum(reward.per_step):.3g}" + (f" = {parts}" if parts else "")]
    return [clean(line) for line in lines]


def _call(call: ToolCall) -> Text:
    """Return a line such as `→ search(query="Liri") a place; founder Titu`."""
    arguments = ", ".join(f"{name}={_literal(value)}" for name, value in call.arguments.items())
    line = Text(f"→ {clean(call.name)}({_line(arguments)})", style="magenta")
    if call.error is None:
        result = call.result if isinstance(call.result, str) else _literal(call.result)
        return line.append(f" {_line(result)}", style="dim")
    blame = "the tool failed" if call.fault == "tool" else "refused"
    return line.append(f" {blame}: {_line(call.error)}", style="red")


def _literal(value: Json) -> str:
    return msgspec.json.encode(value).decode()


def _line(text: str) -> str:
    """Return text as part of one line, cut at CALL_CHARS."""
    text = " ".join(clean(text).split())
    return text if len(text) <= CALL_CHARS else f"{text[:CALL_CHARS]}… [{len(text)} characters]"


def _prose(text: str) -> Text:
    return Text(cut(clean(text).strip(), TEXT_CHARS), style="italic")


def _code(text: str) -> Syntax:
    return Syntax(text, "python", theme="ansi_light", background_color="default", word_wrap=True)


def _last_lines(text: str, *, width: int) -> str:
    """Return the end of a text that fits in view, with `width` characters per line."""
    return "\n".join(text.rstrip().split("\n")[-LIVE_LINES:])[-LIVE_LINES * width :]


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2), expand=False)
