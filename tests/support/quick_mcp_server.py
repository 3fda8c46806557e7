"""An MCP server without an SDK, for tests of its process: it starts at once, and the SDK of `mcp_server.py` takes a second to import."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"
"""A program that nobody waits for, and that ignores the signals that it can."""


def die(signal_number: int = 0) -> None:
    """End the server, by a signal or by exit."""
    print("the disk is full", file=sys.stderr, flush=True)
    if signal_number:
        os.kill(os.getpid(), signal_number)
    os._exit(3)


TOOLS: dict[str, tuple[Callable[..., Any] | None, tuple[str, ...]]] = {
    "add": (lambda a, b=2: a + b, ("a", "b")),
    "pid": (os.getpid, ()),
    "environment": (lambda: dict(os.environ), ()),
    "die": (die, ("signal_number",)),
    "start_child": (lambda: subprocess.Popen([sys.executable, "-c", STUBBORN]).pid, ()),
    "wait_for_ever": (None, ()),
    "wait_for_release": (None, ()),
    "release": (lambda: "done", ()),
}
"""Function, if the call is answered at once, and integer parameters."""


def described(name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {each: {"type": "integer"} for each in TOOLS[name][1]}}
    return {"name": name, "inputSchema": schema, "annotations": {"readOnlyHint": name == "wait_for_release"}}


def say(number: int, answer: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", "id": number, **answer}), flush=True)


def answer_call(number: int, value: Any) -> None:
    text = {"type": "text", "text": json.dumps(value)}
    say(number, {"result": {"content": [text], "structuredContent": {"result": value}}})


def main() -> None:
    waiting: list[int] = []
    released = False
    for line in sys.stdin:
        message = json.loads(line)
        number, parameters = message.get("id"), message.get("params", {})
        if message["method"] == "initialize":
            named = {"name": "quick", "version": "1"}
            version = parameters["protocolVersion"]
            say(number, {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": named}})
        elif message["method"] == "tools/list":
            say(number, {"result": {"tools": [described(name) for name in TOOLS]}})
        elif message["method"] == "tools/call":
            name = parameters["name"]
            function, _ = TOOLS[name]
            if function is not None:
                answer_call(number, function(**parameters.get("arguments", {})))
            released = released or name == "release"
            if name == "wait_for_release":
                waiting.append(number)
            if released and waiting:
                answer_call(waiting.pop(), "released")
                released = False
        elif number is not None:
            say(number, {"error": {"code": -32601, "message": "unknown method"}})


if __name__ == "__main__":
    main()
