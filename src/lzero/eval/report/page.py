"""A report as one HTML page that loads nothing: no script, no font, no image.

Questions, answers, code and outputs come from models and strangers. The template escapes every value, and texts are cleaned of characters
that nobody sees. The page's Content-Security-Policy forbids scripts and requests, should an escape ever be missing.
"""

from collections.abc import Iterator
from importlib.resources import files

import jinja2
import msgspec
from msgspec import Struct

from lzero.agent.outputs import cut, render_output
from lzero.eval.report.content import Example, Report, Shown
from lzero.eval.report.sections import sections
from lzero.text import counted, one_line, shortened
from lzero.types import Json, Step, ToolCall
from lzero.visible import clean

TEXT_CHARS = 6_000
"""The most characters of a thought, of code, of an output, of a question or an answer."""
LINE_CHARS = 300
"""The most characters of a tool call's arguments, and of its result."""
STEPS = 20
"""The most steps of an example that are shown: the last ones."""
KINDS = {"right": "right", "partly right": "partly", "wrong": "wrong", "no answer": "none", "failed": "failed"}
"""Beginning of an ending → its class in the page."""


class Bar(Struct, frozen=True, kw_only=True):
    """A part of a bar: its share of the width, in percent."""

    kind: str
    title: str
    percent: float


class Block(Struct, frozen=True, kw_only=True):
    """A text of a step: "thought", "code", "call", "output", "problem" or "summary"."""

    kind: str
    text: str


class ShownStep(Struct, frozen=True, kw_only=True):
    heading: str
    blocks: tuple[Block, ...]


class ShownExample(Struct, frozen=True, kw_only=True):
    """An episode in the page."""

    kind: str
    label: str
    heading: str
    facts: dict[str, str]
    left_out: str
    steps: tuple[ShownStep, ...]


def render_page(report: Report, *, title: str, version: str) -> str:
    """Return the page. `version`: that of lzero."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_without_invisible
    )
    template = environment.from_string(files("lzero.eval.report").joinpath("page.html").read_text("utf-8"))
    return (
        template.render(
            title=title,
            version=version,
            shown=report.evaluations,
            sections=sections(report),
            endings={each.label: tuple(_bars(each)) for each in report.evaluations},
            examples=[_example(each, example) for each in report.evaluations for example in each.examples],
            settings={each.label: _settings(each) for each in report.evaluations},
        )
        + "\n"
    )


def _without_invisible(value: object) -> object:
    """Return a value as the template writes it; escaping follows."""
    return clean(value) if isinstance(value, str) else value


def _bars(shown: Shown) -> Iterator[Bar]:
    for first, kind in KINDS.items():
        number = sum(count for ending, count in shown.parts.endings.items() if ending.startswith(first))
        if number:
            yield Bar(kind=kind, title=f"{first}: {number}", percent=100 * number / shown.num_episodes)


def _settings(shown: Shown) -> dict[str, str]:
    """Return the keys of the configuration that differ from their defaults."""
    return {
        f"{name}.{key}": msgspec.json.encode(value).decode()
        for name, section in shown.config.model_dump(mode="json", exclude_defaults=True).items()
        for key, value in section.items()
        if (name, key) != ("run", "dir")
    }


def _example(shown: Shown, example: Example) -> ShownExample:
    episode, reward, task = example.episode, example.reward, example.task
    facts = {"question": _cut(task.question), "gold": _cut(" | ".join(task.answers))}
    if episode.answer is not None:
        facts["answer"] = _cut(episode.answer)
    if reward is not None:
        facts["score"] = f"{reward.score:g}"
    if episode.failure is not None:
        facts["failure"] = _cut(f"{episode.failure.kind} at {episode.failure.where}: {episode.failure.what}")
    left_out = max(0, len(episode.steps) - STEPS)
    numbered = list(enumerate(episode.steps, 1))[left_out:]
    return ShownExample(
        kind=example.kind,
        label=shown.label,
        heading=f"{clean(one_line(task.question))[:120]}",
        facts=facts | {"ending": f"{episode.status.replace('_', ' ')} after {counted(len(episode.steps), 'step')}"},
        left_out=f"{counted(left_out, 'step')} before are not shown" if left_out else "",
        steps=tuple(ShownStep(heading=f"step {number}", blocks=tuple(_blocks(step))) for number, step in numbered),
    )


def _blocks(step: Step) -> Iterator[Block]:
    parsed = step.parsed
    if step.kind == "summarise":
        yield Block(kind="summary", text=_cut(step.completion.text))
        return
    if parsed.think or parsed.code is None:
        yield Block(kind="thought", text=_cut(parsed.think or step.completion.text))
    if parsed.code is not None:
        yield Block(kind="code", text=_cut(parsed.code))
    for call in step.tool_calls:
        yield Block(kind="call", text=_call(call))
    if step.execution is not None:
        yield Block(kind="output", text=render_output(step.execution, max_chars=TEXT_CHARS))
    if parsed.problem:
        yield Block(kind="problem", text=_cut(parsed.problem))


def _call(call: ToolCall) -> str:
    arguments = ", ".join(f"{name}={_literal(value)}" for name, value in call.arguments.items())
    result = call.error or (call.result if isinstance(call.result, str) else _literal(call.result))
    return f"{_line(call.name)}({_line(arguments)}) → {_line(result)}"


def _literal(value: Json) -> str:
    return msgspec.json.encode(value).decode()


def _line(text: str) -> str:
    return shortened(clean(text[: 4 * LINE_CHARS]), LINE_CHARS)


def _cut(text: str) -> str:
    return cut(clean(text).strip(), TEXT_CHARS)
