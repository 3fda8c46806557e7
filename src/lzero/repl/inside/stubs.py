"""Make tools available to cells as plain functions that ask the host, and return its answer or raise ToolError."""

import dataclasses
import decimal
import enum
import inspect
import pathlib
import uuid
from collections.abc import Callable
from typing import Any


class ToolError(Exception):
    """A tool gave no answer; the message says why."""


ToolError.__module__ = "__main__"  # so that tracebacks say "ToolError", and worker processes can pickle it


class Names:
    """Names that the host gave a session: tools and ToolError. Each cell finds them, even if the previous one overwrote them."""

    def __init__(self, namespace: dict[str, Any], given: dict[str, Any]) -> None:
        """Bind the `given` names in the session's `namespace`."""
        self._namespace = namespace
        self._given = given
        self._moved: dict[str, str] = {}
        namespace.update(given)

    def restore(self) -> str:
        """Bind the names again. Move a value that a cell bound to one of them to a free name, and return the notes to print about that."""
        notes = []
        for name, value in self._given.items():
            found = self._namespace.get(name, value)
            if found is not value:
                other = self._moved[name] = self._free_name(name)
                self._namespace[other] = found
                notes.append(
                    f"[the session has restored {name}, which this cell overwrote; the cell's value is now in {other}]\n"
                )
            self._namespace[name] = value
        return "".join(notes)

    def _free_name(self, name: str) -> str:
        """Return the name that the last such value moved to, or the first free one."""
        number, free = 2, f"{name}_"
        while free in self._namespace and free != self._moved.get(name):
            number, free = number + 1, f"{name}_{number}"
        return free


def stub(tool: dict[str, Any], ask: Callable[[str, dict[str, Any]], dict[str, Any]]) -> Any:
    """Return the value that a tool's name is bound to. `ask(name, arguments)` sends a call to the host, and returns its reply."""
    name: str = tool["name"]

    def value_of(arguments: dict[str, Any]) -> Any:
        reply = ask(name, arguments)
        if reply["error"] is not None:
            raise ToolError(reply["error"])
        return reply["value"]

    if not tool["kernel_source"]:
        return _function(name, tool["parameters"], tool["description"], value_of)
    names = {"__name__": "builtins", "ToolError": ToolError, "ask": lambda **arguments: value_of(arguments)}
    exec(compile(tool["kernel_source"], f"<{name}>", "exec"), names)  # source from the host
    return names[name]


def _function(
    name: str, parameters: list[str], description: str, value_of: Callable[[dict[str, Any]], Any]
) -> Callable[..., Any]:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(parameter, kind) for parameter in parameters])

    def call(*positional: Any, **named: Any) -> Any:
        try:
            arguments = signature.bind_partial(*positional, **named).arguments
        except TypeError as error:
            raise TypeError(f"{name}{signature}: {error}") from None
        return value_of(arguments)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = description
    call.__module__ = "__main__"  # worker processes look it up there
    call.__signature__ = signature  # type: ignore[attr-defined] # `inspect.signature` reads it
    return call


def plain(value: Any) -> object:
    """Convert a value for JSON: arrays, scalars and series of numpy and pandas to lists and numbers, tables to rows, sets to lists, times
    to ISO text, paths, decimals and UUIDs to text, members of an enum to their values, dataclasses to dicts."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "iloc"):  # a table of pandas
        return value.to_dict("records")
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (decimal.Decimal, pathlib.PurePath, uuid.UUID)):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    raise TypeError(f"{type(value).__name__} is not text, a number, a list or a dict")
