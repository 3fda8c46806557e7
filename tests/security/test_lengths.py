"""Nothing that the host does with a text of an agent, a tool or a model takes more than a time linear in its length."""

import random
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pydantic
import pytest
from builders import make_execution, make_record
from cases import attack

from lzero.agent.context import Context
from lzero.agent.notebook import prose
from lzero.agent.outputs import render_output, rendered
from lzero.agent.parser import parse
from lzero.agent.renderer import Renderer
from lzero.config import AgentConfig
from lzero.engine.chat.reply import StopCut, cut_off_stop
from lzero.engine.local.stops import Ending
from lzero.errors import ToolError
from lzero.models import build_tokenizer
from lzero.repl import wire
from lzero.repl.remote import wire as remote_wire
from lzero.rewards.answers import contains, exact_match, f1
from lzero.store.finished import FinishedGroup
from lzero.store.record import encode_with
from lzero.store.schemas import SCHEMAS
from lzero.store.tables import to_table
from lzero.text import fold, one_line, unbroken, words
from lzero.tools import read_page, tool
from lzero.tools.corpus import split
from lzero.tools.function import MAX_VALUES
from lzero.tools.mcp_servers.words import identifier, signature
from lzero.tools.search import PassageIndex
from lzero.tools.shapes import plain
from lzero.tools.values import as_json
from lzero.types import Display, Error, Json, Passage, Stream
from lzero.visible import clean

SIGNS = "a A 1 . , - + ( ) [ ] { ' ` ~ $ € % ° ^ * / = < > _ # | & ; : !"
LETTERS = "² ⁻ ½ ₂ π ∞ ± é e\u0301 \u0301\u0323 北 ก 한 ﬃ ﷺ İ ٣ … \U0001d165\u0334"
MARKS = "``` ''' <code> </code> <think> </think> <code>x</think> <| |---| ![ &amp http:// @"
FORMULAS = "x+ x- x^2+ a- A+ -( (- 1e9 1,000, 1/2 10^ $5 0x 1: 1_ pi inf sqrt( decimal( fraction("
PIECES = (
    *SIGNS.split(),
    *LETTERS.split(),
    *MARKS.split(),
    *FORMULAS.split(),
    *(" ", "\n", "\t", "\\", "\r", "\x00", "\x1b", "\x1b[", "\x1b]", "\u202e", "\u200b", "\ud800", "\n\n", '"', '"""'),
    *(
        "```\n",
        "```python\n",
        "~~~\n",
        "~~~\n```\n",
        "```python\n'''\n",
        '```python\n# """\n"""\n```\n',
        "<code>\n",
        "\n</code>\n",
    ),
    *("and ", "the ", "minus ", "1 000 ", "1 1/2 ", "5 km/", "5 ms", "+ ", "- x ", "\\frac{"),
    *("# ", "1. ", "<a ", 'File "', "Traceback\n", "… [1 characters] …"),
)
"""Pieces of hostile texts, each repeated many times."""
SAMPLE = random.Random(100).sample(PIECES, 8)
TOKENIZER = build_tokenizer()
RENDERER = Renderer(TOKENIZER)
INDEX = PassageIndex([Passage(title="x", text="y z")])
LINEAR, ENOUGH_S, LONGEST = 10.0, 0.004, 1 << 15
"""Four times the length takes four times as long, not sixteen. Shorter times than ENOUGH_S say little."""


def in_pieces(text: str) -> object:
    cut = StopCut(["</code>", "</x>"])
    return [cut.feed(text[start : start + 8]) for start in range(0, len(text), 8)]


def shown(text: str) -> str:
    outputs = (
        Stream(name="stdout", text=text),
        Display(data={"text/plain": text}),
        Error(ename="E", evalue=text, traceback=tuple(text.split("\n"))),
    )
    return render_output(make_execution(*outputs), max_chars=4_000)


def schema(text: str) -> dict[str, object]:
    """Return the schema of a tool with many parameters, each described by the text's beginning."""
    names = [f"{text[:40]}{number}" for number in range(len(text) // 8)]
    return {"properties": {name: {"description": name} for name in names}, "required": names[::-1]}


READINGS: dict[str, Callable[[str], object]] = {
    "fold": fold,
    "words": words,
    "one_line": one_line,
    "plain": plain,
    "identifier": lambda text: identifier(text, "x"),
    "parse": parse,
    "parse what is cut off": lambda text: parse(text, cut_off=True),
    "parse a thought": lambda text: parse("", reasoning=f"<code>{text}"),
    "clean": clean,
    "unbroken": unbroken,
    "render an output": shown,
    "prose": prose,
    "match by value": lambda text: exact_match(text, ["5 km"]),
    "match by digits": lambda text: exact_match(text, ["5 km"], numbers="text"),
    "match in ASCII": lambda text: exact_match(text, ["5 km"], match="ascii"),
    "overlap": lambda text: f1(text, [text]),
    "find a gold answer": lambda text: contains(text, [f"{text[: len(text) // 2]} b"]),
    "find a stop string": in_pieces,
    "find what was cut off": lambda text: cut_off_stop(text, ["</code>"]),
    "convert": lambda text: as_json({text: [text]}, tool="x"),
    "encode": lambda text: RENDERER.turn(None, unbroken(text)),
    "split a document": lambda text: [*split(text, "x", headings=True)],
    "describe a tool": lambda text: signature(schema(text), schema(text)),
    "search": lambda text: INDEX.search(text, limit=1),
}


def seconds(reading: Callable[[str], object], text: str) -> float:
    start = time.thread_time()
    reading(text)
    return time.thread_time() - start


def growth(reading: Callable[[str], object], piece: str) -> float:
    """Return the factor by which the time grows for four times the length."""
    length = 1_000
    while True:
        text = piece * (length // len(piece) + 1)
        taken = seconds(reading, text)
        if taken > ENOUGH_S or length >= LONGEST:
            return seconds(reading, text * 4) / max(taken, ENOUGH_S)
        length *= 2


def check(reading: Callable[[str], object], pieces: Sequence[str]) -> None:
    """Fail if the time is not linear. Each has three tries, because another program may have had the caches."""
    slow = [piece for piece in pieces if all(growth(reading, piece) > LINEAR for _ in range(3))]
    assert not slow


@attack(100)
@pytest.mark.parametrize("name", READINGS)
def test_reading_a_text_takes_time_linear_in_its_length(name: str) -> None:
    check(READINGS[name], SAMPLE)


@pytest.mark.slow
@pytest.mark.timeout(900)
@attack(100)
@pytest.mark.parametrize("name", READINGS)
def test_reading_any_text_takes_time_linear_in_its_length(name: str) -> None:
    mixed = ["".join(random.Random(number).choices(PIECES, k=3)) for number in range(40)]
    check(READINGS[name], [*PIECES, *mixed])


@attack(100)
def test_schemas_that_refer_to_each_other_are_described_within_bounds() -> None:
    """Each definition stands for eight of the next, with a constant of a megabyte at the end."""
    start = time.thread_time()
    ends = {"enum": [list(range(200_000))] * 24}
    middle = {
        "anyOf": [{"type": "object", "properties": {f"x{number}": {"$ref": "#/$defs/End"} for number in range(64)}}] * 8
    }
    fields = {f"x{number}": {"$ref": "#/$defs/Middle"} for number in range(64)}
    described = signature({"properties": fields, "$defs": {"Middle": middle, "End": ends}}, None)
    assert len(described.text) <= 1_000
    assert time.thread_time() - start < 10.0  # thousands of seconds without bounds


@attack(107)
async def test_the_longest_output_is_rendered_beside_the_event_loop() -> None:
    execution = make_execution(Stream(name="stdout", text="\u0628\u200d\u0628" * 180_000))
    start = time.thread_time()
    text = await rendered(execution, max_chars=400)
    assert time.thread_time() - start < 0.1  # half a second on the loop
    assert text == render_output(execution, max_chars=400)
    assert "[540000 characters, the middle is cut]" in text


@attack(107)
def test_no_record_of_any_length_keeps_other_threads_waiting() -> None:
    """Neither the texts of an update's records, nor a page that is read in a thread: no single call of a library takes more of them."""
    texts = ["x" * length for length in (1, 3_000_000, 1, 2, 3_000_000, 3)]
    empty = dict.fromkeys(SCHEMAS["skipped"].names)
    column = to_table("skipped", [empty | {"reason": text} for text in texts])["reason"]
    assert column.to_pylist() == texts
    assert [len(part) for part in column.chunks] == [2, 3, 1]
    record = make_record("Kato", None)
    group = FinishedGroup(index=3, record=record)
    assert encode_with(record, group) == msgspec.json.encode(group)
    assert max(len(found[0]) for found in read_page._TAG.finditer("<" * 10_000)) == 1_000


class Item(pydantic.BaseModel):
    number: int


@tool
def count(items: list[Item], others: list[int | Item | datetime | Decimal] = []) -> int:  # noqa: B006
    """Count the items."""
    return len(items) + len(others)


@attack(102)
@pytest.mark.parametrize("name", ["items", "others"])
@pytest.mark.parametrize("item", [{"number": 1}, {"number": ""}, {}, 0, "", []], ids=repr)
async def test_arguments_of_many_values_hold_up_nobody(item: Json, name: str) -> None:
    """Right and wrong ones: what is wrong is described for the first only."""
    context: Any = None
    with pytest.raises(ToolError, match="at most 10,000 values"):
        await count.call({"items": [], name: [item] * (MAX_VALUES + 1)}, context)
    start = time.thread_time()
    try:
        answer = await count.call({"items": [], name: [item] * (MAX_VALUES // 2 - 2)}, context)
    except ToolError as error:
        assert re.search(r"and [0-9]+ more\. It is called as", str(error)) is not None  # noqa: PT017
    else:
        assert answer == MAX_VALUES // 2 - 2
    assert time.thread_time() - start < 1.0  # several seconds for the most that fit into a call


@attack(102)
@pytest.mark.parametrize("value", [b"{}", b"0", b'""'])
def test_arguments_of_a_hundred_thousand_values_are_not_decoded(value: bytes) -> None:
    arguments = b'{"items":[' + b",".join([value] * 100_000) + b"]}"
    with pytest.raises(ToolError, match="more than 50,000 values") as local:
        wire.arguments_of(wire.Call(id=1, name="count", arguments=msgspec.Raw(arguments)))
    with pytest.raises(ToolError, match="more than 50,000 values") as remote:
        remote_wire.arguments_of(remote_wire.Call(id=1, name="count", arguments=arguments))
    assert local.value.fault == remote.value.fault == "agent"
    text = b'{"text":"' + b"a," * 400_000 + b'"}'
    assert len(wire.arguments_of(wire.Call(id=1, name="count", arguments=msgspec.Raw(text)))) == 1


@attack(102)
async def test_a_wrong_value_behind_many_others_is_told() -> None:
    context: Any = None
    right: Json = {"number": 1}
    wrong: Json = {}
    items = [*[right] * 200, *[wrong] * 200]
    with pytest.raises(ToolError, match=r"^count: 200 values do not fit\. It is called as"):
        await count.call({"items": items}, context)


class Counting:
    """A conversation that counts the characters whose tokens it was asked for; the middle of a text takes few."""

    num_tokens = 0
    opening = ""
    asked = 0

    def start(self, system: str | None, user: str) -> None: ...

    def say(self, text: str) -> None: ...

    def count_tokens(self, text: str) -> int:
        self.asked += len(text)
        return len(text) - text.count(" ")


@attack(100)
def test_what_fits_into_a_context_is_found_in_time_linear_in_its_length() -> None:
    """Head and tail hold all tokens, and their share is nearly what fits."""
    conversation = Counting()
    context = Context(AgentConfig(), conversation, system=None, question="?")  # type: ignore[arg-type] # nobody replies
    conversation.asked = 0
    text = "x" * 501 + " " * 100_000 + "x" * 500
    assert context._fit(text, 1_000)
    assert conversation.asked < 20 * len(text)


class Decoding(Ending):
    decoded = 0

    def _decode(self, ids: Sequence[int]) -> str:
        self.decoded += len(ids)
        return super()._decode(ids)


@attack(100)
def test_stop_strings_are_looked_for_in_time_linear_in_the_length_of_a_completion() -> None:
    """And found where the whole text has them."""
    ending = Decoding(TOKENIZER, len(TOKENIZER), [])
    stop = ("</code>",)
    ids = np.array(TOKENIZER.encode("<code> é > x</code > " * 50 + "</code>", add_special_tokens=False))
    for end in range(1, len(ids) + 1):
        before = ending.decoded
        assert ending.has_stopped(ids[:end], stop) == ("</code>" in TOKENIZER.decode(ids[:end]))
        assert ending.decoded - before < 200
