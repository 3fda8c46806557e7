"""Tools: stubs in the kernel, calls answered by the host."""

import asyncio

import pytest
from repl_sessions import Spec, echo, run, value

from lzero.errors import ToolError
from lzero.repl import LocalPool
from lzero.types import Error, Execution, Json

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


SEARCH = Spec("search", ("query", "limit"), "search(query, limit) -> str: looks a name up.")


async def fail(name: str, arguments: dict[str, Json]) -> Json:
    raise ToolError("no such index", fault="tool")


def error(execution: Execution) -> Error:
    (found,) = [output for output in execution.outputs if isinstance(output, Error)]
    return found


async def test_arguments_by_position_and_by_name(pool: LocalPool) -> None:
    repl = await pool.open([SEARCH], echo, seed=0)
    expected = "{'name': 'search', 'arguments': {'query': 'Liri', 'limit': 2}}"
    assert await value(repl, "search('Liri', 2)") == expected
    assert await value(repl, "search(limit=2, query='Liri')") == expected
    assert await value(repl, "import numpy as np\nsearch(np.array([1, 2]), np.int64(3))['arguments']") == (
        "{'query': [1, 2], 'limit': 3}"
    )
    given = (
        "import dataclasses, datetime, decimal, enum, pathlib, pandas\n"
        "Red = enum.Enum('Red', {'RED': 'red'})\n"
        "Place = dataclasses.make_dataclass('Place', ['name'])\n"
        "search([datetime.date(2026, 1, 31), decimal.Decimal('1.50'), pathlib.Path('a'), Red.RED, Place('Liri')],"
        " pandas.DataFrame({'a': [1]}))['arguments']"
    )
    expected = "{'query': ['2026-01-31', '1.50', 'a', 'red', {'name': 'Liri'}], 'limit': [{'a': 1}]}"
    assert " ".join((await value(repl, given)).split()) == expected
    await repl.close()


async def test_a_stub_is_a_plain_documented_function(pool: LocalPool) -> None:
    repl = await pool.open([SEARCH], echo, seed=0)
    assert await value(repl, "search.__doc__") == repr(SEARCH.description)
    assert await value(repl, "import inspect\nstr(inspect.signature(search)), search.__name__") == (
        "('(query, limit)', 'search')"
    )
    await repl.close()


async def test_wrong_arguments_fail_in_the_cell_and_never_leave_it(pool: LocalPool) -> None:
    repl = await pool.open([SEARCH], fail, seed=0)
    for code in (
        "search(1, 2, 3)",
        "search(colour=1)",
        "search(1, query=2)",
        "search(object())",
        "search(float('nan'))",
    ):
        assert error(await run(repl, code)).ename in ("TypeError", "ValueError"), code
    assert error(await run(repl, "search(10 ** 5000)")).ename == "ValueError"
    assert error(await run(repl, "x = []\nx.append(x)\nsearch(x)")).ename == "ValueError"
    assert error(await run(repl, "search('x' * 20_000_000)")).ename == "ValueError"
    assert error(await run(repl, "search('fine')")).ename == "ToolError"
    await repl.close()


async def test_a_tools_error_is_an_exception_that_the_cell_can_catch(pool: LocalPool) -> None:
    repl = await pool.open([SEARCH], fail, seed=0)
    found = error(await run(repl, "search('x')"))
    assert (found.ename, found.evalue) == ("ToolError", "no such index")
    assert found.traceback[-1] == "ToolError: no such index"
    assert not any("/opt/" in line for line in found.traceback)
    assert (
        await value(repl, "try:\n    search('x')\nexcept ToolError as e:\n    note = str(e)\nnote") == "'no such index'"
    )
    await repl.close()


async def test_waiting_for_a_tool_does_not_count(pool: LocalPool) -> None:
    async def slow(name: str, arguments: dict[str, Json]) -> Json:
        await asyncio.sleep(0.6)
        return "late"

    repl = await pool.open([SEARCH], slow, seed=0)
    execution = await repl.run("search('x')", deadline_s=0.4)
    assert execution.status == "ok"
    assert execution.duration_s < 0.4
    await repl.close()


async def test_calls_from_threads_and_coroutines_of_the_cell(pool: LocalPool) -> None:
    repl = await pool.open([SEARCH], echo, seed=0)
    code = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as threads:
    found = list(threads.map(lambda n: search(n)["arguments"]["query"], range(40)))
found == list(range(40)), len(await asyncio.gather(*(asyncio.to_thread(search, n) for n in range(5))))
"""
    assert await value(repl, code) == "(True, 5)"
    await repl.close()


async def test_calls_of_a_child_that_outlives_its_cell_wait_for_the_next(pool: LocalPool) -> None:
    repl = await pool.open([SEARCH], echo, seed=0)
    code = """
import multiprocessing as mp
told = mp.Queue()
def ask():
    for n in range(200): told.put(search(n)["arguments"]["query"])
child = mp.Process(target=ask); child.start()
"""
    await run(repl, code)
    for number in range(20):
        assert await value(repl, f"search({number})['arguments']['query']") == str(number)
    assert (
        await value(repl, "answers = [told.get() for _ in range(200)]\nchild.join()\nanswers == list(range(200))")
        == "True"
    )
    await repl.close()


async def test_a_call_of_a_child_that_was_killed_while_it_waited_is_not_made(pool: LocalPool) -> None:
    called: list[Json] = []

    async def note(name: str, arguments: dict[str, Json]) -> Json:
        called.append(arguments["query"])
        return None

    repl = await pool.open([SEARCH], note, seed=0)
    code = """
import multiprocessing as mp, os, signal
def ask(): os.kill(parent, signal.SIGUSR1); search("child")
def late():
    child = mp.Process(target=ask); child.start()
    child.join(0.3); child.kill(); child.join()
parent = os.getpid()
signal.signal(signal.SIGUSR1, lambda *_: None)
import threading
search("first")
thread = threading.Thread(target=late); thread.start()
"""
    await run(repl, code)  # at once between two cells, for the thread
    await run(repl, "thread.join()")
    assert await value(repl, "search('last')\n1") == "1"
    assert called[0] == "first"
    assert called[-1] == "last"
    await repl.close()


async def test_nested_children_and_threads_of_children_call_tools(pool: LocalPool) -> None:
    repl = await pool.open([SEARCH], echo, seed=0)
    code = """
import os, multiprocessing as mp
from concurrent.futures import ThreadPoolExecutor
def ask(n): return search(n)["arguments"]["query"]
def asked(n):
    with ThreadPoolExecutor(4) as threads: return list(threads.map(ask, range(n)))
def deeper(queue): queue.put(ask("deep"))
def nested(queue):
    child = mp.Process(target=deeper, args=(queue,)); child.start(); child.join()
queue = mp.Queue()
child = mp.Process(target=nested, args=(queue,)); child.start()
with mp.Pool(2) as pool: counts = pool.map(asked, [10, 20])
child.join()
counts == [list(range(10)), list(range(20))], queue.get(), asked(5)
"""
    assert await value(repl, code) == "(True, 'deep', [0, 1, 2, 3, 4])"
    await repl.close()


async def test_many_calls_in_one_cell(pool: LocalPool) -> None:
    repl = await pool.open([SEARCH], echo, seed=0)
    assert await value(repl, "sum(search(n)['arguments']['query'] for n in range(500))") == str(sum(range(500)))
    await repl.close()


async def test_long_and_strange_text_survives_both_ways(pool: LocalPool) -> None:
    async def repeat(name: str, arguments: dict[str, Json]) -> Json:
        return arguments["query"]

    repl = await pool.open([SEARCH], repeat, seed=0)
    assert await value(repl, "text = 'é<|im_end|>\\x00\\n' * 50_000\nsearch(text) == text") == "True"
    await repl.close()


async def test_an_answer_that_cannot_be_sent_is_a_tool_error(pool: LocalPool) -> None:
    async def huge(name: str, arguments: dict[str, Json]) -> Json:
        return "x" * 20_000_000

    repl = await pool.open([SEARCH], huge, seed=0)
    assert error(await run(repl, "search('x')")).ename == "ToolError"
    assert await value(repl, "1 + 1") == "2"
    await repl.close()


async def test_an_interrupt_in_a_loop_of_calls_keeps_the_wire_in_step(pool: LocalPool) -> None:
    repl = await pool.open([SEARCH], echo, seed=0)
    for number in range(5):
        execution = await repl.run("while True: search('x')", deadline_s=0.1)
        assert execution.status == "timed_out"
        assert await value(repl, f"search({number})['arguments']") == f"{{'query': {number}}}"
    await repl.close()


async def test_arguments_that_take_long_to_convert_can_be_interrupted_and_may_call_tools(pool: LocalPool) -> None:
    repl = await pool.open([SEARCH], echo, seed=0)
    slow = "import time\nclass Slow:\n    def tolist(self): time.sleep(60)\nsearch(Slow())"
    assert (await repl.run(slow, deadline_s=0.5)).status == "timed_out"
    nested = "class Nested:\n    def tolist(self): return search('inner')['name']\nsearch(Nested())['arguments']"
    assert await value(repl, nested) == "{'query': 'search'}"
    await repl.close()


async def test_calls_of_a_thread_that_outlives_its_cell_wait_for_the_next(pool: LocalPool) -> None:
    repl = await pool.open([SEARCH], echo, seed=0)
    code = "import threading\nanswers = []\ndef ask():\n    while True: answers.append(search('x')['name'])\n"
    await run(repl, f"{code}threading.Thread(target=ask, daemon=True).start()")
    for number in range(50):
        assert await value(repl, f"{number}") == str(number)
    assert await value(repl, "set(answers)") == "{'search'}"
    await repl.close()


FLOOD = """
import socket, struct, threading
wire = socket.socket(fileno=3)
def read():
    while True: wire.recv(1 << 20)
threading.Thread(target=read, daemon=True).start()
number = 0
while True:
    frames = b""
    for _ in range(2000):
        number += 1
        body = b'{"type":"call","id":%d,"name":"search","arguments":{}}' % number
        frames += struct.pack(">I", len(body)) + body
    wire.sendall(frames)
"""


async def test_forged_calls_without_a_pause_do_not_outrun_the_deadline(pool: LocalPool) -> None:
    repl = await pool.open([SEARCH], echo, seed=0)
    started = asyncio.get_running_loop().time()
    execution = await repl.run(FLOOD, deadline_s=0.5)
    assert execution.status in ("killed", "timed_out")  # whether the interrupt finds it between two frames
    assert asyncio.get_running_loop().time() - started < 8.0  # the grace, and a busy machine
    await repl.close()
