"""The parser: exact about the format reward, kind about what runs."""

import re
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzero.agent.blocks import find_blocks, unfenced
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
    "~~~py\n",
    "\n```\n",
    "\n   ````\n",
    "'''",
    "`<code>`",
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
    "text",
    [
        "First idea:\n```python\nanswer('draft')\n```\nThat is wrong.\n</think>\n```python\nanswer('right')\n```",
        "<code>answer('draft')</code> would do.\n</think>\n<code>\nanswer('right')\n</code>",
        "One. </think> <code>answer('draft')</code> </think> <code>answer('right')</code>",
        "```python\nanswer('draft')\n</think>\nNow:\n```python\nanswer('right')\n```",
        "```python\nanswer('draft')\n</think>\n<code>answer('right')</code>",
        "It goes in <code> tags.\n</think>\n<code>\nanswer('right')\n</code>",
        "<think>A thought ends with </think> and then comes <code>x</code>.</think>\n<code>answer('right')</code>",
        "<think>A thought ends with `</think>`; then `<code>`.</think>\n<code>answer('right')</code>",
        "<think>One.</think><think><code>answer('draft')</code></think><code>answer('right')</code>",
        "<thinking>Or <code>answer('draft')</code>?</thinking>\n<code>answer('right')</code>",
    ],
)
def test_a_draft_in_a_thought_never_runs(text: str) -> None:
    parsed = parse(text)
    assert (parsed.code, parsed.well_formed) == ("answer('right')", False)
    assert parsed.think


def test_a_reply_that_was_cut_off_in_its_thought_runs_nothing() -> None:
    for draft in ("```python\nprint(1)\n```", "<code>print(1)</code>"):
        text = f"<think>Perhaps\n{draft}\nor"
        assert parse(text).code == "print(1)"
        assert parse(text, cut_off=True).code is None
        assert "<think> is not closed" in parse(text, cut_off=True).problem
        assert parse("", reasoning=f"Perhaps {draft} or", cut_off=True).code is None
    assert parse("The end of a thought.</think>").problem == "nothing ran: there is no <code> block"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("- one\n  - two\n\n    ```python\n    for x in y:\n        x\n    ```\n", "for x in y:\n    x"),
        ("1. ```python\n   x\n   ```", "x"),
        ("Look:\n~~~py\nx\n~~~", "x"),
        ("`````python\ns = '```'\n````\n`````", "s = '```'\n````"),
        ("```python\nprint(1)\n", "print(1)"),
        ("```python\nprint(1)\n</code>", "print(1)"),
        ("```python\nprint(1)\n```</code>", "print(1)"),
        ("```python\nt = '''# A\n```\nb\n```\n'''\nt\n```\nDone.", "t = '''# A\n```\nb\n```\n'''\nt"),
        ("```python\nt = '''never closed\n```\nIt's done.", "t = '''never closed"),
        ("```xml\n<think>So.</think>\n<code>\nx\n</code>\n```", "x"),
        ("```python\n<code>\nx\n</code>\n```", "x"),
        ("```\n<think>So.</think>\n```\n<code>x</code>", "x"),
        ("```text\nAs in:\n<code>no</code>\n```\n<code>x</code>", "x"),
        ("```text\nnever closed\n<code>x</code>", "x"),
        ("````markdown\n```python\nno\n```\n````\n```py\nx\n```", "x"),
        ("All goes into a <code> block, like this:\n<code>\nx\n</code>", "x"),
        ("The tag is <code>\nand this is it:\n\n<code>\nx\n</code>", "x"),
        ("`<code>` and `</code>` stand around it: <code>x</code>", "x"),
        ("Here is a <code> block:\n```python\nx\n```", "x"),
        ("<code>\nhtml = '<code>a'\nprint(html)\n</code>", "html = '<code>a'\nprint(html)"),
        ("<code>\n```python\nx\n</code>", "x"),
        ("<code>\nx\n```\n</code>", "x"),
        ("<code>\nHere it is:\n```py\nx\n```\nIt's short.\n</code>", "x"),
        ("<code>```\nx```</code>", "x"),
        ("<code>\ns = '''\n```python\nno\n```\n'''\n</code>", "s = '''\n```python\nno\n```\n'''"),
        ("```python-console\nx\n```", None),
        ("```pytb\nx\n```", None),
        ("```markdown\n```python\nx\n```", None),
    ],
)
def test_code_is_found_as_models_write_it(text: str, code: str | None) -> None:
    assert parse(text).code == code


def test_a_fence_that_was_cut_off_does_not_run() -> None:
    parsed = parse("Sure.\n```python\nprint(1", cut_off=True)
    assert (parsed.code, parsed.problem[:36]) == (None, "nothing ran: the fence is not closed")
    assert parse("```py\na()\n```\n~~~py\nb()\n~~~").problem == "only the first of 2 code blocks ran"


def test_the_time_that_a_reply_takes_is_linear_in_its_length() -> None:
    """A reading that is quadratic takes many seconds at this length."""
    pieces = [
        "<code>",
        "<code> x",
        "</think>",
        "<code></think>",
        "```python\n",
        "```a\n",
        "~~~\n```\n",
        "```\n</think>\n````x\n",
    ]
    pieces += [
        "```python\n'''\n",
        "```python\n\\'''\n```\n",
        "```python\n<code>\n",
        '```python\n# """\n"""\n```\n',
        "<code>x</think>",
        "<code>\n</think>\n```x\n",
        "`",
        " ",
        "```<",
    ]
    for piece in pieces:
        start = time.thread_time()
        parse(piece * 10_000)
        assert time.thread_time() - start < 3.0, piece


def test_fences_in_a_block_that_do_not_run_are_named() -> None:
    two = "```python\na()\n```\nand\n```python\nb()\n```"
    parsed = parse(f"<code>\n{two}\n</code>")
    assert (parsed.code, parsed.problem) == ("a()", "only the first of 2 code blocks ran")
    assert parse(f"<code>\nprint('''\n{two}\n''')\n</code>").problem == ""
    assert parse("<code>\n```python\na()\n```\n</code>").problem == ""


def test_the_memory_that_a_reply_takes_is_linear_in_its_length() -> None:
    """Copies of what follows each <code> are a quarter of a gigabyte."""
    text = "prose <code> x " * 6_000
    tracemalloc.start()
    try:
        assert parse(text).code == text.partition("<code>")[2].rstrip()
        assert tracemalloc.get_traced_memory()[1] < 100 * len(text)
    finally:
        tracemalloc.stop()


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
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    assert parsed.problem or parsed.code is not None
    assert parsed.think in text
    if parsed.code is not None:
        assert parsed.code
        if not re.search(r"^[ \t]+[`~]{3}", text, re.MULTILINE):  # the indentation of a fence is taken off its lines
            assert parsed.code in text
    if parsed.well_formed:
        assert parsed.code is not None
        assert text.strip().startswith("<think>")
        assert text.strip().endswith("</code>")


@given(*[st.lists(st.sampled_from([*PIECES, "<thinking>", "</thinking>"]), max_size=4).map("".join)] * 3)
def test_a_reply_of_one_thought_and_one_block_is_read_like_any_other(think: str, between: str, code: str) -> None:
    text = f"<think>{think}</think>{between}<code>{code}</code>".replace("\r", "\n")
    parsed, found = parse(text), find_blocks(text)
    assert parsed.think == found.thought.strip()
    if parsed.code is not None:
        first = next((block for block in found.blocks if block.tagged), found.blocks[0])
        assert parsed.code.strip() == (unfenced(first.text) if first.tagged else first.text).strip()


CODE_LINES = ["x = 1", "if x:", "    print('a')", "", "y = '''a\n```\n'''", "# it's", 's = "```"', "é = '北'"]


@given(
    code=st.lists(st.sampled_from(CODE_LINES), min_size=1).map("\n".join),
    fence=st.sampled_from(["```", "````", "~~~", "~~~~~"]),
    language=st.sampled_from(["python", "Python3", " py", "ipython", "{python, echo=FALSE}", 'python title="a<b"']),
    indent=st.sampled_from(["", "  ", "\t", "        "]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    around=st.sampled_from([("Sure.\n", "\nDone."), ("", ""), ("<think>Long enough.</think>", "\n</code>")]),
)
def test_code_in_a_fence_runs_however_it_is_fenced(
    code: str, fence: str, language: str, indent: str, end: str, around: tuple[str, str]
) -> None:
    lines = f"{fence}{language}\n{code}\n{fence}".split("\n")
    fenced = around[0] + ("\n" if indent else "") + "\n".join(indent + line for line in lines) + around[1]
    assert parse(fenced.replace("\n", end)).code == (code.rstrip().lstrip("\n") or None)


@given(before=st.lists(st.sampled_from(PIECES)).map("".join), after=st.text())
def test_nothing_before_a_closing_think_tag_runs(before: str, after: str) -> None:
    before = before.replace("<think>", "").replace("x = 1", "draft()").replace("print(search('Liri'))", "draft()")
    code = parse(f"{before}\n</think>\n<code>\nright()\n</code>{after}").code
    assert code is None or "draft" not in code


@given(think=st.text(min_size=11), code=st.text(min_size=6))
def test_a_long_enough_thought_and_code_without_tags_are_well_formed(think: str, code: str) -> None:
    if any(mark in think + code for mark in "<`\r") or len(think.strip()) <= 10 or len(code.strip()) <= 5:
        return
    parsed = parse(f"<think>{think}</think>\n<code>{code}</code>")
    assert parsed.well_formed
    assert parsed.think == think.strip()
