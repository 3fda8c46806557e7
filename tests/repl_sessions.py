"""What tests of the REPL say to one."""

from lzero.protocols import Repl
from lzero.types import Execution, Json, Result


async def no_tools(name: str, arguments: dict[str, Json]) -> Json:
    """The host's side of a REPL without tools."""
    raise AssertionError(name)


async def run(repl: Repl, code: str) -> Execution:
    return await repl.run(code, deadline_s=20.0)


async def value(repl: Repl, code: str) -> str:
    """What the last expression shows."""
    execution = await run(repl, code)
    assert execution.status == "ok", execution
    (result,) = [output for output in execution.outputs if isinstance(output, Result)]
    return result.data["text/plain"]
