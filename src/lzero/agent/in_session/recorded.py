"""Tools of a recorded run, which answer as they did then, without asking their service again.

Follows the source of a session's stubs (`repl/inside/stubs.py`) in a notebook. Standard library only.
"""

import json
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stubs import ToolError, plain, stub


class Tape:
    """The run's answers, by tool and arguments, in order; the last one is repeated for further calls."""

    def __init__(self, calls: list[dict[str, Any]], silent: list[str]) -> None:
        self._silent = silent
        self._calls: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for call in calls:
            self._calls.setdefault(_key(call["name"], call["arguments"]), []).append(call)

    def ask(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a call, as the host's: "value", and "error", which is None for a value."""
        if name in self._silent:
            return {"value": None, "error": None}
        known = self._calls.get(_key(name, arguments))
        if known is None:
            return {"value": None, "error": f"{name} was not called with these arguments when the run was recorded"}
        call = known.pop(0) if len(known) > 1 else known[0]
        value = json.loads(json.dumps(call["result"]))  # a copy: cells change what they get
        return {"value": value, "error": call["error"]}


def _key(name: str, arguments: dict[str, Any]) -> tuple[str, str]:
    return name, json.dumps(arguments, sort_keys=True, default=plain)


def record(text: str) -> dict[str, Any]:
    """Return the tools of a recorded run by name, and ToolError. Seed the random generators as they were."""
    run = json.loads(text)
    random.seed(run["seed"])
    try:
        import numpy
    except ImportError:
        pass
    else:
        numpy.random.seed(run["seed"] % 2**32)
    tape = Tape(run["calls"], run["silent"])
    ToolError.__qualname__ = "ToolError"
    return {"ToolError": ToolError, **{tool["name"]: stub(tool, tape.ask) for tool in run["tools"]}}
