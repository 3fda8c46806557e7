"""Convert results of tools to plain JSON data for the session.

    None, bool, int, float, str        unchanged; NaN, NaT and NA are None, infinities the texts "inf" and "-inf"
    list, tuple, set, range, iterator  list (a set: sorted if that is possible); arrays and tensors: nested lists
    dict, dataclass, pydantic model    dict; other keys become text, as in JSON
    DataFrame, table                   list of rows, each a dict; a named index is a column
    Series                             list; with its own index, a dict by label
    Enum                               its value
    datetime, date, time, UUID, Path   text (ISO 8601 for times); a Decimal too, so that no digit is lost; timedelta: seconds
    bytes                              text, decoded as UTF-8

Any other type is an error that names the tool and the type. The size is counted during the conversion, so an endless iterator is an error,
too. No library is imported here: values of libraries are recognised by their methods.
"""

import dataclasses
import datetime
import decimal
import fractions
import ipaddress
import pathlib
import re
import uuid
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, Set, ValuesView
from enum import Enum
from typing import Any, cast

from lzero.blocking import in_thread
from lzero.errors import ToolError
from lzero.text import unbroken
from lzero.types import Json

MAX_BYTES = 8_000_000
"""The most bytes of one call's result, roughly as JSON: about what one message to a session holds."""
MAX_DEPTH = 32
QUICK_VALUES, QUICK_CHARS = 1_000, 100_000
"""The most values and characters that are converted on the event loop: a millisecond's work."""
_PLAIN = frozenset((type(None), bool, int, str))
_AS_TEXT = (decimal.Decimal, fractions.Fraction, pathlib.PurePath, uuid.UUID, re.Pattern)
_ADDRESSES = tuple(getattr(ipaddress, f"IPv{version}{kind}") for version in (4, 6) for kind in ("Address", "Network"))
_BITS = 13_000
"""Largest integer, in bits: Python converts at most 4,300 decimal digits to text."""


def as_json(value: object, *, tool: str) -> Json:
    """Return `value` as JSON data.

    Raises ToolError: the tool's fault for a type without a form in JSON; the agent's for more than MAX_BYTES, deep nesting and huge
    integers, because it can ask for less.
    """
    return _Walk(tool).convert(value, MAX_DEPTH)


async def to_json(value: object, *, tool: str) -> Json:
    """Do the same as `as_json`, in a thread unless it is certainly quick: millions of values would hold up all other episodes."""
    return as_json(value, tool=tool) if _is_quick(value) else await in_thread(as_json, value, tool=tool)


def _is_quick(value: object) -> bool:
    """Return whether a value is plain data, and little of it. Stops counting there."""
    left, num_values, chars = [value], 1, 0
    while left and num_values <= QUICK_VALUES and chars <= QUICK_CHARS:
        inner: Any = left.pop()
        kind = type(inner)
        if kind is str:
            chars += len(inner)
        elif kind is list or kind is tuple or kind is dict:
            num_values += len(inner)
            if num_values <= QUICK_VALUES:
                left += inner
                left += inner.values() if kind is dict else ()
        elif kind not in _PLAIN and kind is not float:
            return False
    return not left and num_values <= QUICK_VALUES and chars <= QUICK_CHARS


class _Walk:
    """The conversion of one value, with the remaining part of MAX_BYTES."""

    def __init__(self, tool: str) -> None:
        self._tool = tool
        self._room = MAX_BYTES
        self._keys: list[str] = []
        """Keys of the tables around the value that is converted now."""

    def convert(self, value: Any, depth: int) -> Json:
        if depth < 0:
            raise self._too_much(f"a value nested more than {MAX_DEPTH} deep, which is the most")
        kind = type(value)
        if kind is str:
            return self._text(value)
        if kind is int and value.bit_length() > _BITS:
            raise self._too_much(f"an integer of {value.bit_length():,} bits; {_BITS:,} are the most")
        if kind in _PLAIN:
            self._take(8)
            return cast(Json, value)
        if isinstance(value, float):
            self._take(16)
            return _number(value)
        if kind is list or kind is tuple:
            self._take(2 * len(value))
            return [self.convert(item, depth - 1) for item in value]
        if isinstance(value, Mapping):
            return self._table(value.items(), depth)
        return self._other(value, depth)

    def _other(self, value: Any, depth: int) -> Json:
        """Convert a value of a type that JSON lacks, by the first rule that applies."""
        if _is_missing(value):
            return None
        if isinstance(value, Enum):
            return self.convert(value.value, depth - 1)
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, int):
            return self.convert(int(value), depth - 1)
        if isinstance(value, datetime.date | datetime.time):
            return self._text(value.isoformat())
        if isinstance(value, datetime.timedelta):
            return self.convert(value.total_seconds(), depth - 1)
        if isinstance(value, (*_AS_TEXT, *_ADDRESSES)):
            return self._text(value.pattern if isinstance(value, re.Pattern) else str(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return self._text(self._decoded(bytes(value)))
        if isinstance(value, type):
            raise self._refused(f"the class {value.__qualname__}", hint="return an instance")
        if callable(dump := getattr(value, "model_dump", None)):  # pydantic
            return self.convert(dump(), depth - 1)
        if (fields := _fields(value)) is not None:
            return self._table(fields, depth)
        if (found := _of_library(value, self._check_size)) is not None:
            return self.convert(found[0], depth - 1)
        if hasattr(value, "keys") and hasattr(value, "__getitem__"):  # a row of a database
            return self._table([(key, value[key]) for key in value.keys()], depth)  # noqa: SIM118 # it iterates over its values
        if isinstance(value, Sequence | Iterator | KeysView | ValuesView | ItemsView):
            return self._list(value, depth)
        if isinstance(value, Set):
            return self._list(_in_order(value), depth)
        raise self._refused(f"a value of type {type(value).__qualname__}")

    def _list(self, values: Iterable[Any], depth: int) -> Json:
        found = []
        for item in values:  # an iterator runs the tool's code, so its exceptions pass through
            self._take(2)
            found.append(self.convert(item, depth - 1))
        return found

    def _table(self, items: Iterable[tuple[Any, Any]], depth: int) -> Json:
        found: dict[str, Json] = {}
        for key, item in items:
            name = self._key(key, depth)
            if name in found:
                raise self._refused(f"a dict with two keys that both become {name[:100]!r}")
            self._take(4)
            self._keys.append(name)
            found[name] = self.convert(item, depth - 1)
            self._keys.pop()
        return found

    def _key(self, key: Any, depth: int) -> str:
        if type(key) is str:
            return self._text(key)
        plain = self.convert(key, depth - 1) if not isinstance(key, tuple) else ", ".join(map(str, key))
        if isinstance(plain, list | dict):
            raise self._refused(f"a dict with a key of type {type(key).__qualname__}")
        if plain is None or isinstance(plain, bool):
            return {None: "null", True: "true", False: "false"}[plain]
        return str(plain)

    def _text(self, text: str) -> str:
        self._take(len(text))
        text = unbroken(text)  # a file name that is not UTF-8 has lone surrogates
        self._take(len(text.encode()) - len(text))
        return text

    def _decoded(self, data: bytes) -> str:
        self._check_size(len(data))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._refused(
                f"{len(data):,} bytes that are not UTF-8 text", hint="decode them, or use base64"
            ) from None

    def _check_size(self, size: int) -> None:
        """Check that `size` fits, before a conversion makes the value larger."""
        if size > self._room:
            raise self._too_much()

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise self._too_much()

    def _too_much(self, what: str = "") -> ToolError:
        what = what or f"more than {MAX_BYTES:,} bytes, which is the most"
        return ToolError(f"{self._tool} answered with {what} that fits: ask it for less", fault="agent")

    def _refused(
        self, what: str, *, hint: str = "return text, numbers, lists, dicts, dataclasses or arrays of these"
    ) -> ToolError:
        place = f" under {'.'.join(self._keys)[:100]!r}" if self._keys else ""
        return ToolError(f"{self._tool} returned {what}{place}, which is not JSON: {hint}", fault="tool")


def _number(value: float) -> Json:
    if value != value:
        return None
    if value - value != 0:
        return "inf" if value > 0 else "-inf"
    return float(value)


def _is_missing(value: Any) -> bool:
    """Return whether a value is NA or NaT of a library, or a decimal NaN."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, decimal.Decimal) and value.is_nan()


def _fields(value: Any) -> Iterable[tuple[str, Any]] | None:
    """Return names and values of a dataclass, msgspec or attrs object; None for any other value."""
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    for names in ("__struct_fields__", "__attrs_attrs__"):  # msgspec, attrs
        if (found := getattr(type(value), names, None)) is not None:
            parts = [str(getattr(part, "name", part)) for part in found]
            return [(part, getattr(value, part)) for part in parts]
    return None


def _of_library(value: Any, check_size: Callable[[int], None]) -> tuple[Any] | None:
    """Return an array, a table or a column (of numpy, pandas, polars, pyarrow, torch) as its Python values, in a tuple; None for any other
    value.

    Checks the size first.
    """
    for name in ("size", "num_rows", "height"):
        if isinstance(size := getattr(value, name, None), int):
            check_size(2 * size)
    if callable(count := getattr(value, "numel", None)):
        check_size(2 * count())
    if callable(getattr(value, "to_dict", None)) and hasattr(value, "iloc"):
        return (_of_pandas(value),)
    for method in ("to_dicts", "to_pylist", "to_list"):  # polars, pyarrow, columns of polars
        if callable(convert := getattr(value, method, None)):
            return (convert(),)
    if callable(convert := getattr(value, "tolist", None)):
        if getattr(getattr(value, "dtype", None), "kind", "") in ("M", "m"):  # nanoseconds would become integers
            return (value.astype(f"{value.dtype.kind}8[us]").tolist(),)
        return (convert(),)
    return None


def _of_pandas(value: Any) -> Any:
    index = value.index
    is_numbered = type(index).__name__ == "RangeIndex" and index.name is None
    if hasattr(value, "columns"):
        named = value if is_numbered else value.reset_index()
        return named.to_dict("records")
    if is_numbered:
        return value.tolist()
    if index.is_unique:
        return value.to_dict()
    return [[label, item] for label, item in zip(index.tolist(), value.tolist(), strict=True)]


def _in_order(values: Set[Any]) -> Iterable[Any]:
    """Return the members of a set in an order that does not depend on hashes."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)
