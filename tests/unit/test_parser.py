"""The parser: exact about the format reward, kind about what runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzero.agent.parser import parse

THINK = "<think>I need the rival of Liri.</think>"
CODE = '<code>\nprint(search("Liri"))\n</code>'
PIECES = [
    "<think>",
    "</think>",
    "<code>",
    "</code>",
    "```python\n",
    "```",
    "\n",
    " ",
    "x = 1",
    "print(search('Liri'))",
    "é北",
    "\r",
]


def test_a_reply_in_the_format_is_well_formed() -> None:
    parsed = parse(f"{THINK}\n{CODE}")
    assert (parsed.think, parsed.code) == ("I need the rival of Liri.", 'print(search("Liri"))')
    assert parsed.well_formed
    assert parsed.problem == ""


def test_whitespace_around_the_blocks_does_not_matter() -> None:
    assert parse(f"\n {THINK}\n\n{CODE}\n").well_formed


@pytest.mark.parametrize(
    "text",
    [
        f"Well. {THINK}\n{CODE}",
        f"{THINK} so: {CODE}",
        f"{THINK}\n{CODE} done",
        f"{THINK}{THINK}{CODE}",
        f"{THINK}{CODE}{CODE}",
        f"{CODE}{THINK}",
        CODE,
        f"<think>1234567890</think>{CODE}",
        f"<think>          {' ' * 10}</think>{CODE}",
        f"<think>I need the rival of Liri.{CODE}",
    ],
    ids=[
        "before",
        "between",
        "after",
        "two thoughts",
        "two codes",
        "order",
        "no thought",
        "short",
        "blank",
        "unclosed",
    ],
)
def test_what_departs_from_the_format_still_runs(text: str) -> None:
    parsed = parse(text)
    assert parsed.code == 'print(search("Liri"))'
    assert not parsed.well_formed


def test_code_of_five_characters_runs_and_is_not_well_formed() -> None:
    assert not parse(f"{THINK}<code>x = 1</code>").well_formed
    assert parse(f"{THINK}<code>x = 12</code>").well_formed


def test_a_fence_inside_the_code_block_is_taken_off() -> None:
    parsed = parse(f"{THINK}\n<code>\n```python\nfor x in y:\n    print(x)\n```\n</code>")
    assert parsed.code == "for x in y:\n    print(x)"
    assert parsed.well_formed


def test_the_first_block_runs_and_the_agent_is_told() -> None:
    parsed = parse(f"{THINK}<code>first()</code><code>second()</code>")
    assert (parsed.code, parsed.problem) == ("first()", "only the first of 2 code blocks ran")


def test_a_fence_runs_where_there_is_no_code_block() -> None:
    parsed = parse(f"{THINK}\nI run this:\n```python\nprint(1)\n```\nDone.")
    assert (parsed.code, parsed.problem, parsed.well_formed) == ("print(1)\n".strip(), "", False)
    assert parse(f"{THINK}\n```python\nno()\n```\n<code>yes()</code>").code == "yes()"


def test_a_block_that_is_not_closed_runs_unless_the_reply_was_cut_off() -> None:
    parsed = parse(f"{THINK}\n<code>\nprint(1)")
    assert (parsed.code, parsed.well_formed) == ("print(1)", False)
    parsed = parse(f"{THINK}\n<code>\nprint(1", cut_off=True)
    assert parsed.code is None
    assert parsed.problem == "nothing ran: <code> is not closed by </code>, the reply is longer than a reply may be"


def test_a_thought_that_the_endpoint_tells_apart_is_the_thought() -> None:
    parsed = parse("<code>print(1)</code>", reasoning=" I look. ")
    assert (parsed.think, parsed.code, parsed.well_formed) == ("I look.", "print(1)", False)
    parsed = parse("", reasoning=f"{THINK}\n{CODE}")
    assert (parsed.think, parsed.code) == ("I need the rival of Liri.", 'print(search("Liri"))')


def test_code_tags_inside_a_closed_thought_are_thought() -> None:
    parsed = parse("<think>I will write <code>x</code> next.</think><code>print(2)</code>")
    assert parsed.code == "print(2)"
    assert not parsed.well_formed


def test_think_tags_inside_a_code_block_are_code() -> None:
    parsed = parse('<code>\nprint("<think>a</think>b")\n</code>')
    assert (parsed.think, parsed.code) == ("", 'print("<think>a</think>b")')
    parsed = parse("<code>print(1)</code> <think>Done.</think> <code>print(2)</code>")
    assert (parsed.think, parsed.code) == ("Done.", "print(1)")


@pytest.mark.parametrize(
    "text", ["<code>0<think></think>0", "```python\n0<think></think>0\n```", "<co<think></think>de>0</code>"]
)
def test_what_a_thought_stands_between_is_not_put_together(text: str) -> None:
    assert parse(text).code in (None, "0<think></think>0")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("The answer is Kato.", "nothing ran: there is no <code> block"),
        (f"{THINK}\n```\nprint(1)\n```", "nothing ran: there is no <code> block"),
        (f"{THINK}\n```json\n{{}}\n```", "nothing ran: there is no <code> block"),
        (f"{THINK}<code> \n </code>", "nothing ran: the <code> block is empty"),
        (f"{THINK}<code>```python\n\n```</code>", "nothing ran: the <code> block is empty"),
        ("", "nothing ran: there is no <code> block"),
    ],
)
def test_the_agent_is_told_why_nothing_ran(text: str, problem: str) -> None:
    parsed = parse(text)
    assert parsed.code is None
    assert parsed.problem == problem
    assert not parsed.well_formed


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_any_text_parses_to_a_part_of_itself_or_to_a_problem(text: str) -> None:
    parsed = parse(text)
    assert parsed.problem or parsed.code is not None
    assert parsed.think in text
    if parsed.code is not None:
        assert parsed.code
        assert parsed.code in text
    if parsed.well_formed:
        assert parsed.code is not None
        assert text.strip().startswith("<think>")
        assert text.strip().endswith("</code>")


@given(think=st.text(min_size=11), code=st.text(min_size=6))
def test_a_long_enough_thought_and_code_without_tags_are_well_formed(think: str, code: str) -> None:
    if any(mark in think + code for mark in "<`") or len(think.strip()) <= 10 or len(code.strip()) <= 5:
        return
    parsed = parse(f"<think>{think}</think>\n<code>{code}</code>")
    assert parsed.well_formed
    assert parsed.think == think.strip()
