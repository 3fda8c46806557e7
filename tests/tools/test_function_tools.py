"""A typed function as a tool: what a model reads of it, which arguments fit, whose fault what does not fit is."""

import functools
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum, StrEnum
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from builders import CONTEXT
from pydantic import BaseModel, Field

from lzero.errors import ToolError
from lzero.protocols import Tool, ToolContext
from lzero.tools import FunctionTool, tool
from lzero.types import Json


@tool
def add(a: int, b: int = 1) -> int:
    """The sum of two numbers.

    Both are whole.
    """
    return a + b


class Place(BaseModel):
    name: str
    year: int | None = None


class Colour(StrEnum):
    RED = "red"


@tool
async def describe(
    place: Place,
    *,
    style: Literal["short", "long"] = "short",
    tags: list[str] | None = None,
    context: ToolContext,
) -> dict[str, Json]:
    """Describe a place."""
    return {"name": place.name, "style": style, "tags": list(tags or ()), "task": context.task.id}


@tool(name="echo")
def _echo(value: Any = None, text: str = "", ratio: float = 0.5, flag: bool = False) -> Any:
    """Give back."""
    return [value, text, ratio, flag]


async def call(tool: Tool, /, **arguments: Json) -> Json:
    return await tool.call(arguments, CONTEXT)


async def message(tool: Tool, /, **arguments: Json) -> str:
    with pytest.raises(ToolError) as raised:
        await call(tool, **arguments)
    assert raised.value.fault == "agent"
    return str(raised.value)


def test_the_description_is_the_signature_and_the_docstring() -> None:
    assert add.name == "add"
    assert add.parameters == ("a", "b")
    assert add.description == "add(a: int, b: int = 1) -> int\nThe sum of two numbers.\n\nBoth are whole."
    assert describe.description.startswith(
        "describe(place: Place, style: Literal['short', 'long'] = 'short', tags: list[str] | None = None) -> dict\n"
    )
    assert _echo.name == "echo"


def test_it_is_still_the_function_it_was_made_from() -> None:
    assert add(2, b=3) == 5


async def test_arguments_are_converted_where_nothing_is_lost() -> None:
    assert await call(add, a="2", b=3.0) == 5
    assert await call(add, a=2) == 3
    assert await call(_echo, text=1990, ratio="0.25", flag="true") == [None, "1990", 0.25, True]
    assert await call(_echo, value={"as": ["it", 1, 2.5, None]}) == [{"as": ["it", 1, 2.5, None]}, "", 0.5, False]


async def test_the_context_is_handed_in_and_not_shown() -> None:
    assert describe.parameters == ("place", "style", "tags")
    expected = {"name": "Liri", "style": "long", "tags": ["a"], "task": "t"}
    assert await call(describe, place={"name": "Liri"}, style="long", tags=["a"]) == expected
    assert "no parameter context" in await message(describe, place={"name": "Liri"}, context="mine")


async def test_a_wrong_call_says_what_is_wrong_and_how_it_is_called() -> None:
    told = await message(add, a="two", c=1)
    assert told == (
        "add: a should be a valid integer, unable to parse string as an integer, not 'two'; there is no parameter c. "
        "It is called as add(a: int, b: int = 1) -> int"
    )
    assert "a is missing" in await message(add)
    assert "a should be a valid integer, got a number with a fractional part, not 2.5" in await message(add, a=2.5)
    assert "style should be 'short' or 'long', not 'huge'" in await message(describe, place={"name": ""}, style="huge")
    assert "place.name is missing" in await message(describe, place={})


@pytest.mark.parametrize("text", ["nan", "-Infinity", "1e999"])
async def test_no_number_is_made_that_json_lacks(text: str) -> None:
    assert f"ratio should be a finite number, not '{text}'" in await message(_echo, ratio=text)


async def test_an_error_is_short_whatever_was_given() -> None:
    assert len(await message(add, a="x" * 100_000)) < 300
    assert len(await message(describe, place={}, tags=list(range(3)), **{f"x{i}" * 99: 1 for i in range(999)})) < 1000


async def test_a_synchronous_function_does_not_block_the_loop() -> None:
    @tool
    def where() -> bool:
        """Whether this is the main thread."""
        return threading.current_thread() is threading.main_thread()

    assert await call(where) is False


async def test_constraints_and_names_that_pydantic_uses_itself_are_fine() -> None:
    @tool
    def odd(schema: str, json: Annotated[int, Field(ge=1)], _private: int = 0, model_config: int = 1) -> list[object]:
        """Odd names."""
        return [schema, json, _private, model_config]

    assert odd.signature == "odd(schema: str, json: int, _private: int = 0, model_config: int = 1) -> list"
    assert await call(odd, schema="s", json=3, _private=2) == ["s", 3, 2, 1]
    assert "json should be greater than or equal to 1, not 0" in await message(odd, schema="s", json=0)


async def test_a_method_and_what_it_raises_come_through() -> None:
    class Counter:
        def count(self, word: str) -> int:
            """Count."""
            raise KeyError(word)

    made = tool(Counter().count)
    assert made.parameters == ("word",)
    with pytest.raises(KeyError):
        await call(made, word="x")


def untyped(x):  # type: ignore[no-untyped-def]
    """Untyped."""


def undocumented(x: int) -> None: ...


def many(*words: str) -> None:
    """Many."""


def calls_back(then: Callable[[str], str]) -> None:
    """Calls back."""


async def streams() -> AsyncIterator[str]:
    """Streams."""
    yield "a"


def untestable(x: threading.Lock) -> None:
    """No JSON is a lock."""


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (untyped, "needs a type for x"),
        (undocumented, "needs a docstring"),
        (many, r"\*words"),
        (untestable, "no JSON can be checked"),
        (calls_back, "no JSON can be checked"),
        (streams, "is an async generator"),
        (SimpleNamespace, "is a class: decorate a function"),
        (SimpleNamespace(), "is not callable"),
        (print, "hide a name of Python"),
        (functools.cmp_to_key, "no signature that can be read|needs a type for mycmp"),
        (add, "is a tool already"),
    ],
)
def test_what_cannot_be_a_tool_says_what_is_missing(function: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        tool(function)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no name", "it is not a valid Python name"),
        ("class", "it is not a valid Python name"),
        ("open", "it would hide a name of Python or of the session"),
        ("get_ipython", "it would hide"),
        ("_", "begins with an underscore"),
        ("\ufb01nd", "letters that Python replaces by others"),
    ],
)
def test_a_name_that_a_session_could_not_use_is_refused(name: str, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        FunctionTool(add.function, name=name)


HANGING = """
import asyncio, threading
from types import SimpleNamespace
from lzero.tools import tool

@tool
def hang() -> str:
    \"\"\"Never answers.\"\"\"
    threading.Event().wait()
    return "never"

@tool
def answer() -> str:
    \"\"\"Answers.\"\"\"
    return "at once"

async def main() -> None:
    calls = [asyncio.ensure_future(hang.call({}, SimpleNamespace())) for _ in range(100)]
    await asyncio.wait(calls, timeout=0.2)
    print(await answer.call({}, SimpleNamespace()), await asyncio.to_thread(str, "for others"), flush=True)

asyncio.run(main())
"""


def test_functions_that_hang_keep_neither_others_nor_the_process_from_going_on() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "at once for others\n"


async def test_a_function_in_its_thread_raises_as_anywhere_and_sees_the_context_of_its_caller() -> None:
    seen: ContextVar[str] = ContextVar("seen", default="")

    @tool
    def read(what: str) -> str:
        """What the caller set, or an error."""
        if what == "stop":
            raise StopIteration
        return {"seen": seen.get()}[what]

    seen.set("it")
    assert await read.call({"what": "seen"}, CONTEXT) == "it"
    with pytest.raises(KeyError, match="other"):
        await read.call({"what": "other"}, CONTEXT)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await read.call({"what": "stop"}, CONTEXT)


class Season(Enum):
    WARM = "warm"
    COLD = "cold"


@dataclass
class Span:
    since: date
    until: date | None = None


class Visit(BaseModel):
    place: Place
    day: datetime
    companions: list["Visit"] = []
    budget: Annotated[float, Field(gt=0, description="in euros")] = 10.0


@tool
def plan(
    visit: Annotated[Visit, "where and when"],
    season: Season = Season.WARM,
    span: Span | None = None,
    limits: dict[str, int] | None = None,
    pair: tuple[int, str] = (1, "a"),
    seed: Annotated[int, Field(ge=0, le=9)] = 3,
    *,
    odd: Any = object,
) -> list[Span]:
    """Plan a visit."""
    assert isinstance(visit, Visit)
    assert isinstance(season, Season)
    assert span is None or isinstance(span, Span)
    return [span] if span else [Span(visit.day.date())]


def test_a_model_reads_fields_choices_bounds_and_descriptions_in_one_form() -> None:
    assert plan.description == "\n".join(
        (
            "plan(visit: Visit, season: Literal['warm', 'cold'] = 'warm', span: Span | None = None, "
            "limits: dict[str, int] | None = None, pair: tuple[int, str] = [1, 'a'], seed: int = 3, odd: Any = …) -> list[Span]",
            "Plan a visit.",
            "visit: where and when",
            "seed: >= 0, <= 9",
            "Visit = {'place': Place, 'day': datetime, 'companions': list[Visit] = [], 'budget': float = 10.0}",
            "Visit.budget: in euros; > 0",
            "Span = {'since': date, 'until': date | None = None}",
            "Place = {'name': str, 'year': int | None = None}",
            "Span = {'since': str, 'until': str | None}",
        )
    )


async def test_arguments_become_what_they_are_annotated_as_and_results_plain_data() -> None:
    visit: Json = {"place": {"name": "Liri"}, "day": "2026-01-31T10:00"}
    assert await call(plan, visit=visit) == [{"since": "2026-01-31", "until": None}]
    span: Json = {"since": "2026-01-01"}
    assert await call(plan, visit=visit, span=span, season="cold") == [{"since": "2026-01-01", "until": None}]
    told = await message(plan, visit={"place": {"name": "Liri"}, "day": "tomorrow"}, season="wet", seed=10)
    assert "visit.day should be a valid datetime" in told
    assert "season should be 'warm' or 'cold', not 'wet'" in told
    assert "seed should be less than or equal to 9, not 10" in told


def test_what_is_returned_is_shown_as_it_arrives() -> None:
    def made(returned: object) -> str:
        def give() -> Any:
            """Give it."""

        give.__annotations__["return"] = returned
        return tool(give).signature

    assert made(datetime) == "give() -> str"
    assert made(set[int]) == "give() -> list[int]"
    assert made(Iterator[str]) == "give() -> list[str]"
    assert made(tuple[int, str]) == "give() -> list[int | str]"
    assert made(np.ndarray) == "give() -> list"
    assert made(Season) == "give() -> Literal['warm', 'cold']"
    assert made(None) == "give() -> None"


class Guide:
    """Knows a museum."""

    def __init__(self, museum: str) -> None:
        self.museum = museum

    def opens(self, day: str) -> str:
        """When it opens."""
        return f"{self.museum} {day}"

    def __call__(self, day: str) -> str:
        return self.opens(day)


def fetch(key: str, city: str, days: int = 1) -> str:
    """The weather."""
    return f"{key} {city} {days}"


async def later(word: str) -> str:
    """Say it later."""
    return word


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **named: Any) -> Any:
        return function(*args, **named)

    return inner


async def test_whatever_can_be_called_can_be_a_tool() -> None:
    assert await call(tool(Guide("Rodin").opens), day="today") == "Rodin today"
    guide = tool(name="guide")(Guide("Rodin"))
    assert (await call(guide, day="today"), guide.description) == (
        "Rodin today",
        "guide(day: str) -> str\nKnows a museum.",
    )
    weather = tool(functools.partial(fetch, "secret", days=2))
    assert (await call(weather, city="Lyon"), weather.signature) == ("secret Lyon 2", "fetch(city: str) -> str")
    assert "secret" not in weather.description
    assert await call(tool(wrapped(later)), word="so") == "so"
    assert await call(tool(functools.partial(later)), word="so") == "so"
    assert await call(tool(staticmethod(fetch)), key="k", city="Nice") == "k Nice 1"


@tool
def counts(last: int) -> Iterator[int]:
    """Count."""
    yield from range(last)
    raise LookupError("there is no more")


async def test_a_generator_gives_a_list_and_what_it_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LookupError, match="no more"):
        await call(counts, last=2)
    monkeypatch.setattr("lzero.tools.values.MAX_BYTES", 80_000)
    with pytest.raises(ToolError, match="more than 80,000 bytes"):
        await call(counts, last=10**9)
