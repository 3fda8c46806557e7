"""Limits of a REPL other than memory, processes and files: processor time, lifetime, tool calls."""

import ast
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from repl_sessions import no_tools, value

from lzero.config import ReplConfig
from lzero.errors import ReplDied
from lzero.repl import LocalPool
from lzero.types import Json

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]
SPIN = "while True: pass"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[LocalPool]:
    async with LocalPool(ReplConfig(zygotes=1, cpu_s=1.0, tool_calls=5)) as pool:
        yield pool


class Add:
    name = "add"
    parameters = ("a", "b")
    description = "add(a, b)"


async def add(name: str, arguments: dict[str, Json]) -> Json:
    a, b = arguments["a"], arguments["b"]
    assert isinstance(a, int)
    assert isinstance(b, int)
    return a + b


async def test_processor_time_is_bounded_over_all_processes_and_cells(pool: LocalPool) -> None:
    spinning = "import os, time\nfor _ in range(2):\n    if not os.fork():\n        while True: pass\ntime.sleep(60)"
    for code in (SPIN, spinning):
        repl = await pool.open((), no_tools, seed=0)
        execution = await repl.run(code, deadline_s=30.0)
        assert execution.status == "killed"
        assert execution.reason.startswith("time: its processes used 1.")
        assert execution.reason.endswith("s of processor time together, the limit is 1 s")
        await repl.close()
    sleeping = await pool.open((), no_tools, seed=0)
    await sleeping.run("import time\ntime.sleep(2)", deadline_s=30.0)
    assert await value(sleeping, "6 * 7") == "42"
    await sleeping.close()


async def test_processor_time_of_children_that_were_waited_for_counts(pool: LocalPool) -> None:
    spend = """
import os, time
for _ in range(40):
    if not os.fork():
        until = time.process_time() + 0.1
        while time.process_time() < until: pass
        os._exit(0)
    os.wait()
"""
    repl = await pool.open((), no_tools, seed=0)
    execution = await repl.run(spend, deadline_s=60.0)
    assert execution.status == "killed"
    assert execution.reason.startswith("time: ")
    await repl.close()


async def test_a_lifetime_that_is_over_is_our_failure() -> None:
    async with LocalPool(ReplConfig(lifetime_s=2.0)) as pool:
        idle = await pool.open((), no_tools, seed=0)
        busy = await pool.open((), no_tools, seed=0)
        with pytest.raises(ReplDied, match=r"existed for longer than repl\.lifetime_s = 2"):
            await busy.run("import time\ntime.sleep(60)", deadline_s=30.0)
        with pytest.raises(ReplDied, match=r"existed for longer than repl\.lifetime_s = 2"):
            await idle.run("while True: pass", deadline_s=30.0)
        await idle.close()
        await busy.close()


async def test_tool_calls_of_a_repl_have_a_number(pool: LocalPool) -> None:
    repl = await pool.open((Add(),), add, seed=0)
    assert await value(repl, "[add(n, 1) for n in range(3)]") == "[1, 2, 3]"
    code = """
answers = []
for n in range(4):
    try: answers.append(add(n, 1))
    except ToolError as error: answers.append(str(error))
answers
"""
    refused = "a session may make 5 tool calls, no more"
    assert ast.literal_eval(await value(repl, code)) == [1, 2, refused, refused]
    await repl.close()
