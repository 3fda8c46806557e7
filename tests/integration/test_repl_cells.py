"""What a cell does, as IPython users expect it, through the real sandbox."""

import pytest
from repl_sessions import no_tools, run, value

from lzero.repl import LocalPool, LocalRepl
from lzero.types import Display, Error, Execution, Stream

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


def streams(execution: Execution) -> list[tuple[str, str]]:
    return [(output.name, output.text) for output in execution.outputs if isinstance(output, Stream)]


def error(execution: Execution) -> Error:
    (found,) = [output for output in execution.outputs if isinstance(output, Error)]
    return found


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
