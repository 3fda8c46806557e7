"""Prompt templates, and the text formats that models are trained on."""

from pathlib import Path

import pytest
from builders import make_task

from lzero.agent.broker import SubmitFinalAnswer
from lzero.agent.prompt import budget_line, output_turn, system_prompt, task_turn
from lzero.config import AgentConfig
from lzero.errors import ConfigError

TOOLS = (SubmitFinalAnswer(),)
LISTED = "- submit_final_answer(answer: str) -> str\n  Submits the answer and ends the task; the first call counts."


def test_a_brief_prompt_is_the_question_and_the_budget() -> None:
    agent = AgentConfig(max_tokens=640, question_prefix="Short: ", question_suffix=" One word.")
    assert system_prompt(agent, TOOLS) is None
    assert task_turn(agent, "Who?") == "Short: Who? One word.\n[6 steps and 640 tokens left]"


def test_an_output_turn_ends_with_what_is_left() -> None:
    text = output_turn("Kato", notepad="", left=budget_line(2, 412))
    assert text == "<output>\nKato\n</output>\n[2 steps and 412 tokens left]"
    assert budget_line(1, 1) == "[1 step and 1 token left]"
    assert budget_line(1, 1, 9) == "[1 step and 1 token left; 9 seconds left for cells and tool calls]"


def test_the_full_prompt_holds_the_tools_and_the_budgets() -> None:
    text = system_prompt(AgentConfig(prompt="full", max_steps=7, max_tokens=16384, cell_s=2.5, work_s=95), TOOLS)
    assert text is not None
    assert LISTED in text
    assert "You have 7 steps and 16384 tokens" in text
    assert "2.5 seconds; all cells together, with the tools that they call, 95." in text
    assert "{" not in text


def test_a_file_is_a_jinja_template(tmp_path: Path) -> None:
    file = tmp_path / "prompt.jinja"
    file.write_text(
        "Use {braces} and:{% for tool in tools %}\n- {{ tool | indent(2) }}{% endfor %}\nin {{ max_steps }} steps.\n"
    )
    text = system_prompt(AgentConfig(prompt=str(file), max_steps=3), TOOLS)
    assert text == f"Use {{braces}} and:\n{LISTED}\nin 3 steps."


def test_a_file_may_extend_ours_and_replace_a_block(tmp_path: Path) -> None:
    file = tmp_path / "prompt.jinja"
    file.write_text('{% extends "system.jinja" %}{% block rules %}- Be brief.{% endblock %}')
    text = system_prompt(AgentConfig(prompt=str(file)), TOOLS)
    assert text is not None
    assert text.endswith("# Rules\n- Be brief.")
    assert LISTED in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ tool }}", "'tool' is undefined"),
        ("{{ tools.nothing }}", "no attribute 'nothing'"),
        ("{{ tools.__class__.__mro__ }}", "unsafe"),
        ("{% for tool in tools %}", "line 1"),
        ("{% include 'none.jinja' %}", "none.jinja"),
    ],
)
def test_a_broken_template_is_a_configuration_error(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "prompt.jinja"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason):
        system_prompt(AgentConfig(prompt=str(file)), TOOLS)


@pytest.mark.parametrize("ability", ["qa", "math", "data", "search", "files", "something else"])
@pytest.mark.parametrize("memory", ["none", "soft", "hard"])
@pytest.mark.parametrize("notepad", [True, False])
def test_the_full_prompt_fits_the_task_and_what_the_agent_has(ability: str, memory: str, notepad: bool) -> None:
    task = make_task(ability=ability, files=("/data/table.csv",))
    agent = AgentConfig.model_validate({"prompt": "full", "memory": memory, "notepad": notepad})
    text = system_prompt(agent, TOOLS, task, libraries=("numpy", "pandas"))
    assert text is not None
    assert ("# The kind of task" in text) == (ability != "something else")
    assert ("notepad.add_todo" in text) == notepad
    assert ("nearly full you are asked for a summary" in text) == (memory == "soft")
    assert ("earlier steps are dropped" in text) == (memory == "hard")
    assert "The standard library, numpy and pandas can be imported." in text
    assert "In the working directory: table.csv." in text
    assert "\n\n\n" not in text


def test_an_answer_style_asks_for_the_answer_it_wants() -> None:
    assert "word or a short phrase" in task_turn(AgentConfig(answer_style="short"), "Who?")
    assert task_turn(AgentConfig(answer_style="direct"), "Who?").startswith("Give a direct answer")
    assert "report" in task_turn(AgentConfig(answer_style="report"), "Who?")


def test_a_template_that_cannot_be_read_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='neither "brief" nor "full" nor a readable file'):
        system_prompt(AgentConfig(prompt=str(tmp_path / "none.txt")), TOOLS)
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        system_prompt(AgentConfig(prompt=str(tmp_path / "latin.txt")), TOOLS)
