"""Output of the processes that a cell starts: all of it is shown, in whole lines."""

import pytest
from repl_sessions import run, streams, value

from lzero.agent.outputs import render_output
from lzero.repl import LocalRepl

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


FORK = "import os, multiprocessing as mp\n"


async def test_what_child_processes_print_log_and_die_of_is_shown(repl: LocalRepl) -> None:
    await run(repl, "import logging, sys\nfrom IPython.display import display\ndef fails(): 1 / 0\n" + FORK)

    async def shown(child: str, end: str = "child.start(); child.join()") -> list[tuple[str, str]]:
        execution = await run(repl, f"print('before')\n{child}\n{end}\nprint('after')")
        assert execution.status == "ok", execution
        return streams(execution)

    assert await shown("child = mp.Process(target=print, args=('from a child',))") == [
        ("stdout", "before\nfrom a child\nafter\n")
    ]
    (_, traceback, after) = await shown("child = mp.Process(target=fails)")
    assert traceback[0] == "stderr"
    assert traceback[1].endswith("ZeroDivisionError: division by zero\n")
    assert after == ("stdout", "after\n")
    assert ("stderr", "WARNING:root:heed this\n") in await shown(
        "child = mp.Process(target=logging.warning, args=('heed this',))"
    )
    assert await shown("child = mp.get_context('spawn').Process(target=print, args=('spawned',))") == [
        ("stdout", "before\nspawned\nafter\n")
    ]
    assert await shown(
        "pid = os.fork()\nif pid == 0:\n    print('fork', end='', flush=True); os._exit(0)", "_ = os.wait()"
    ) == [("stdout", "before\nforkafter\n")]
    assert await shown("child = mp.Process(target=display, args=('shown',))") == [
        ("stdout", "before\n'shown'\nafter\n")
    ]


@pytest.mark.parametrize(
    ("last", "code", "shown"),
    [
        ("print('to the end', end='')", 0, [("stdout", "to the end")]),
        ("display(42)", 0, [("stdout", "42\n")]),
        ("exit()", 0, []),
        ("raise SystemExit(3)", 3, []),
        ("raise ValueError", 1, [("stderr", "ValueError")]),
    ],
)
async def test_a_child_that_comes_to_the_end_of_the_cell_ends_as_a_program_does(
    repl: LocalRepl, last: str, code: int, shown: list[tuple[str, str]]
) -> None:
    fork = f"{FORK}pid = os.fork()\nif pid: ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\nelse: {last}"
    execution = await run(repl, fork)
    assert [(name, text.strip().split("\n")[-1]) for name, text in streams(execution)] == [
        (name, text.strip()) for name, text in shown
    ]
    assert await value(repl, "ended") == str(code)


async def test_lines_of_several_children_stay_whole(repl: LocalRepl) -> None:
    code = (
        FORK
        + "def say(n):\n    for i in range(50): print('child', n, 'says', i)\nwith mp.Pool(4) as pool: pool.map(say, range(8));"
    )
    ((_, text),) = streams(await run(repl, code))
    assert sorted(text.splitlines()) == sorted(f"child {n} says {i}" for n in range(8) for i in range(50))


async def test_a_child_that_outlives_its_cell_loses_no_line(repl: LocalRepl) -> None:
    code = FORK + "def count():\n    for n in range(2000): print(n)\nchild = mp.Process(target=count); child.start()"
    told = "".join(text for _, text in streams(await run(repl, code)))
    for _ in range(200):
        told += "".join(text for _, text in streams(await run(repl, "pass")))
    told += "".join(text for _, text in streams(await run(repl, "child.join()")))
    assert told == "".join(f"{n}\n" for n in range(2000))


async def test_a_flood_of_a_child_is_cut_and_its_size_is_stated(repl: LocalRepl) -> None:
    code = (
        FORK + "child = mp.Process(target=print, args=('é' * 3_000_000,)); child.start(); child.join(); child.exitcode"
    )
    execution = await run(repl, code)
    assert "[3000002 characters, the middle is cut]" in render_output(execution, max_chars=2000)
