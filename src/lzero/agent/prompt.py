"""The words around the model: its system prompt, the task's turn and the turns that return outputs.

A template is "brief" (no system prompt at all: the question and the budgets, for models that learned the format before),
"full" (NB-Agent's sections, `full.txt` beside this module), or a text file of the user's. A file is the system prompt; it may
hold the placeholders below in braces, and `{{` and `}}` for braces themselves.

    {tools}          the tools, each with its signature and purpose
    {max_steps}      steps an episode may take
    {max_tokens}     tokens that a step's prompt and reply may hold together
    {output_chars}   characters of a cell's output that are shown
    {cell_s}         seconds a cell may run
"""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from string import Formatter

from lzero.config import AgentConfig
from lzero.errors import ConfigError
from lzero.protocols import ToolSpec

_PLACEHOLDERS = ("tools", "max_steps", "max_tokens", "output_chars", "cell_s")


def system_prompt(agent: AgentConfig, tools: Sequence[ToolSpec]) -> str | None:
    """The system prompt of an episode; None for the "brief" template.

    Raises ConfigError for a template file that cannot be read or holds an unknown placeholder. A file is read once per process:
    editing it does not change a run that is under way.
    """
    if agent.prompt == "brief":
        return None
    return _load_template(agent.prompt).format(
        tools="\n".join("- " + tool.description.replace("\n", "\n  ") for tool in tools),
        max_steps=agent.max_steps,
        max_tokens=agent.max_tokens,
        output_chars=agent.output_chars,
        cell_s=f"{agent.cell_s:g}",
    )


def task_turn(agent: AgentConfig, question: str) -> str:
    """The first user turn: the question as the recipe asks it, and the whole budget."""
    asked = f"{agent.question_prefix}{question}{agent.question_suffix}"
    return f"{asked}\n{budget_line(agent.max_steps, agent.max_tokens)}"


def output_turn(text: str, *, steps_left: int, tokens_left: int) -> str:
    """The user turn that answers a reply: what its cell put out, and what is left."""
    return f"<output>\n{text}\n</output>\n{budget_line(steps_left, tokens_left)}"


def budget_line(steps: int, tokens: int) -> str:
    """`budget_line(1, 412)` is "[1 step and 412 tokens left]"."""
    return f"[{_count(steps, 'step')} and {_count(tokens, 'token')} left]"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@cache
def _load_template(name: str) -> str:
    if name == "full":
        return resources.files("lzero.agent").joinpath("full.txt").read_text(encoding="utf-8").strip()
    file = Path(name).expanduser()
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(
            f'agent.prompt = {name!r}: not "brief" or "full", and no file that can be read ({error.strerror})'
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"agent.prompt = {name!r}: the file is not UTF-8 text") from None
    _check_placeholders(text, name)
    return text


def _check_placeholders(text: str, name: str) -> None:
    """Bare known names only: no attribute, index, conversion or format specification."""
    known = ", ".join(f"{{{placeholder}}}" for placeholder in _PLACEHOLDERS)
    try:
        fields = list(Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}; write {{{{ and }}}} for braces that are no placeholder") from None
    for _, field, specification, conversion in fields:
        if field is not None and (field not in _PLACEHOLDERS or specification or conversion):
            raise ConfigError(
                f"{name}: unknown placeholder {{{field}}}; known are {known}. Write {{{{ and }}}} for braces themselves"
            )
