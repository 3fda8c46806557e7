# Tools of a recorded run, which answer as they did then, without asking their service again. Standard library only.
import dataclasses as _dataclasses
import enum as _enum
import inspect as _inspect
import json as _json
import random as _random
from collections.abc import Callable as _Callable
from typing import Any as _Any


class ToolError(Exception):
    """A tool gave no answer; the message says why."""


class _Tape:
    """The run's answers, by tool and arguments, in order; the last one is repeated for further calls."""

    def __init__(self, calls: list[dict[str, _Any]], silent: list[str]) -> None:
        self._silent = silent
        self._calls: dict[tuple[str, str], list[dict[str, _Any]]] = {}
        for call in calls:
            self._calls.setdefault(_key(call["name"], call["arguments"]), []).append(call)

    def ask(self, name: str, arguments: dict[str, _Any]) -> _Any:
        if name in self._silent:
            return None
        known = self._calls.get(_key(name, arguments))
        if known is None:
            raise ToolError(f"{name} was not called with these arguments when the run was recorded")
        call = known.pop(0) if len(known) > 1 else known[0]
        if call["error"] is not None:
            raise ToolError(call["error"])
        return _json.loads(_json.dumps(call["result"]))  # a copy: cells change what they get


def _key(name: str, arguments: dict[str, _Any]) -> tuple[str, str]:
    return name, _json.dumps(arguments, sort_keys=True, default=_plain)


def _plain(value: _Any) -> _Any:
    """Return a value in the form in which the arguments of a call are recorded."""
    if hasattr(value, "tolist"):  # of numpy and pandas
        return value.tolist()
    if hasattr(value, "iloc"):
        return value.to_dict("records")
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, _enum.Enum):
        return value.value
    if _dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in _dataclasses.fields(value)}
    return sorted(value, key=repr) if isinstance(value, set | frozenset) else str(value)


def _tool(tool: dict[str, _Any], ask: _Callable[[str, dict[str, _Any]], _Any]) -> _Any:
    name: str = tool["name"]
    if tool["kernel_source"]:
        names = {"__name__": "builtins", "ToolError": ToolError, "ask": lambda **arguments: ask(name, arguments)}
        exec(compile(tool["kernel_source"], f"<{name}>", "exec"), names)
        return names[name]
    kind = _inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = _inspect.Signature([_inspect.Parameter(parameter, kind) for parameter in tool["parameters"]])

    def call(*positional: _Any, **named: _Any) -> _Any:
        return ask(name, signature.bind_partial(*positional, **named).arguments)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = tool["description"]
    call.__signature__ = signature  # type: ignore[attr-defined] # how functions say it
    return call


def _record(text: str) -> dict[str, _Any]:
    """Return the tools of a recorded run by name, and seed the random generators as they were."""
    run = _json.loads(text)
    _random.seed(run["seed"])
    try:
        import numpy
    except ImportError:
        pass
    else:
        numpy.random.seed(run["seed"] % 2**32)
    tape = _Tape(run["calls"], run["silent"])
    return {tool["name"]: _tool(tool, tape.ask) for tool in run["tools"]}
