"""Write the text around the model: its system prompt, the task's turn, and the turns that return outputs.

System prompts are Jinja templates in `templates/`: `system.jinja`, and one for each ability, which extends it. A user's file may do the
same, or stand alone; `system.jinja` lists the variables.
"""

import traceback
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import jinja2
import jinja2.meta
from jinja2.sandbox import SandboxedEnvironment

from lzero.agent.frame import quoted
from lzero.agent.notepad import render_notepad
from lzero.config import AgentConfig
from lzero.errors import ConfigError
from lzero.paths import file_problem
from lzero.protocols import ToolSpec
from lzero.text import counted
from lzero.types import Notepad, Task

SUMMARY_STOP = "</summary>"
MAX_CHARS = 1_000_000
"""Maximum characters of a system prompt."""
BUILT_IN = ("brief", "full")
"""Values of `agent.prompt` that name no file."""
_STYLES: Mapping[str, tuple[str, str]] = {
    "": ("", ""),
    "direct": ("Give a direct answer to this question, without explanation.\n", ""),
    "short": ("", "\nAnswer with a word or a short phrase."),
    "report": (
        "",
        "\nAnswer with a report in Markdown: the findings first, then what they rest on, each with its source.",
    ),
}
SUMMARISE = (
    "[What you see is nearly full. All steps so far will be dropped, and your summary takes their place; the output of your last "
    "cell comes after it. Write it now, in "
    "<summary> and </summary>: what the task needs, what is settled and how you know, which variables and files hold what, what "
    "failed, what comes next.]"
)
_TRIMMED = "[earlier steps were dropped from view; variables and files of the session are still there]"


def system_prompt(
    agent: AgentConfig, tools: Sequence[ToolSpec], task: Task | None = None, *, libraries: Sequence[str] = ()
) -> str | None:
    """Return the system prompt of an episode; None for the "brief" one.

    Raises ConfigError for a template that cannot be read, is broken, or uses an unknown variable. A file is read once per process: editing
    it does not change a running run.
    """
    if agent.prompt == "brief":
        return None
    ability = task.ability if task is not None else ""
    try:
        pieces = _template(agent.prompt, ability).generate(
            tools=[quoted(tool.description) for tool in tools],
            libraries=list(libraries),
            files=[quoted(Path(file).name).replace("\n", " ") for file in task.files] if task is not None else [],
            memory=agent.memory,
            notepad=agent.notepad,
            max_steps=agent.max_steps,
            max_tokens=agent.max_tokens,
            output_chars=agent.output_chars,
            cell_s=f"{agent.cell_s:g}",
            work_s=f"{agent.work_s:g}",
        )
        return _bounded(pieces).strip()
    except ConfigError:
        raise
    except Exception as error:  # a template computes: it may divide by zero, or recurse without end
        raise ConfigError(f"agent.prompt = {agent.prompt!r}: {_told(error)}") from None


def file_prompt(agent: AgentConfig, task: Task) -> str | None:
    """Return the system prompt of an agent without a session: the template of the user's file, if `agent.prompt` names one. Raises as
    `system_prompt` does."""
    return None if agent.prompt in BUILT_IN else system_prompt(agent, (), task)


def task_turn(agent: AgentConfig, question: str) -> str:
    """Return the first user turn: the question in the wording of the recipe, and the whole budget."""
    return f"{worded(agent, question)}\n{budget_line(agent.max_steps, agent.max_tokens)}"


def output_turn(text: str, *, notepad: str, left: str) -> str:
    """Return the user turn that answers a reply: the output of its cell, the notepad, and what is left (`budget_line`)."""
    return "\n".join(filter(None, (_output(text), notepad, left)))


def trimmed_turn(agent: AgentConfig, question: str, *, summary: str, output: str, notepad: str, left: str) -> str:
    """Return the first user turn of a trimmed context: the task, what remains of the earlier steps, and the newest output."""
    parts = (
        worded(agent, question),
        _TRIMMED,
        f"<summary>\n{summary}\n</summary>" if summary else "",
        _output(output) if output else "",
        notepad,
        left,
    )
    return "\n".join(filter(None, parts))


def summary_of(text: str) -> str:
    """Return the summary in a reply to `SUMMARISE`, quoted for a turn: the text between the tags, or all of it if there are none."""
    before, opened, after = text.partition("<summary>")
    return quoted((after if opened else before).partition(SUMMARY_STOP)[0]).strip()


def budget_line(steps: int, tokens: int, seconds: int | None = None) -> str:
    """Return a line such as "[1 step and 412 tokens left]" for `budget_line(1, 412)`. `seconds`: for cells and tool calls, if shown."""
    line = f"[{counted(steps, 'step')} and {counted(tokens, 'token')} left"
    return f"{line}]" if seconds is None else f"{line}; {counted(seconds, 'second')} left for cells and tool calls]"


def shown_notepad(agent: AgentConfig, notepad: Notepad) -> str:
    """Return the notepad as a prompt shows it; "" for an empty one."""
    return render_notepad(notepad, max_chars=agent.notepad_chars)


def _bounded(pieces: Iterable[str]) -> str:
    """Render a template. Raises OverflowError for more than MAX_CHARS characters, because a template may loop without end."""
    text: list[str] = []
    size = 0
    for piece in pieces:
        text.append(piece)
        size += len(piece)
        if size > MAX_CHARS:
            raise OverflowError(f"it renders more than {MAX_CHARS:,} characters")
    return "".join(text)


def _told(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno}: {error}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    place = f"line {lines[-1]}: " if lines else ""
    kind = "" if isinstance(error, jinja2.TemplateError | OverflowError) else f"{type(error).__name__}: "
    return f"{place}{kind}{error}"


def worded(agent: AgentConfig, question: str) -> str:
    """Return the question in the wording of the recipe: with the request for a style of answer, prefix and suffix."""
    before, after = _STYLES[agent.answer_style]
    return f"{agent.question_prefix}{before}{quoted(question)}{after}{agent.question_suffix}"


def _output(text: str) -> str:
    return f"<output>\n{text}\n</output>"


@cache
def _template(name: str, ability: str) -> jinja2.Template:
    own = jinja2.PackageLoader("lzero.agent", "templates")
    if name == "full":
        return _environment(own).select_template([f"{ability}.jinja", "system.jinja"])
    file = Path(name).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f'agent.prompt = {name!r}: neither "brief" nor "full" nor a readable file ({file_problem(file) or error.strerror})'
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"agent.prompt = {name!r}: the file is not UTF-8 text") from None
    try:
        beside = jinja2.FileSystemLoader(file.parent)
        return _environment(jinja2.ChoiceLoader([own, beside])).from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"agent.prompt = {name!r}, line {error.lineno}: {error}") from None


def template_files(agent: AgentConfig) -> list[Path]:
    """Return the user's files of the system prompt: the one that `agent.prompt` names, and others in its directory that it extends or
    includes by name. Raises ConfigError for a file that cannot be used."""
    if agent.prompt in BUILT_IN:
        return []
    system_prompt(agent, ())
    first = Path(agent.prompt).expanduser()
    found = [first]
    for file in found:
        parsed = _environment(jinja2.BaseLoader()).parse(file.read_text(encoding="utf-8"))
        beside = [first.parent / name for name in jinja2.meta.find_referenced_templates(parsed) if name]
        found += [other for other in beside if other.is_file() and other not in found]
    return found


def _environment(loader: jinja2.BaseLoader) -> SandboxedEnvironment:
    """Return the environment of templates, in which an unknown name is an error."""
    return SandboxedEnvironment(loader=loader, undefined=jinja2.StrictUndefined, autoescape=False)
