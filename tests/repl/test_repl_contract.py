"""The promises of every pool: one suite for all kinds of REPL, through `protocols.ReplPool`."""

import asyncio
import base64
import json
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from pool_servers import over_loopback
from repl_sessions import Spec, echo

from lzero.errors import ForkRefused, ReplDied, ReplError, ToolError, WorkspaceError
from lzero.protocols import Repl, ReplPool
from lzero.repl import LocalPool
from lzero.repl.jupyter.pool import JupyterPool
from lzero.types import Display, Error, Execution, Json, Output, Result, Stream, WorkspaceFile

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]

BACKENDS: dict[str, Callable[[], Any]] = {"local": LocalPool, "remote": over_loopback, "jupyter": JupyterPool}
"""Each makes an asynchronous context manager whose value is a pool."""

DIFFERENCES = {
    # What a backend does not keep, and why. These tests must fail there: once one passes, its line has to go.
    ("jupyter", "test_stdout_and_stderr_keep_their_order_among_each_other"): (
        "ipykernel buffers each stream by itself and sends it every fifth of a second"
    ),
    ("jupyter", "test_printing_what_has_no_utf_8_is_readable"): (
        "ipykernel cannot encode a lone surrogate: the output is lost, and its own traceback takes its place"
    ),
    ("jupyter", "test_a_result_of_fifty_megabytes_keeps_its_head_and_tail"): (
        "one message holds it all: the host takes none so large, and says that something was left out"
    ),
    (
        "jupyter",
        "test_tools_are_called_from_worker_processes",
    ): "a forked ipykernel cannot ask the host; a tool says so there, and what to do",
    ("jupyter", "test_a_copy_goes_its_own_way"): "a plain Jupyter kernel cannot be copied, and says so",
    (
        "jupyter",
        "test_tools_of_a_copy_are_answered_by_its_own_host",
    ): "a plain Jupyter kernel cannot be copied, and says so",
}
if platform.machine() != "x86_64":
    for each in ("local", "remote"):
        for name in ("test_a_copy_goes_its_own_way", "test_tools_of_a_copy_are_answered_by_its_own_host"):
            DIFFERENCES[each, name] = "copies are made on x86-64 only; elsewhere a REPL says that it cannot be copied"


SEARCH = Spec("search", ("query", "limit"), "search(query, limit) -> str: looks a name up.")
Answer = Callable[[str, dict[str, Json]], Awaitable[Json]]


class Host:
    """The host's side of a REPL's tools; a test sets its answers."""

    def __init__(self) -> None:
        self.answer: Answer = echo

    async def on_call(self, name: str, arguments: dict[str, Json]) -> Json:
        return await self.answer(name, arguments)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def known_difference(request: pytest.FixtureRequest, backend: str) -> None:
    reason = DIFFERENCES.get((backend, request.node.originalname))
    if reason is not None:
        request.node.add_marker(pytest.mark.xfail(strict=True, reason=reason))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(backend: str) -> AsyncIterator[ReplPool]:
    async with BACKENDS[backend]() as pool:
        yield pool


class Shared:
    """The REPL of all tests that leave it alive, because some backends take a second to open one."""

    def __init__(self, pool: ReplPool) -> None:
        self.host = Host()
        self._pool = pool
        self._repl: Repl | None = None

    async def repl(self) -> Repl:
        """Return the same REPL as last time, or a new one if that has died."""
        self.host.answer = echo
        try:
            if self._repl is not None:
                await run(self._repl, "None")
                return self._repl
        except ReplDied:
            pass
        await self.close()
        self._repl = await self._pool.open([SEARCH], self.host.on_call, seed=7)
        return self._repl

    async def close(self) -> None:
        if self._repl is not None:
            await self._repl.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(pool: ReplPool) -> AsyncIterator[Shared]:
    shared = Shared(pool)
    yield shared
    await shared.close()


@pytest_asyncio.fixture(loop_scope="module")
async def repl(shared: Shared) -> Repl:
    return await shared.repl()


@pytest_asyncio.fixture(loop_scope="module")
async def own(pool: ReplPool) -> AsyncIterator[Repl]:
    """Yield a REPL for a test that ends it."""
    repl = await pool.open((), echo, seed=0)
    yield repl
    await repl.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three(pool: ReplPool) -> AsyncIterator[list[Repl]]:
    """Yield REPLs with the seeds 1, 1 and 2."""
    repls = await asyncio.gather(*(pool.open([SEARCH], echo, seed=seed) for seed in (1, 1, 2)))
    yield list(repls)
    await asyncio.gather(*(repl.close() for repl in repls))


async def run(repl: Repl, code: str) -> Execution:
    return await repl.run(code, deadline_s=30.0)


async def value(repl: Repl, code: str) -> str:
    execution = await run(repl, code)
    assert execution.status == "ok", execution
    return result(execution)


def result(execution: Execution) -> str:
    (found,) = [output for output in execution.outputs if isinstance(output, Result)]
    return found.data["text/plain"]


def error(execution: Execution) -> Error:
    assert execution.status == "error", execution
    (found,) = [output for output in execution.outputs if isinstance(output, Error)]
    return found


def text(execution: Execution, name: str = "stdout") -> str:
    return "".join(output.text for output in execution.outputs if isinstance(output, Stream) and output.name == name)


# Cells


async def test_state_persists_from_cell_to_cell(repl: Repl) -> None:
    await run(repl, "import math\nradius = 2\ndef area(): return radius ** 2")
    await run(repl, "radius = 3")
    assert await value(repl, "area(), math.pi > 3") == "(9, True)"


async def test_the_last_expression_is_shown(repl: Repl) -> None:
    assert await value(repl, "x = 40\nx + 2") == "42"


@pytest.mark.parametrize("code", ["", "   \n", "# a comment", "y = 1", "1;", "None", "pass"])
async def test_a_silent_cell_shows_nothing(repl: Repl, code: str) -> None:
    execution = await run(repl, code)
    assert (execution.status, execution.outputs, execution.reason) == ("ok", (), "")


async def test_prints_come_in_order_and_as_one(repl: Repl) -> None:
    execution = await run(repl, "for n in range(1000): print(n)")
    assert execution.outputs == (Stream(name="stdout", text="".join(f"{n}\n" for n in range(1000))),)


async def test_stderr_is_told_from_stdout(repl: Repl) -> None:
    execution = await run(repl, "import sys\nprint('out')\nprint('err', file=sys.stderr)")
    assert (text(execution), text(execution, "stderr")) == ("out\n", "err\n")


async def test_stdout_and_stderr_keep_their_order_among_each_other(repl: Repl) -> None:
    code = "import sys\nfor n in range(20): print(n, file=(sys.stdout, sys.stderr)[n % 2])"
    assert (await run(repl, code)).outputs == tuple(
        Stream(name="stderr" if n % 2 else "stdout", text=f"{n}\n") for n in range(20)
    )


async def test_displays_come_in_order_with_what_is_printed(repl: Repl) -> None:
    execution = await run(
        repl, "from IPython.display import display\nprint('a')\ndisplay(1)\nprint('b')\ndisplay(2)\n3"
    )
    expected: tuple[Output, ...] = (
        Stream(name="stdout", text="a\n"),
        Display(data={"text/plain": "1"}),
        Stream(name="stdout", text="b\n"),
        Display(data={"text/plain": "2"}),
        Result(data={"text/plain": "3"}),
    )
    assert execution.outputs == expected


async def test_rich_representations_leave_as_text(repl: Repl) -> None:
    code = """
from IPython.display import HTML, display
class Rich:
    def __repr__(self): return 'rich'
    def _repr_png_(self): return b'\\x89PNG'
    def _repr_json_(self): return {'a': [1]}
display(HTML('<b>bold</b>'))
Rich()
"""
    shown, last = (await run(repl, code)).outputs
    assert isinstance(shown, Display)
    assert shown.data["text/html"] == "<b>bold</b>"
    assert isinstance(last, Result)
    assert last.data["text/plain"] == "rich"
    assert base64.b64decode(last.data["image/png"]) == b"\x89PNG"
    assert json.loads(last.data["application/json"]) == {"a": [1]}


async def test_an_image_is_there_as_a_whole_or_the_text_says_that_it_is_not(repl: Repl) -> None:
    code = """
class Image:
    def __repr__(self): return 'image'
    def _repr_png_(self): return bytes(360_000)
for _ in range(3): display(Image())
Image()
"""
    *shown, last = (output.data for output in (await run(repl, code)).outputs if isinstance(output, Display | Result))
    assert [base64.b64decode(data["image/png"]) for data in shown] == [bytes(360_000)] * 3
    assert last == {"text/plain": "image\n… [image/png of 480000 characters left out] …"}


async def test_a_display_is_changed_and_outputs_are_cleared(repl: Repl) -> None:
    code = """
from IPython.display import clear_output, display
print('gone')
clear_output()
handle = display('first', display_id='one')
print('between')
handle.update('second')
"""
    assert (await run(repl, code)).outputs == (
        Display(data={"text/plain": "'second'"}),
        Stream(name="stdout", text="between\n"),
    )


async def test_a_traceback_names_the_error_and_its_line_without_colours(repl: Repl) -> None:
    execution = await run(repl, "print('before')\ndef ratio(a, b):\n    return a / b\n\nratio(1, 0)")
    assert execution.outputs[0] == Stream(name="stdout", text="before\n")
    found = error(execution)
    assert (found.ename, found.evalue) == ("ZeroDivisionError", "division by zero")
    told = "\n".join(found.traceback)
    assert "line 5" in told
    assert "return a / b" in told
    assert found.traceback[-1] == "ZeroDivisionError: division by zero"
    assert "\x1b" not in told


async def test_a_syntax_error_points_at_its_place(repl: Repl) -> None:
    found = error(await run(repl, "x = 1\ny = = 2"))
    assert found.ename == "SyntaxError"
    told = "\n".join(found.traceback)
    assert "line 2" in told
    assert "y = = 2" in told


async def test_an_error_ends_its_cell_only(repl: Repl) -> None:
    await run(repl, "kept = 1\n1 / 0\nkept = 2")
    assert await value(repl, "kept") == "1"


async def test_top_level_await(repl: Repl) -> None:
    assert await value(repl, "import asyncio\nawait asyncio.sleep(0, 'done')") == "'done'"
    assert await value(repl, "await asyncio.sleep(0, 'again')") == "'again'"


async def test_input_is_at_its_end(repl: Repl) -> None:
    assert error(await run(repl, "input('your name? ')")).ename == "EOFError"


@pytest.mark.parametrize("code", ["import sys\nsys.exit(3)", "exit()", "quit()", "raise SystemExit"])
async def test_an_exit_is_an_error_and_the_repl_lives_on(repl: Repl, code: str) -> None:
    assert error(await run(repl, code)).ename == "SystemExit"
    assert await value(repl, "1 + 1") == "2"


async def test_any_script_comes_through(repl: Repl) -> None:
    told = "é ε Ж 北京 🎈 \x00 \x7f"
    execution = await run(repl, f"print({told!r})\n'北京'")
    assert (text(execution), result(execution)) == (told + "\n", "'北京'")


async def test_a_lone_surrogate_in_a_cell_is_replaced(repl: Repl) -> None:
    assert await value(repl, "'\ud800'") == "'?'"


async def test_printing_what_has_no_utf_8_is_readable(repl: Repl) -> None:
    execution = await run(repl, "print('before', '\\ud800', 'after')")
    assert execution.status == "ok"
    assert text(execution).startswith("before ")
    assert text(execution).endswith(" after\n")
    assert not text(execution, "stderr")


async def test_a_cell_of_a_megabyte(repl: Repl) -> None:
    lines = "\n".join(f"total += {n}  # {'x' * 80}" for n in range(10_000))
    assert len(lines) > 900_000
    assert await value(repl, f"total = 0\n{lines}\ntotal") == str(sum(range(10_000)))


# Bounds


async def test_a_flood_keeps_its_head_and_tail(repl: Repl) -> None:
    told = text(await run(repl, "for n in range(100_000): print(n)"))
    assert told.startswith("0\n1\n2\n")
    assert told.endswith("99998\n99999\n")
    assert "characters left out" in told
    assert len(told) < 70_000


async def test_a_large_result_keeps_its_head_and_tail(repl: Repl) -> None:
    shown = await value(repl, "'h' + 'y' * 5_000_000 + 't'")
    assert (shown[:3], shown[-3:]) == ("'hy", "yt'")
    assert len(shown) < 70_000


async def test_a_result_of_fifty_megabytes_keeps_its_head_and_tail(repl: Repl) -> None:
    shown = await value(repl, "'h' + 'y' * 50_000_000 + 't'")
    assert (shown[:3], shown[-3:]) == ("'hy", "yt'")


async def test_after_a_result_of_fifty_megabytes_the_repl_lives_on(repl: Repl) -> None:
    execution = await run(repl, "'y' * 50_000_000")
    assert execution.status == "ok"
    assert sum(len(str(output)) for output in execution.outputs) < 70_000
    assert await value(repl, "1 + 1") == "2"


async def test_the_number_of_outputs_is_bounded(repl: Repl) -> None:
    execution = await run(repl, "from IPython.display import display\nfor n in range(500): display(n)")
    assert len(execution.outputs) <= 128
    assert "outputs left out" in text(execution, "stderr")
    assert execution.outputs[0] == Display(data={"text/plain": "0"})
    assert execution.outputs[-1] == Display(data={"text/plain": "499"})


async def test_many_large_displays_are_bounded_together(repl: Repl) -> None:
    execution = await run(repl, "from IPython.display import display\nfor n in range(50): display('z' * 200_000)")
    assert sum(len(output.data["text/plain"]) for output in execution.outputs if isinstance(output, Display)) < 300_000


async def test_a_long_traceback_is_bounded(repl: Repl) -> None:
    found = error(await run(repl, "raise ValueError('x' * 5_000_000)"))
    assert len(found.evalue) < 3_000
    assert sum(map(len, found.traceback)) < 70_000


# Deadlines and ends


@pytest.mark.parametrize(
    "code", ["import time\ntime.sleep(60)", "while True: pass", "import asyncio\nawait asyncio.sleep(60)"]
)
async def test_a_slow_cell_is_interrupted_and_the_repl_lives_on(repl: Repl, code: str) -> None:
    await run(repl, "kept = 5")
    started = time.monotonic()
    execution = await repl.run(f"print('so far', flush=True)\n{code}", deadline_s=0.4)
    assert time.monotonic() - started < 10.0  # the grace, and a busy machine
    assert execution.status == "timed_out"
    assert "0.4 s" in execution.reason
    assert 0.4 <= execution.duration_s < 2.0
    assert text(execution) == "so far\n"
    assert await value(repl, "kept") == "5"


async def test_interrupts_never_reach_the_next_cell(repl: Repl) -> None:
    for number in range(5):
        await repl.run("for _ in range(3000): pass", deadline_s=0.001)
        assert await value(repl, str(number)) == str(number)


async def test_a_cell_that_ignores_interrupts_is_killed(own: Repl) -> None:
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    started = time.monotonic()
    execution = await own.run(code, deadline_s=0.3)
    assert time.monotonic() - started < 10.0
    assert execution.status == "killed"
    assert "deadline of 0.3 s" in execution.reason
    with pytest.raises(ReplDied, match="deadline"):
        await run(own, "1")


@pytest.mark.parametrize(
    ("code", "reason"),
    [("import os\nos._exit(3)", "exited with code 3"), ("import ctypes\nctypes.string_at(0)", "SIGSEGV")],
)
async def test_a_cell_that_ends_its_process_is_killed_and_says_how(own: Repl, code: str, reason: str) -> None:
    execution = await run(own, code)
    assert execution.status == "killed"
    assert reason in execution.reason
    with pytest.raises(ReplDied, match=reason):
        await run(own, "1")


async def test_closing_twice_is_one_close_and_ends_the_cell_that_runs(pool: ReplPool) -> None:
    before = pool.stats()["open"]
    called = asyncio.Event()

    async def busy(name: str, arguments: dict[str, Json]) -> Json:
        called.set()
        return None

    repl = await pool.open([SEARCH], busy, seed=0)
    assert pool.stats()["open"] == before + 1
    running = asyncio.create_task(repl.run("import time\nsearch()\ntime.sleep(60)", deadline_s=60.0))
    async with asyncio.timeout(20.0):
        await called.wait()
        await asyncio.gather(repl.close(), repl.close())
        execution = await running
    assert execution.status == "killed"
    await repl.close()
    with pytest.raises(ReplDied):
        await run(repl, "1")
    assert pool.stats()["open"] == before


async def test_a_cell_that_is_cancelled_ends_its_repl(pool: ReplPool) -> None:
    called = asyncio.Event()

    async def busy(name: str, arguments: dict[str, Json]) -> Json:
        called.set()
        return None

    repl = await pool.open([SEARCH], busy, seed=0)
    running = asyncio.create_task(repl.run("import time\nsearch()\ntime.sleep(60)", deadline_s=60.0))
    async with asyncio.timeout(20.0):
        await called.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        with pytest.raises(ReplDied, match="abandoned"):
            await run(repl, "1")
        await repl.close()


# Tools


async def test_arguments_by_position_and_by_name(repl: Repl) -> None:
    expected = "{'name': 'search', 'arguments': {'query': 'Liri', 'limit': 2}}"
    assert await value(repl, "search('Liri', 2)") == expected
    assert await value(repl, "search(limit=2, query='Liri')") == expected
    assert await value(repl, "search(['é', None, True, 1.5, {'k': 1}])['arguments']['query']") == (
        "['é', None, True, 1.5, {'k': 1}]"
    )


async def test_a_stub_is_a_plain_documented_function(repl: Repl) -> None:
    assert await value(repl, "search.__doc__") == repr(SEARCH.description)
    assert await value(repl, "import inspect\nstr(inspect.signature(search)), search.__name__") == (
        "('(query, limit)', 'search')"
    )


async def test_arrays_and_sets_are_sent_as_lists(repl: Repl) -> None:
    assert await value(repl, "import numpy as np\nsearch(np.array([1, 2]), np.int64(3))['arguments']") == (
        "{'query': [1, 2], 'limit': 3}"
    )
    assert await value(repl, "search({2, 1})['arguments']['query']") == "[1, 2]"


async def test_a_tools_error_is_an_exception_that_the_cell_can_catch(shared: Shared, repl: Repl) -> None:
    async def fail(name: str, arguments: dict[str, Json]) -> Json:
        raise ToolError("no such index", fault="tool")

    shared.host.answer = fail
    found = error(await run(repl, "search('x')"))
    assert (found.ename, found.evalue) == ("ToolError", "no such index")
    assert found.traceback[-1] == "ToolError: no such index"
    assert await value(repl, "try:\n    search('x')\nexcept ToolError as e:\n    note = str(e)\nnote") == (
        "'no such index'"
    )


@pytest.mark.parametrize(
    "call",
    [
        "search(1, 2, 3)",
        "search(colour=1)",
        "search(1, query=2)",
        "search(object())",
        "search(float('nan'))",
        "search('x' * 20_000_000)",
    ],
)
async def test_wrong_arguments_fail_in_the_cell_and_never_leave_it(shared: Shared, repl: Repl, call: str) -> None:
    shared.host.answer = never
    assert error(await run(repl, call)).ename in ("TypeError", "ValueError")


async def test_more_than_a_tool_is_given_is_refused_by_name(shared: Shared, repl: Repl) -> None:
    shared.host.answer = never
    found = error(await run(repl, "search('x' * 2_000_000)"))
    assert found.ename == "ToolError"
    assert "search: 2,0" in found.evalue


async def test_an_answer_that_cannot_be_sent_is_a_tool_error(shared: Shared, repl: Repl) -> None:
    async def huge(name: str, arguments: dict[str, Json]) -> Json:
        return "x" * 20_000_000

    shared.host.answer = huge
    assert error(await run(repl, "search('x')")).ename == "ToolError"
    assert await value(repl, "1 + 1") == "2"


async def test_waiting_for_a_tool_does_not_count(shared: Shared, repl: Repl) -> None:
    async def slow(name: str, arguments: dict[str, Json]) -> Json:
        await asyncio.sleep(1.2)
        return "late"

    shared.host.answer = slow
    execution = await repl.run("search('x')", deadline_s=1.0)
    assert (execution.status, result(execution)) == ("ok", "'late'")
    assert execution.duration_s < 1.0


async def test_many_calls_in_one_cell_and_an_interrupt_between_them(repl: Repl) -> None:
    assert await value(repl, "sum(search(n)['arguments']['query'] for n in range(100))") == str(sum(range(100)))
    for number in range(3):
        execution = await repl.run("while True: search('x')", deadline_s=0.3)
        assert execution.status == "timed_out"
        assert await value(repl, f"search({number})['arguments']") == f"{{'query': {number}}}"


async def test_strange_text_survives_both_ways(shared: Shared, repl: Repl) -> None:
    async def repeat(name: str, arguments: dict[str, Json]) -> Json:
        return arguments["query"]

    shared.host.answer = repeat
    assert await value(repl, "told = 'é<|im_end|>\\x00\\n\\x04' * 20_000\nsearch(told) == told, search('\\x04')") == (
        "(True, '\\x04')"
    )
    assert await value(repl, "search('\\ud800')") == "'?'"


async def test_calls_of_two_repls_do_not_wait_for_each_other(pool: ReplPool) -> None:
    both = asyncio.Barrier(2)

    async def meet(name: str, arguments: dict[str, Json]) -> Json:
        async with asyncio.timeout(20.0):
            await both.wait()
        return arguments["query"]

    repls = await asyncio.gather(*(pool.open([SEARCH], meet, seed=0) for _ in range(2)))
    assert await asyncio.gather(*(value(repl, f"search({n})") for n, repl in enumerate(repls))) == ["0", "1"]
    await asyncio.gather(*(repl.close() for repl in repls))


async def test_an_argument_that_is_no_call_never_leaves_the_cell(shared: Shared, repl: Repl) -> None:
    shared.host.answer = never
    assert error(await run(repl, "x = []\nx.append(x)\nsearch(x)")).ename == "ValueError"
    assert error(await run(repl, "search(10 ** 5000)")).ename == "ValueError"


WORKERS = """
import multiprocessing as mp, os
from concurrent.futures import ProcessPoolExecutor
def ask(name): return search(name)["arguments"]["query"]
"""


async def test_tools_are_called_from_worker_processes(repl: Repl) -> None:
    await run(repl, WORKERS)
    assert (
        await value(repl, "with mp.Pool(2) as pool: told = pool.map(ask, range(20))\ntold == list(range(20))") == "True"
    )
    assert await value(
        repl, "with ProcessPoolExecutor(2) as pool: told = list(pool.map(search, 'ab', [1, 2]))\ntold"
    ) == (
        "[{'name': 'search', 'arguments': {'query': 'a', 'limit': 1}},\n"
        " {'name': 'search', 'arguments': {'query': 'b', 'limit': 2}}]"
    )


async def test_a_repl_survives_any_failure_of_calls_from_worker_processes(repl: Repl) -> None:
    await run(repl, WORKERS)
    forked = "pid = os.fork()\nif pid == 0:\n    try: ask('child')\n    finally: os._exit(0)\nos.waitpid(pid, 0)[1]"
    assert await value(repl, forked) == "0"
    told = """
def told(name):
    try: return ask(name)
    except ToolError as error: return str(error)
with mp.Pool(1) as pool: answer = pool.map(told, ["Liri"])
answer == ["Liri"] or "in threads" in answer[0]
"""
    assert await value(repl, told) == "True"
    killed = "for _ in range(5):\n    worker = mp.Process(target=ask, args=('x' * 900_000,)); worker.start(); worker.kill(); worker.join()"
    assert (await run(repl, killed)).status == "ok"
    assert await value(repl, "search('parent')['arguments']") == "{'query': 'parent'}"


async def test_a_tools_error_reaches_the_cell_from_a_worker_process(shared: Shared, repl: Repl) -> None:
    async def fail(name: str, arguments: dict[str, Json]) -> Json:
        raise ToolError("no such index", fault="tool")

    shared.host.answer = fail
    await run(repl, WORKERS)
    assert (
        error(await run(repl, "with ProcessPoolExecutor(1) as pool: list(pool.map(ask, ['x']))")).ename == "ToolError"
    )


@pytest.mark.parametrize(
    "code",
    [
        "%reset -f",
        "get_ipython().reset()",
        "%xdel search",
        "%reset_selective -f search",
        "del search, ToolError",
        "for name in [name for name in globals() if not name.startswith('_')]: del globals()[name]",
    ],
)
async def test_tools_are_there_again_after_a_cell_that_clears_names(repl: Repl, code: str) -> None:
    assert (await run(repl, code)).status == "ok"
    assert await value(repl, "search('x')['name'], ToolError.__name__") == "('search', 'ToolError')"


async def test_a_value_that_takes_the_name_of_a_tool_moves_to_another_one(repl: Repl) -> None:
    execution = await run(repl, "search = search('x')['name']\nprint(search)")
    assert (execution.status, text(execution)) == ("ok", "search\n")
    assert text(execution, "stderr") == (
        "[the session has restored search, which this cell overwrote; the cell's value is now in search_]\n"
    )
    assert await value(repl, "search('y')['arguments'], search_") == "({'query': 'y'}, 'search')"
    await run(repl, "for search in 'ab': pass\nsearch_2 = 2")
    await run(repl, "ToolError, ToolError_ = None, 'mine'")
    assert await value(repl, "search('y')['name'], search_, search_2, ToolError_, ToolError_2") == (
        "('search', 'b', 2, 'mine', None)"
    )
    assert error(await run(repl, "raise ToolError('still one')")).evalue == "still one"


# Files


async def test_a_file_goes_in_and_comes_out_as_it_was(own: Repl) -> None:
    assert await own.files() == ()
    await own.put("data/2026/table.csv", b"a,b\n1,2\n")
    assert await value(own, "open('data/2026/table.csv').read()") == repr("a,b\n1,2\n")
    await run(own, "with open('out.bin', 'wb') as file: n = file.write(bytes(range(256)) * 8192)")
    assert await own.get("out.bin") == bytes(range(256)) * 8192
    await own.put("./data//2026/table.csv", b"")
    assert await own.files() == (
        WorkspaceFile(path="data/2026/table.csv", size=0),
        WorkspaceFile(path="out.bin", size=256 * 8192),
    )


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "names no file"),
        ("a/../../etc/passwd", "leaves the workspace"),
        ("/etc/passwd", "leaves the workspace"),
        ("a\0b", "null byte"),
        ("a\udcff", "valid Unicode"),
        ("d/" * 600 + "f", "limit is 1,024"),
        ("n" * 256, "255 bytes"),
    ],
)
async def test_a_wrong_path_is_the_askers_fault(repl: Repl, path: str, why: str) -> None:
    with pytest.raises(WorkspaceError, match=why):
        await repl.put(path, b"x")
    with pytest.raises(WorkspaceError, match=why):
        await repl.get(path)
    assert await value(repl, "1 + 1") == "2"


async def test_a_module_of_the_workspace_is_imported(own: Repl) -> None:
    await own.put("mine_alone.py", b"def twice(x): return 2 * x\n")
    assert await value(own, "import mine_alone\nmine_alone.twice(21)") == "42"


async def test_a_tool_reads_files_while_it_is_called(pool: ReplPool) -> None:
    async def on_call(name: str, arguments: dict[str, Json]) -> Json:
        whole, also = await asyncio.gather(fresh.get("out.bin"), fresh.get("also.txt"))
        with pytest.raises(WorkspaceError, match="not there"):
            await fresh.get("none.txt")
        return [len(whole), also.decode()]

    fresh = await pool.open([SEARCH], on_call, seed=7)
    code = "with open('out.bin', 'wb') as file: n = file.write(bytes(3_000_000))\nopen('also.txt', 'w').write('also')\n"
    assert await value(fresh, code + "search('x'), search('y')") == "([3000000, 'also'], [3000000, 'also'])"
    assert await fresh.get("also.txt") == b"also"
    await fresh.close()


async def test_a_tool_may_bring_its_own_side_of_the_session(pool: ReplPool) -> None:
    class Counter:
        name, parameters, description = "counter", ("by",), "counter"
        kernel_source = """
class Counter:
    total = 0
    def add(self, by):
        self.total = ask(by=by)
        return self.total
counter = Counter()
"""

    total = 0

    async def on_call(name: str, arguments: dict[str, Json]) -> Json:
        nonlocal total
        if not isinstance(arguments["by"], int):
            raise ToolError("not a number", fault="agent")
        total += arguments["by"]
        return total

    repl = await pool.open([Counter()], on_call, seed=1)
    assert await value(repl, "counter.add(2), counter.add(3), counter.total") == "(2, 5, 5)"
    execution = await repl.run("counter.add('x')", deadline_s=20.0)
    assert "not a number" in str(execution.outputs)
    await repl.close()


async def test_what_is_no_regular_file_is_refused_by_name(repl: Repl) -> None:
    code = """
import os
os.makedirs('directory/inner', exist_ok=True)
open('file', 'w').close()
os.symlink('/etc/passwd', 'link')
os.symlink('/etc', 'linked')
os.mkfifo('fifo')
"""
    assert (await run(repl, code)).status == "ok"
    for path, why in (
        ("missing", "not there"),
        ("directory", "a directory"),
        ("file/below", "no directory"),
        ("link", "links are not followed"),
        ("linked/passwd", "links are not followed"),
        ("fifo", "not a regular file"),
    ):
        with pytest.raises(WorkspaceError, match=f"'{path}': .*{why}"):
            await repl.get(path)
    with pytest.raises(WorkspaceError, match="links are not followed"):
        await repl.put("linked/passwd", b"x")
    assert {file.path for file in await repl.files()} == {"file"}


async def test_a_file_that_is_too_large_is_refused(repl: Repl) -> None:
    with pytest.raises(WorkspaceError, match=r"repl\.file_mb"):
        await repl.put("large", bytes((16 << 20) + 1))
    await run(repl, "with open('large', 'wb') as file: n = file.truncate((16 << 20) + 1)")
    with pytest.raises(WorkspaceError, match=r"repl\.file_mb"):
        await repl.get("large")
    assert await value(repl, "1 + 1") == "2"


async def test_no_file_goes_in_or_out_of_a_repl_that_is_gone(own: Repl) -> None:
    await own.close()
    for attempt in (own.put("file", b"x"), own.get("file"), own.files()):
        with pytest.raises(ReplDied, match="closed"):
            await attempt


# Several REPLs


async def test_the_seed_decides_what_is_drawn(three: list[Repl]) -> None:
    for library in ("random", "numpy.random"):
        first, same, other = [await value(repl, f"import {library}\n{library}.random()") for repl in three]
        assert first == same != other


async def test_two_repls_share_no_state(three: list[Repl]) -> None:
    await run(three[0], "secret = 1\nopen('note', 'w').write('hi')\nimport builtins\nbuiltins.spy = 1")
    assert await value(three[1], "import os\n'secret' in globals(), os.listdir()") == "(False, [])"
    assert error(await run(three[1], "spy")).ename == "NameError"


async def test_cells_of_two_repls_run_at_once(three: list[Repl]) -> None:
    code = "import time\nbegan = time.monotonic()\ntime.sleep(1)\nbegan, time.monotonic()"
    spans = [pair(told) for told in await asyncio.gather(*(value(repl, code) for repl in three[:2]))]
    assert max(began for began, _ in spans) < min(ended for _, ended in spans)


async def test_stats_count_what_is_open(pool: ReplPool, own: Repl) -> None:
    stats = pool.stats()
    assert stats["open"] >= 1
    assert stats["opened"] >= stats["open"]


async def test_closing_the_pool_closes_all(backend: str) -> None:
    async with BACKENDS[backend]() as pool:
        repls = await asyncio.gather(*(pool.open((), echo, seed=0) for _ in range(2)))
        running = asyncio.create_task(repls[0].run("import time\ntime.sleep(60)", deadline_s=60.0))
        await value(repls[1], "1")
        await pool.close()
        assert pool.stats()["open"] == 0
        async with asyncio.timeout(10.0):
            assert isinstance(await asyncio.gather(running, return_exceptions=True), list)
        for repl in repls:
            with pytest.raises(ReplDied):
                await run(repl, "1")
        with pytest.raises(ReplError, match="closed"):
            await pool.open((), echo, seed=0)
        await pool.close()


# Copies


async def test_a_copy_goes_its_own_way(own: Repl) -> None:
    await run(own, "import random\nx = [1]\nopen('note', 'w').write('both')")
    copy = await own.fork(echo, seed=2)
    try:
        await run(copy, "x.append('copy')\nopen('note', 'w').write('copy')")
        await run(own, "x.append('original')")
        assert await value(own, "x, open('note').read()") == "([1, 'original'], 'both')"
        assert await value(copy, "x, open('note').read()") == "([1, 'copy'], 'copy')"
        assert await value(own, "random.random()") != await value(copy, "random.random()")
        assert await copy.get("note") == b"copy"
        await own.close()
        assert await value(copy, "x") == "[1, 'copy']"
    finally:
        await copy.close()
    with pytest.raises(ReplDied):
        await run(copy, "x")


async def test_tools_of_a_copy_are_answered_by_its_own_host(pool: ReplPool) -> None:
    async def hers(name: str, arguments: dict[str, Json]) -> Json:
        return "hers"

    original = await pool.open([SEARCH], echo, seed=1)
    try:
        copy = await original.fork(hers, seed=2)
        assert await value(copy, "search('x')") == "'hers'"
        assert await value(original, "search('x')['name']") == "'search'"
        await copy.close()
    finally:
        await original.close()


async def test_a_repl_that_cannot_be_copied_says_why_and_goes_on(repl: Repl) -> None:
    await run(repl, "import threading\ndone = threading.Event()\nthreading.Thread(target=done.wait).start()")
    with pytest.raises(ForkRefused, match="cop"):
        await repl.fork(echo, seed=2)
    assert await value(repl, "done.set()\n6 * 7") == "42"


async def never(name: str, arguments: dict[str, Json]) -> Json:
    raise AssertionError(f"{name}({arguments}) left its cell")


def pair(told: str) -> tuple[float, float]:
    first, second = told.strip("()").split(", ")
    return float(first), float(second)
