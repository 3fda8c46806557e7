"""A cell's time, and what happens to those that ignore it."""

import time

import pytest
from repl_sessions import Spec, echo, no_tools

from lzero.errors import ReplDied
from lzero.repl import LocalPool, LocalRepl
from lzero.types import Error, Execution, Result, Stream

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


SEARCH = Spec("search")


async def timed(repl: LocalRepl, code: str, deadline_s: float = 0.3) -> Execution:
    started = time.monotonic()
    execution = await repl.run(code, deadline_s=deadline_s)
    assert time.monotonic() - started < deadline_s + 8.0  # the grace, and a busy machine
    return execution


def without_stderr(execution: Execution) -> list[object]:
    """The outputs but stderr: an interrupted worker writes its traceback when it can, before or after what a later cell says."""
    return [output for output in execution.outputs if not (isinstance(output, Stream) and output.name == "stderr")]


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.sleep(60)",
        "while True: pass",
        "import asyncio\nawait asyncio.sleep(60)",
        "import subprocess\nsubprocess.run(['sleep', '60'])",
        "import threading\nthreading.Event().wait(60)",
        "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass",
        "import time\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "with ProcessPoolExecutor(2) as pool: list(pool.map(time.sleep, [60] * 4))",
        "import time, multiprocessing as mp\nchild = mp.Process(target=time.sleep, args=(60,)); child.start(); child.join()",
        "!sleep 60",
    ],
)
async def test_a_slow_cell_is_interrupted_and_the_session_lives(repl: LocalRepl, code: str) -> None:
    await repl.run("kept = 5", deadline_s=20.0)
    execution = await timed(repl, code)
    assert execution.status == "timed_out"
    assert "0.3 s" in execution.reason
    after = await repl.run("kept", deadline_s=20.0)
    assert without_stderr(after) == [Result(data={"text/plain": "5"})]


async def test_a_cell_is_interrupted_while_another_thread_of_it_calls_a_tool(pool: LocalPool) -> None:
    code = """
import threading, time
def ask():
    while True: search()
threading.Thread(target=ask, daemon=True).start()
time.sleep(60)
"""
    repl = await pool.open([SEARCH], echo, seed=0)
    assert (await timed(repl, code)).status == "timed_out"
    await repl.close()


FIGURES = """
import sys, time, types
pyplot = sys.modules["matplotlib.pyplot"] = types.ModuleType("matplotlib.pyplot")
pyplot.get_backend = lambda: "inline"
pyplot.get_fignums = lambda: list(figures)
pyplot.close = lambda which: figures.clear()
get_ipython().events.register("post_execute", lambda: [time.sleep(60) for _ in figures])
figures = [1, 2]
time.sleep(60)
"""
"""As matplotlib does it: figures that are open at the end of a cell are drawn, which takes long."""


async def test_open_figures_of_an_interrupted_cell_are_closed_and_not_drawn(repl: LocalRepl) -> None:
    execution = await timed(repl, FIGURES)
    assert execution.status == "timed_out"
    note = "[open figures (2) were closed and not drawn: the cell was interrupted]\n"
    assert Stream(name="stderr", text=note) in execution.outputs
    after = await repl.run("figures", deadline_s=20.0)
    assert after.outputs == (Result(data={"text/plain": "[]"}),)


async def test_what_an_interrupted_cell_printed_is_kept(repl: LocalRepl) -> None:
    execution = await timed(repl, "print('so far', flush=True)\nwhile True: pass")
    assert execution.outputs[0] == Stream(name="stdout", text="so far\n")
    assert isinstance(execution.outputs[1], Error)
    assert execution.outputs[1].ename == "KeyboardInterrupt"


@pytest.mark.parametrize(
    "code",
    [
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass",
        "sum(range(10**12))",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\nwhile True: pass",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True:\n    try: sum(range(10**12))\n    except: pass",
    ],
)
async def test_a_cell_that_ignores_the_interrupt_is_killed(pool: LocalPool, code: str) -> None:
    repl = await pool.open((), no_tools, seed=0)
    execution = await timed(repl, code)
    assert execution.status == "killed"
    assert execution.reason == "time: the cell ignored its deadline of 0.3 s and the interrupt"
    with pytest.raises(ReplDied, match="deadline"):
        await repl.run("1", deadline_s=5.0)
    await repl.close()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os\nos._exit(3)", "exit: the session exited with code 3"),
        ("import os\nos._exit(0)", "exit: the session exited with code 0"),
        ("import ctypes\nctypes.string_at(0)", "exit: the session was killed by SIGSEGV"),
        ("import os\nos.abort()", "exit: the session was killed by SIG"),
        ("import os\nos.close(3)", "exit: the session exited with code 1"),
        (
            "import socket, time\nsocket.socket(fileno=3).shutdown(2)\ntime.sleep(60)",
            "exit: the session closed its connection",
        ),
    ],
)
async def test_a_cell_that_ends_its_process_is_killed_and_says_how(pool: LocalPool, code: str, reason: str) -> None:
    repl = await pool.open((), no_tools, seed=0)
    execution = await repl.run(code, deadline_s=20.0)
    assert execution.status == "killed"
    assert execution.reason.startswith(reason)
    await repl.close()


async def test_a_session_cannot_be_used_after_close(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    await repl.close()
    await repl.close()
    with pytest.raises(ReplDied, match="closed"):
        await repl.run("1", deadline_s=5.0)


async def test_an_interrupt_that_comes_before_its_cell_begins_is_not_lost(repl: LocalRepl) -> None:
    for deadline_s in (0.0, 0.0001, 0.0003) * 7:
        execution = await repl.run("while True: pass", deadline_s=deadline_s)
        assert execution.status == "timed_out", deadline_s


async def test_interrupts_never_reach_the_next_cell(repl: LocalRepl) -> None:
    for number in range(20):
        await repl.run("for _ in range(3000): pass", deadline_s=0.0005)
        after = await repl.run(str(number), deadline_s=20.0)
        assert after.outputs == (Result(data={"text/plain": str(number)}),)
