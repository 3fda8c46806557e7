"""Cells behave as IPython users expect, through the real sandbox."""

import os

import pytest
from repl_sessions import error, no_tools, run, streams, value

from lzero.repl import LocalPool, LocalRepl
from lzero.types import Display, Error, Result, Stream

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


async def test_state_persists_from_cell_to_cell(repl: LocalRepl) -> None:
    await run(repl, "import math\nradius = 2\ndef area(): return radius ** 2")
    await run(repl, "radius = 3")
    assert await value(repl, "area(), math.pi > 3") == "(9, True)"


async def test_the_last_expression_is_shown_and_a_silent_cell_shows_nothing(repl: LocalRepl) -> None:
    assert await value(repl, "x = 40\nx + 2") == "42"
    assert await value(repl, "_ + 1") == "43"
    assert (await run(repl, "y = 1")).outputs == ()
    assert (await run(repl, "y;")).outputs == ()
    assert (await run(repl, "")).status == "ok"


async def test_top_level_await(repl: LocalRepl) -> None:
    assert await value(repl, "import asyncio\nawait asyncio.sleep(0, 'done')") == "'done'"
    assert await value(repl, "await asyncio.sleep(0, 'again')") == "'again'"


async def test_magics_and_shell_escapes(repl: LocalRepl) -> None:
    assert streams(await run(repl, "!echo from the shell")) == [("stdout", "from the shell\n")]
    assert streams(await run(repl, "%%capture\nprint('hidden')")) == []
    assert (await run(repl, "%no_such_magic")).status == "error"


async def test_a_traceback_shows_the_cell_and_no_colours(repl: LocalRepl) -> None:
    await run(repl, "def ratio(a, b):\n    return a / b")
    execution = await run(repl, "print('before')\nratio(1, 0)")
    assert execution.status == "error"
    assert streams(execution) == [("stdout", "before\n")]
    found = error(execution)
    assert (found.ename, found.evalue) == ("ZeroDivisionError", "division by zero")
    text = "\n".join(found.traceback)
    assert text.startswith('Traceback (most recent call last):\n  File "<cell 2>", line 2, in <module>\n')
    assert 'File "<cell 1>", line 2, in ratio' in text
    assert "\x1b" not in text
    assert "IPython" not in text
    assert "/opt/" not in text


async def test_a_syntax_error_points_at_the_place(repl: LocalRepl) -> None:
    found = error(await run(repl, "x = = 1"))
    assert found.traceback[0] == '  File "<cell 1>", line 1'
    assert found.traceback[-1] == "SyntaxError: invalid syntax"


async def test_chained_and_strange_exceptions_are_reported(repl: LocalRepl) -> None:
    chained = error(await run(repl, "try:\n    1 / 0\nexcept Exception as e:\n    raise KeyError('k') from e"))
    assert any("direct cause" in line for line in chained.traceback)
    strange = "class Strange(Exception):\n    def __str__(self): raise RuntimeError('no text')\nraise Strange()"
    first = (await run(repl, strange)).outputs[0]
    assert isinstance(first, Error)
    assert first.ename == "Strange"
    deep = error(await run(repl, "def f(n): return f(n + 1)\nf(0)"))
    assert deep.ename == "RecursionError"
    assert len(deep.traceback) < 100
    assert await value(repl, "1 + 1") == "2"


async def test_an_endless_recursion_is_reported_at_once(repl: LocalRepl) -> None:
    execution = await run(repl, "def f(): f()\nf()")
    assert error(execution).ename == "RecursionError"
    assert execution.duration_s < 2.0


async def test_an_error_whose_text_fails_is_one_error(repl: LocalRepl) -> None:
    code = "class Mute(Exception):\n    def __str__(self): raise ValueError('no text')\nraise Mute"
    assert error(await run(repl, code)).ename == "Mute"
    assert await value(repl, "1 + 1") == "2"


@pytest.mark.parametrize("code", ["import sys\nsys.exit(3)", "exit()", "quit"])
async def test_an_exit_is_an_error_and_the_session_lives(repl: LocalRepl, code: str) -> None:
    execution = await run(repl, code)
    assert execution.status == "error"
    assert error(execution).ename == "SystemExit"
    assert await value(repl, "1 + 1") == "2"


async def test_everything_written_is_captured_in_order(repl: LocalRepl) -> None:
    code = """
import os, subprocess, sys
print("python")
os.write(1, b"descriptor\\n")
subprocess.run(["echo", "subprocess"])
print("python again")
print("to stderr", file=sys.stderr)
os.write(2, b"descriptor 2\\n");
"""
    expected = [
        ("stdout", "python\ndescriptor\nsubprocess\npython again\n"),
        ("stderr", "to stderr\ndescriptor 2\n"),
    ]
    assert streams(await run(repl, code)) == expected
    assert streams(await run(repl, "print('next')")) == [("stdout", "next\n")]


async def test_a_cell_may_empty_its_namespace(repl: LocalRepl) -> None:
    await run(repl, "globals().clear()")
    assert await value(repl, "class A: pass\nA.__name__") == "'A'"
    assert (await run(repl, "%who")).status == "ok"


async def test_stdin_is_at_its_end(repl: LocalRepl) -> None:
    assert error(await run(repl, "input()")).ename == "EOFError"
    assert (await run(repl, "breakpoint()")).status in ("ok", "error")
    assert await value(repl, "1 + 1") == "2"


async def test_a_flood_keeps_head_and_tail_and_says_so(repl: LocalRepl) -> None:
    for flood in (
        "for i in range(300_000): print(i)",
        "import os\nfor i in range(300): os.write(1, b'\\n'.join(b'%d' % n for n in range(i * 1000, (i + 1) * 1000)) + b'\\n')\nNone",
    ):
        ((name, text),) = streams(await run(repl, flood))
        assert name == "stdout"
        assert text.startswith("0\n1\n2\n")
        assert text.endswith("299998\n299999\n")
        assert "characters left out" in text
        assert len(text) < 70_000


async def test_a_flood_that_is_over_takes_no_memory(repl: LocalRepl) -> None:
    kept = "kept = int(open('/proc/self/statm').read().split()[1]) * 4096"
    await run(repl, kept)
    await run(repl, "for n in range(100): print('x' * 1_000_000)")
    assert await value(repl, f"before = kept\n{kept}\nkept - before < 20_000_000") == "True"


async def test_one_endless_line_and_a_huge_result_are_cut(repl: LocalRepl) -> None:
    ((_, text),) = streams(await run(repl, "print('x' * 50_000_000)"))
    assert len(text) < 70_000
    assert len(await value(repl, "'y' * 50_000_000")) < 70_000


async def test_the_number_of_outputs_is_bounded(repl: LocalRepl) -> None:
    execution = await run(repl, "from IPython.display import display\nfor i in range(5000): display(i)")
    assert len(execution.outputs) <= 128
    assert any("outputs left out" in text for _, text in streams(execution))
    assert execution.outputs[-1] == Display(data={"text/plain": "4999"})


async def test_a_large_answer_of_many_big_displays_is_bounded(repl: LocalRepl) -> None:
    execution = await run(repl, "for i in range(200): display('z' * 1_000_000)")
    total = sum(
        len(output.data["text/plain"]) for output in execution.outputs if not isinstance(output, Stream | Error)
    )
    assert execution.status == "ok"
    assert total < 4_000_000


async def test_text_that_is_no_utf_8_arrives_readable(repl: LocalRepl) -> None:
    ((_, text),) = streams(await run(repl, "import os\nos.write(1, b'\\xff\\xfeok')\nprint('\\ud800')"))
    assert "ok" in text
    assert await value(repl, "'é' '北京'") == "'é北京'"


async def test_a_full_descriptor_file_is_an_error_in_the_cell_only(repl: LocalRepl) -> None:
    execution = await run(repl, "import os\nblock = b'x' * (1 << 20)\nwhile True: os.write(1, block)")
    assert execution.status == "error"
    assert error(execution).ename == "OSError"
    assert await value(repl, "1 + 1") == "2"


@pytest.mark.parametrize("library", ["random", "numpy.random"])
async def test_the_seed_decides_what_random_draws(pool: LocalPool, library: str) -> None:
    draws = []
    for seed in (1, 1, 2):
        repl = await pool.open((), no_tools, seed=seed)
        draws.append(await value(repl, f"import {library}\n{library}.random()"))
        await repl.close()
    assert draws[0] == draws[1] != draws[2]


async def test_hashes_are_the_same_in_every_session(pool: LocalPool) -> None:
    seen = set()
    for seed in range(2):
        repl = await pool.open((), no_tools, seed=seed)
        seen.add(await value(repl, "hash('abc'), list({'a', 'b', 'c', 'd'})"))
        await repl.close()
    assert len(seen) == 1


async def test_sessions_do_not_share_state(pool: LocalPool) -> None:
    first = await pool.open((), no_tools, seed=0)
    second = await pool.open((), no_tools, seed=0)
    await run(first, "secret = 1\nopen('/tmp/note', 'w').write('hi')\nimport builtins\nbuiltins.spy = 1")
    assert await value(second, "import os\n'secret' in globals(), os.path.exists('/tmp/note'), os.listdir()") == (
        "(False, False, [])"
    )
    assert error(await run(second, "spy")).ename == "NameError"
    await first.close()
    await second.close()


async def test_a_session_starts_clean(repl: LocalRepl) -> None:
    names = await value(repl, "sorted(name for name in globals() if not name.startswith('_'))")
    assert names == "['In', 'Out', 'ToolError', 'exit', 'get_ipython', 'open', 'quit']"


async def test_a_module_of_the_workspace_may_have_any_name(repl: LocalRepl) -> None:
    names = ("heap", "frames", "files", "workspace", "shell", "kernel", "capture", "proc", "isolate")
    for name in names:
        await repl.put(f"{name}.py", f"mine = {name!r}".encode())
    code = f"import importlib\n[importlib.import_module(name).mine for name in {names!r}] == list({names!r})"
    assert await value(repl, code) == "True"


async def test_a_session_has_no_command_line(repl: LocalRepl) -> None:
    parse = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--count', type=int, default=4)\n"
    assert await value(repl, f"import sys\n{parse}parser.parse_args().count, sys.argv") == "(4, [''])"
    tests = "import unittest\nclass Sums(unittest.TestCase):\n    def test_sum(self): self.assertEqual(1 + 1, 2)\n"
    assert await value(repl, f"{tests}unittest.main(exit=False).result.testsRun") == "1"


async def test_all_cells_share_one_event_loop(repl: LocalRepl) -> None:
    work = "import asyncio\nasync def work(n, wait=0.0):\n    await asyncio.sleep(wait)\n    return n\n"
    assert await value(repl, f"{work}asyncio.get_event_loop().run_until_complete(work(1))") == "1"
    assert await value(repl, "asyncio.run(work(2)), asyncio.get_event_loop().is_closed()") == "(2, False)"
    await run(repl, "made = [asyncio.create_task(work(3)), asyncio.ensure_future(work(4)), asyncio.gather(work(5))]")
    assert await value(repl, "[await each for each in made]") == "[3, 4, [5]]"
    await run(repl, "asyncio.get_event_loop().close()\nlater = asyncio.create_task(work(6))")
    assert await value(repl, "await later") == "6"
    await run(repl, "asyncio.set_event_loop(asyncio.new_event_loop())\nlater = asyncio.create_task(work(7))")
    assert await value(repl, "await later") == "7"
    child = "import multiprocessing\ndef in_child(): return asyncio.get_event_loop().run_until_complete(work(8))\n"
    pending = "pending = asyncio.create_task(asyncio.sleep(60))\nawait asyncio.sleep(0)\n"
    assert (
        await value(repl, f"{pending}{child}with multiprocessing.Pool(1) as pool: n = pool.apply(in_child)\nn") == "8"
    )
    nested = "await asyncio.sleep(0)\nget_ipython().run_cell('9').result"
    assert (await run(repl, nested)).outputs[-1] == Result(data={"text/plain": "9"})
    outside = (
        "import threading\ndef start(): asyncio.create_task(asyncio.sleep(0))\nthread = threading.Thread(target=start)"
    )
    execution = await run(repl, f"{outside}\nthread.start(); thread.join()")
    assert "no running event loop" in "".join(text for _, text in streams(execution))


async def test_a_task_goes_on_as_its_cell_ends_and_as_the_next_begins(repl: LocalRepl) -> None:
    steps = "async def steps():\n    for _ in range(3): await asyncio.sleep(0)\n    return 'all taken'\n"
    await run(repl, f"import asyncio, time\n{steps}task = asyncio.create_task(steps())")
    await run(
        repl, "timer = asyncio.ensure_future(asyncio.sleep(0.01, 'over'))\nawait asyncio.sleep(0)\ntime.sleep(0.02)"
    )
    assert await value(repl, "task.result(), timer.result()") == "('all taken', 'over')"
    leave = "async def leave(): raise SystemExit\nleaving = asyncio.create_task(leave())"
    assert (await run(repl, leave)).status == "ok"
    assert await value(repl, "leaving.done()") == "True"


async def test_a_task_that_never_lets_go_meets_the_deadline_of_a_cell(repl: LocalRepl) -> None:
    spin = "import asyncio\nasync def spin():\n    while True: pass\n"
    assert (await repl.run(f"{spin}task = asyncio.create_task(spin())", deadline_s=0.3)).status == "timed_out"
    assert await value(repl, "6 * 7") == "42"


async def test_users_and_home_are_the_sessions_own(repl: LocalRepl) -> None:
    names = "import getpass, grp, os, pwd\nowner = os.stat('/usr').st_uid\n"
    names += "pwd.getpwuid(os.getuid()).pw_name, getpass.getuser(), grp.getgrgid(os.getgid()).gr_name, pwd.getpwuid(owner).pw_name"
    assert await value(repl, names) == "('agent', 'agent', 'agent', 'nobody')"
    assert await value(repl, "from pathlib import Path\ndel os.environ['HOME']\nstr(Path.home())") == "'/workspace'"
    assert streams(await run(repl, "!whoami")) == [("stdout", "agent\n")]


async def test_programs_that_are_chosen_in_etc_run(repl: LocalRepl) -> None:
    assert streams(await run(repl, "!echo 3 4 | awk '{print $1 * $2}'")) == [("stdout", "12\n")]
    ((_, found),) = streams(await run(repl, "!which python"))
    assert found == "/opt/environment/bin/python\n"
    chosen = "import os\nlinks = ['/etc/alternatives/' + name for name in os.listdir('/etc/alternatives')]\n"
    if os.path.isdir("/etc/alternatives"):
        system = "('/usr/', '/bin/', '/sbin/', '/lib')"
        assert await value(repl, f"{chosen}all(os.readlink(link).startswith({system}) for link in links)") == "True"


async def test_console_scripts_run(repl: LocalRepl) -> None:
    ((_, said),) = streams(await run(repl, "!pygmentize -V"))
    assert said.startswith("Pygments version")
    assert streams(await run(repl, "!head -n 1 /opt/environment/bin/pygmentize")) == [
        ("stdout", "#!/opt/environment/bin/python\n")
    ]


async def test_a_cell_that_shows_an_error_has_failed(repl: LocalRepl) -> None:
    await run(
        repl, "class Bad:\n    def _repr_html_(self): raise ValueError('no html')\n    def __repr__(self): return 'bad'"
    )
    open_script = "open('script.py', 'w').write('raise KeyError(1)')"
    for code, name in (
        ("Bad()", "ValueError"),
        ("display(Bad())", "ValueError"),
        (f"{open_script}\n%run script.py", "KeyError"),
    ):
        execution = await run(repl, code)
        assert (execution.status, error(execution).ename) == ("error", name)
    assert (await run(repl, "str(Bad())")).status == "ok"
    mute = await run(repl, "class Mute:\n    def __repr__(self): raise ValueError('no text')\nMute()")
    assert [type(output) for output in mute.outputs] == [Error]


async def test_pandas_prints_as_many_columns_as_in_a_notebook(repl: LocalRepl) -> None:
    text = await value(repl, "import pandas\npandas.DataFrame([range(1000, 1020)])")
    assert "..." not in text
    assert "1019" in text
