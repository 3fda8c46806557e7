"""An MCP server that breaks the protocol, by hand: `python odd_mcp_server.py [endless|silent FILE]`.

It starts at once; the SDK of `mcp_server.py` takes more than a second to import."""

import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

ODD: dict[str, dict[str, Any]] = {
    "closed": {"error": {"code": -32000, "message": "no such key"}},
    "terminated": {"error": {"code": -32600, "message": "the account was terminated"}},
    "timed_out": {"error": {"code": -32001, "message": "took too long"}},
    "failed": {"error": {"code": -32603, "message": "the disk is full"}},
    "of_another_shape": {"result": {"content": "no list"}},
    "too_many": {"result": {"content": [{"type": "text", "text": "1"}] * 10_001}},
    "too_large": {"result": {"content": [{"type": "text", "text": "x" * 9_000_000}]}},
    "half_a_character": {"result": {"content": [{"type": "text", "text": "a\ud83d"}]}},
    "too_deep": {"result": {"content": [], "structuredContent": json.loads('{"a":' * 300 + "1" + "}" * 300)}},
    "no_json_rpc": {"result": 5, "error": 6},
    "unknown": {"id": 999_999, "result": {}},
    "without_number": {"id": None, "error": {"code": -32000, "message": "what?"}},
}
"""Answers by the name of the tool."""


def serve_oddly() -> None:
    """JSON-RPC by hand. A call of `wait` is answered when `release` is called, after which `release` is; none after one of `hang`, nor of
    `ask`, which makes the server ask without end."""
    waiting: list[int] = []

    def say(number: int, answer: dict[str, Any]) -> None:
        last_first = {**answer, "jsonrpc": "2.0", "id": answer.get("id", number)}
        print(json.dumps(last_first if "too_large" in asked else dict(reversed(last_first.items()))), flush=True)

    for line in sys.stdin:
        message = json.loads(line)
        number, asked = message.get("id"), message.get("params", {}).get("name", "")
        if number is None:
            continue
        if message["method"] == "initialize":
            version = message["params"]["protocolVersion"]
            named = {"name": "odd", "version": "1"}
            say(number, {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": named}})
        elif message["method"] == "tools/list":
            tools = [
                {"name": name, "inputSchema": {"type": "object"}} for name in (*ODD, "wait", "release", "hang", "ask")
            ]
            again = {"name": "again", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
            say(number, {"result": {"tools": [*tools, again]}})
        elif asked == "again":
            say(number, {"result": {"content": [{"type": "text", "text": "done"}]}})
        elif asked == "hang":
            signal.pause()
        elif asked == "ask":
            for own in itertools.count():
                print(json.dumps({"jsonrpc": "2.0", "id": own, "method": "ping"}))
        elif asked == "wait":
            waiting.append(number)
        elif asked == "release":
            for each in (*waiting, number):
                say(each, {"result": {"content": [{"type": "text", "text": "released"}]}})
            waiting.clear()
        elif asked in ODD:
            say(number, ODD[asked])
        else:
            say(number, {"error": {"code": -32601, "message": "unknown method"}})


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            serve_oddly()
        case ["endless"]:
            while True:
                os.write(1, b"x" * 65_536)
        case ["silent", file]:
            Path(file).write_text(str(os.getpid()))
            signal.pause()
