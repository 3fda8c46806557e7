"""Results of tools become plain JSON data, or a clear error."""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import json
import math
import pathlib
import sqlite3
import types
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lzero.errors import ToolError
from lzero.tools import values
from lzero.tools.values import as_json
from lzero.types import Json


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Place(pydantic.BaseModel):
    name: str
    opened: datetime.date | None = None


class Many(pydantic.RootModel[list[int]]):
    pass


class Struct(msgspec.Struct):
    size: int


@dataclasses.dataclass
class Visit:
    place: Place
    tags: set[str]


class Point(collections.namedtuple("Point", "x y")):
    pass


def counting(last: int) -> Iterator[int]:
    yield from range(last)


def row() -> sqlite3.Row:
    with sqlite3.connect(":memory:") as connection:
        connection.row_factory = sqlite3.Row
        found: sqlite3.Row = connection.execute("SELECT 1 AS one, 'b' AS two").fetchone()
    connection.close()
    return found


NOON = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)

CONVERTED: list[tuple[Any, Json]] = [
    ((1, (2,)), [1, [2]]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b"}), ["b"]),
    (range(3), [0, 1, 2]),
    (collections.deque([1]), [1]),
    (counting(3), [0, 1, 2]),
    (map(str, (1, 2)), ["1", "2"]),
    ({"b": 1, "a": 2}.keys(), ["b", "a"]),
    ({"b": 1}.items(), [["b", 1]]),
    ({2020: 1, None: 2, True: 3, Colour.RED: 4, (1, "a"): 5}, {"2020": 1, "null": 2, "true": 3, "red": 4, "1, a": 5}),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (NOON, "2026-01-31T12:00:00+00:00"),
    (NOON.date(), "2026-01-31"),
    (datetime.time(9, 30), "09:30:00"),
    (datetime.timedelta(minutes=1.5), 90.0),
    (decimal.Decimal("19.90"), "19.90"),
    (decimal.Decimal("NaN"), None),
    (fractions.Fraction(1, 3), "1/3"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (pathlib.Path("a/b"), "a/b"),
    (ipaddress.ip_address("::1"), "::1"),
    (b"caf\xc3\xa9", "café"),
    (bytearray(b"a"), "a"),
    ("half \ud800, whole \ud83d\ude00", "half \ufffd, whole \U0001f600"),
    (math.nan, None),
    ([math.inf, -math.inf, -0.0], ["inf", "-inf", -0.0]),
    (2**70, 2**70),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (Place(name="Liri", opened=NOON.date()), {"name": "Liri", "opened": "2026-01-31"}),
    (Many([1, 2]), [1, 2]),
    (Struct(2), {"size": 2}),
    (Visit(Place(name="Liri"), {"b", "a"}), {"place": {"name": "Liri", "opened": None}, "tags": ["a", "b"]}),
    (Point(1, 2), [1, 2]),
    (row(), {"one": 1, "two": "b"}),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    (np.float32(0.5), 0.5),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.array([1.0, math.nan]), [1.0, None]),
    (np.array(["2026-01-31T12", "NaT"], "datetime64[ns]"), ["2026-01-31T12:00:00", None]),
    (np.datetime64("2026-01-31"), "2026-01-31T00:00:00"),
    (torch.tensor([1.5, 2.0]), [1.5, 2.0]),
]


@pytest.mark.parametrize(("value", "plain"), CONVERTED, ids=[f"{type(value).__name__}" for value, _ in CONVERTED])
def test_a_value_becomes_plain_data(value: Any, plain: Json) -> None:
    found = as_json({"in": [value]}, tool="give")
    assert found == {"in": [plain]}
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == msgspec.json.decode(msgspec.json.encode(found)) == found


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "give returned a value of type object, which is not JSON: return text, numbers"),
        (1j, "type complex"),
        (as_json, "type function"),
        (Place, "the class Place"),
        (pydantic.SecretStr("key"), "type SecretStr"),
        (b"\x89PNG", "4 bytes that are not UTF-8 text, which is not JSON: decode them"),
        ({1: "a", "1": "b"}, "two keys that both become '1'"),
        ({frozenset({1}): "a"}, "a key of type frozenset"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_has_no_form_in_json_is_the_tools_fault_and_named(value: Any, told: str) -> None:
    with pytest.raises(ToolError, match="give returned") as raised:
        as_json([value], tool="give")
    assert raised.value.fault == "tool"
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [(endless(), "a value nested more than 32 deep"), (1 << 20_000, "an integer of 20,001 bits")],
    ids=["nested", "integer"],
)
def test_what_grows_with_the_arguments_is_the_agents_fault(value: Any, told: str) -> None:
    with pytest.raises(ToolError, match=f"give answered with {told}.* ask it for less") as raised:
        as_json([value], tool="give")
    assert raised.value.fault == "agent"


@pytest.mark.parametrize(
    "value",
    [
        "é" * 40_001,
        b"x" * 80_001,
        range(10**12),
        iter(int, 1),
        np.broadcast_to(np.int8(1), 10**12),
        torch.zeros(1).expand(10**12),
        {"a": ["x" * 1000] * 90},
    ],
    ids=["text", "bytes", "range", "iterator", "array", "tensor", "nested"],
)
def test_too_much_is_found_before_it_is_taken_apart(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MAX_BYTES", 80_000)
    with pytest.raises(ToolError, match="answered with more than 80,000 bytes") as raised:
        as_json(value, tool="give")
    assert raised.value.fault == "agent"


TEXTS = st.text(alphabet=st.characters(codec="utf-8"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS


@settings(max_examples=30)
@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20))
def test_json_stays_as_it_is(value: Json) -> None:
    assert as_json(value, tool="give") == value
