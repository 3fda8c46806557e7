"""Prompt templates, and the text formats that models are trained on."""

from pathlib import Path

import pytest

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
    text = output_turn("Kato", steps_left=2, tokens_left=412)
    assert text == "<output>\nKato\n</output>\n[2 steps and 412 tokens left]"
    assert budget_line(1, 1) == "[1 step and 1 token left]"


def test_the_full_prompt_holds_the_tools_and_the_budgets() -> None:
    text = system_prompt(AgentConfig(prompt="full", max_steps=7, max_tokens=16384, cell_s=2.5), TOOLS)
    assert text is not None
    assert LISTED in text
    assert "You have 7 steps and 16384 tokens" in text
    assert "2.5 seconds" in text
    assert "{" not in text


def test_a_file_is_a_template_with_placeholders(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Use {{braces}} and:\n{tools}\nin {max_steps} steps.\n", encoding="utf-8")
    text = system_prompt(AgentConfig(prompt=str(file), max_steps=3), TOOLS)
    assert text == f"Use {{braces}} and:\n{LISTED}\nin 3 steps."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{tool}", "unknown placeholder {tool}"),
        ("{tools.__class__}", "unknown placeholder"),
        ("{max_steps:>4}", "unknown placeholder"),
        ("{max_steps!r}", "unknown placeholder"),
        ("{}", "unknown placeholder"),
        ("{'a': 1}", "unknown placeholder"),
        ("{ open", "write {{ and }}"),
    ],
)
def test_an_unknown_placeholder_is_a_configuration_error(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason):
        system_prompt(AgentConfig(prompt=str(file)), TOOLS)


def test_a_template_that_cannot_be_read_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='not "brief" or "full", and no file'):
        system_prompt(AgentConfig(prompt=str(tmp_path / "none.txt")), TOOLS)
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        system_prompt(AgentConfig(prompt=str(tmp_path / "latin.txt")), TOOLS)
