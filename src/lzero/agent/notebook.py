"""Convert a saved episode to a Jupyter notebook (nbformat 4.5): thoughts as Markdown, code with its outputs.

    title     the question
    preamble  the tools, which answer from the record: the notebook runs outside the sandbox, without them
    step n    the thought · the code and its outputs · tool calls, notepad, how the cell ended
    answer

Thoughts, answers and calls are not trusted: HTML and images in them are shown as text. Outputs of the agent's code are unchanged, HTML and
scripts included. Jupyter shows the HTML of a notebook that the reader has not run without its scripts, and so does GitHub.
"""

import html
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib import resources

import msgspec

from lzero import __version__
from lzero.agent.broker import SubmitFinalAnswer
from lzero.agent.notepad import NotepadTool, render_notepad
from lzero.agent.outputs import cut
from lzero.agent.recorded import has_notepad, tools_of
from lzero.protocols import stub_of
from lzero.seeds import derive_seed
from lzero.store import SavedEpisode
from lzero.text import counted
from lzero.types import Display, Episode, Error, Execution, Json, Output, Result, Step, Stream, ToolCall
from lzero.visible import clean

Cell = dict[str, Json]

TITLE_CHARS = 100
CALL_CHARS = 1_000
"""The most characters of a call's arguments, and of its result, in a list of calls; the preamble has all of them."""
_TAGS = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITIES = re.compile(r"&(?=#?\w+;)")
_JSON = re.compile(r"application/(?:.+\+)?json")


def to_notebook(saved: SavedEpisode) -> bytes:
    """Return the content of the .ipynb file."""
    episode = saved.episode
    agent = saved.config.get("agent")
    about: dict[str, Json] = {
        "lzero": saved.lzero,
        "notebook_by": __version__,
        "model": saved.model,
        "task_id": saved.task.id,
        "episode_id": episode.id,
        "seed": episode.seed,
        "status": episode.status,
        "agent": agent,
    }
    notebook: dict[str, Json] = {
        "cells": list(_cells(saved)),
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
            "lzero": about,
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return msgspec.json.format(msgspec.json.encode(notebook), indent=1) + b"\n"


def _cells(saved: SavedEpisode) -> Iterator[Cell]:
    yield _markdown("title", _title(saved))
    yield _preamble(saved)
    notepad = ""
    place = _Place()
    for number, step in enumerate(saved.episode.steps, 1):
        yield _markdown(f"step-{number}", _thought(step, number), step=number, kind=step.kind)
        if step.parsed.code is not None:
            yield _code(f"step-{number}-code", step, number, place)
        shown = render_notepad(step.notepad, max_chars=50_000)
        after = "\n\n".join(_after(step, (shown or "(empty)") if shown != notepad else ""))
        notepad = shown
        if after:
            yield _markdown(f"step-{number}-after", after, step=number)
    yield _markdown("answer", _answer(saved.episode))


class _Place:
    """The position of a cell among the cells of its session."""

    def __init__(self) -> None:
        self.count = 0
        self.broken = False
        """Whether an earlier cell did not run to its end; later ones may miss its results."""

    def run(self, execution: Execution | None) -> int:
        """Count one more cell, and return its number in the session."""
        self.count += 1
        count = self.count
        if execution is not None and execution.status in ("killed", "timed_out"):
            self.broken = True
        if execution is not None and execution.status == "killed":
            self.count = 0
        return count


def _markdown(name: str, text: str, **facts: Json) -> Cell:
    return {"cell_type": "markdown", "id": name, "metadata": {"lzero": facts} if facts else {}, "source": text}


def _code(name: str, step: Step, number: int, place: _Place) -> Cell:
    """Return the code cell of a step.

    Cells that raised may raise again, and the runner goes on. Cells that did not end by themselves are not run again.
    """
    execution = step.execution
    facts: dict[str, Json] = {"step": number}
    tags: list[Json] = []
    fragile = place.broken
    count = place.run(execution)
    if execution is not None:
        facts |= {"status": execution.status, "duration_s": execution.duration_s}
        facts |= {"reason": execution.reason} if execution.reason else {}
        if execution.status in ("killed", "timed_out"):
            tags.append("skip-execution")
        elif execution.status == "error" or fragile:
            tags.append("raises-exception")
    return {
        "cell_type": "code",
        "id": name,
        "metadata": {"lzero": facts, **({"tags": tags} if tags else {})},
        "execution_count": count,
        "source": step.parsed.code,
        "outputs": [_output(output, count) for output in execution.outputs] if execution else [],
    }


def _output(output: Output, count: int) -> Json:
    match output:
        case Stream():
            return {"output_type": "stream", "name": output.name, "text": output.text}
        case Result():
            bundle = _bundle(output.data)
            return {"output_type": "execute_result", "data": bundle, "metadata": {}, "execution_count": count}
        case Display():
            return {"output_type": "display_data", "data": _bundle(output.data), "metadata": {}}
        case Error():
            lines: list[Json] = list(output.traceback)
            return {"output_type": "error", "ename": output.ename, "evalue": output.evalue, "traceback": lines}


def _bundle(data: dict[str, str]) -> dict[str, Json]:
    """Return the data by MIME type in nbformat's shape: JSON as JSON, everything else as text."""
    return {mime: _value(text) if _JSON.fullmatch(mime) else text for mime, text in data.items()}


def _value(text: str) -> Json:
    try:
        value: Json = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return text
    return value


def _preamble(saved: SavedEpisode) -> Cell:
    own = (SubmitFinalAnswer(), NotepadTool()) if has_notepad(saved) else (SubmitFinalAnswer(),)
    run: dict[str, Json] = {
        "seed": derive_seed(saved.episode.seed, "repl", 0),
        "silent": [NotepadTool.name],
        "tools": [msgspec.to_builtins(tool) for tool in (*tools_of(saved), *map(stub_of, own))],
        "calls": [
            {"name": call.name, "arguments": call.arguments, "result": call.result, "error": call.error}
            for step in saved.episode.steps
            for call in step.tool_calls
        ],
    }
    literal = repr(msgspec.json.encode(run).decode())
    return {
        "cell_type": "code",
        "id": "preamble",
        "metadata": {"lzero": {"preamble": True}, "jupyter": {"source_hidden": True}},
        "execution_count": None,
        "source": f"{_recorded_source()}\n\nglobals().update(_recorded({literal}))",
        "outputs": [],
    }


@cache
def _recorded_source() -> str:
    """Return a function of the record that returns the names of its session. It hides those that it needs itself."""
    files = resources.files("lzero")
    sources = [
        files.joinpath(name).read_text("utf-8") for name in ("repl/inside/stubs.py", "agent/in_session/recorded.py")
    ]
    return "def _recorded(text):\n" + textwrap.indent("\n\n".join((*sources, "return record(text)")), "    ")


def _title(saved: SavedEpisode) -> str:
    question = clean(saved.task.question).strip()
    first = " ".join(question.split("\n")[0].split())
    title = first if len(first) <= TITLE_CHARS else f"{first[:TITLE_CHARS]}…"
    how = f"{saved.episode.status.replace('_', ' ')} after {counted(len(saved.episode.steps), 'step')}"
    parts = [
        f"# {prose(title) or 'A task without words'}",
        f"*{prose(saved.model)} · {how} · lzero {prose(saved.lzero)}*",
    ]
    if question != title:
        parts.append(prose(question))
    return "\n\n".join(parts)


def _thought(step: Step, number: int) -> str:
    heading = f"**Step {number}**"
    if step.kind == "summarise":
        heading += " · a summary takes the place of the steps so far"
    parts = [heading + (" · earlier steps were dropped from view" if step.trimmed else "")]
    said = step.parsed.think
    if step.kind == "summarise" or (step.parsed.code is None and not said):
        said = step.completion.text
    return "\n\n".join(filter(None, (*parts, prose(said))))


def _after(step: Step, notepad: str) -> Iterator[str]:
    execution = step.execution
    if execution is not None and execution.status == "killed":
        yield f"*The session was killed: {prose(execution.reason)}. The next cell has a fresh one.*"
    if execution is not None and execution.status == "timed_out":
        yield f"*The cell was interrupted: {prose(execution.reason)}*"
    if step.parsed.problem:
        yield f"*{prose(step.parsed.problem)}*"
    if step.tool_calls:
        calls = "\n".join(f"<li>{_call(call)}</li>" for call in step.tool_calls)
        yield f"<details><summary>{counted(len(step.tool_calls), 'tool call')}</summary>\n<ol>\n{calls}\n</ol>\n</details>"
    if notepad:
        yield f"<details open><summary>notepad</summary>\n<pre>{_html(notepad)}</pre>\n</details>"


def _answer(episode: Episode) -> str:
    if episode.failure is not None:
        failure = episode.failure
        failed = f"Failed, by no fault of the agent: {failure.kind} at {prose(failure.where)}: {prose(failure.what)}"
        if episode.answer is None:
            return f"## No answer\n\n{failed}"
        return f"## Answer\n\n{prose(episode.answer)}\n\n*{failed}*"
    if episode.answer is None:
        return f"## No answer\n\nThe agent ended {episode.status.replace('_', ' ')}."
    return f"## Answer\n\n{prose(episode.answer)}"


def _call(call: ToolCall) -> str:
    arguments = msgspec.json.encode(call.arguments).decode()
    result = call.result if isinstance(call.result, str) else msgspec.json.encode(call.result).decode()
    said = f"→ {_html(cut(result, CALL_CHARS))}" if call.error is None else f"✗ {_html(cut(call.error, CALL_CHARS))}"
    return f"<code>{_html(call.name)}({_html(cut(arguments, CALL_CHARS))})</code> {said}"


def prose(text: str) -> str:
    """Return untrusted Markdown with HTML, entities and images as text, without control characters."""
    text = _ENTITIES.sub("&amp;", clean(text))
    return _TAGS.sub("&lt;", text).replace("![", "!\\[").strip()


def _html(text: str) -> str:
    """Return text for the inside of an HTML block in Markdown, which a blank line would end."""
    return html.escape(clean(text)).replace("\n", "<br>")
