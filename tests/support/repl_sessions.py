"""Requests that tests of the REPL send, and the tools that they describe to it."""

from dataclasses import dataclass

from lzero.protocols import Repl
from lzero.types import Error, Execution, Json, Result, Stream


@dataclass(frozen=True)
class Spec:
    """A tool, as a REPL has it described."""

    name: str
    parameters: tuple[str, ...] = ()
    description: str = ""


FRAMES = """
import json, socket, struct, time
wire = socket.socket(fileno=3)
def send(**message):
    body = json.dumps(message).encode()
    wire.sendall(struct.pack(">I", len(body)) + body)
"""
"""Code with which a cell writes its own frames."""

ASK = Spec("ask", ("question",), "ask(question) -> str")


async def no_tools(name: str, arguments: dict[str, Json]) -> Json:
    """Refuse a tool call: the host's side of a REPL without tools."""
    raise AssertionError(name)


async def echo(name: str, arguments: dict[str, Json]) -> Json:
    """Return the request: the host's side of tools that echo."""
    return {"name": name, "arguments": arguments}


async def run(repl: Repl, code: str) -> Execution:
    return await repl.run(code, deadline_s=20.0)


async def value(repl: Repl, code: str) -> str:
    """Return the text of the last expression."""
    execution = await run(repl, code)
    assert execution.status == "ok", execution
    (result,) = [output for output in execution.outputs if isinstance(output, Result)]
    return result.data["text/plain"]


async def raised(repl: Repl, code: str) -> str:
    """Return the name of the exception that a cell ends with; "" for none."""
    return "".join(output.ename for output in (await run(repl, code)).outputs if isinstance(output, Error))


def error_of(execution: Execution) -> str:
    """Return names and messages of the errors of a cell."""
    return "".join(f"{output.ename}: {output.evalue}" for output in execution.outputs if isinstance(output, Error))


def streams(execution: Execution) -> list[tuple[str, str]]:
    """Return name and text of the streams of a cell."""
    return [(output.name, output.text) for output in execution.outputs if isinstance(output, Stream)]


def error(execution: Execution) -> Error:
    """Return the only error of a cell."""
    (found,) = [output for output in execution.outputs if isinstance(output, Error)]
    return found
