"""What counts as a difference when code runs again, and what does not."""

import shutil
from pathlib import Path

import msgspec
import pytest
from builders import make_cell, make_saved
from episode_fakes import AnyCode, FakePool, calling, cell, killed

from lzero.agent.replay import Difference, compare, repl_config, replay
from lzero.agent.save import given_files, save_run
from lzero.config import ReplConfig
from lzero.errors import ConfigError, StoreError
from lzero.seeds import derive_seed
from lzero.store import read_saved, write_saved
from lzero.types import Display, Error, Json, Notepad, Result, Stream, ToolCall


def out(text: str) -> Stream:
    return Stream(name="stdout", text=text)


def call(result: Json = "rival Kato", **arguments: Json) -> ToolCall:
    return ToolCall(name="search", arguments=arguments, duration_s=0.5, result=result)


ALIKE = [
    (out("<a.B object at 0x7f3a5c0d1e10>\n"), out("<a.B object at 0x7f0000001234>\n")),
    (out("took 12.3 ms ± 1.5 µs, 3s\n"), out("took 9 ms ± 210 ns, 4s\n")),
    (out("in /tmp/tmpab12_xyz/file"), out("in /tmp/tmp99999999/file")),
    (
        Error(ename="E", evalue="no", traceback=('File "/opt/a/lib/x.py", line 3, in f', "File /opt/a/x.py:3, in f()")),
        Error(ename="E", evalue="no", traceback=('File "/b/x.py", line 3, in f', "File ~/.venv/x.py:3, in f()")),
    ),
    (out("\x1b[31mred\x1b[0m\n"), out("red\n")),
]
DIFFERENT = [
    (out("12 apples"), out("13 apples")),
    (out("a"), Stream(name="stderr", text="a")),
    (Display(data={"image/png": "AAAA"}), Display(data={"image/png": "AAAB"})),
    (Result(data={"text/plain": "1"}), Display(data={"text/html": "1"})),
    (Error(ename="E", evalue="no", traceback=()), Error(ename="E", evalue="yes", traceback=())),
]


@pytest.mark.parametrize(("then", "now"), ALIKE)
def test_what_no_two_runs_have_alike_is_no_difference(then: Stream | Error, now: Stream | Error) -> None:
    assert list(compare(make_cell("x", then), make_cell("x", now), number=1)) == []


@pytest.mark.parametrize(("then", "now"), DIFFERENT)
def test_other_outputs_are_a_difference(then: Stream, now: Stream) -> None:
    (found,) = compare(make_cell("x", then), make_cell("x", now), number=2)
    assert (found.step, found.of) == (2, "output")
    assert found.diff.startswith("--- recorded\n+++ now\n")


def test_a_diff_shows_what_differs_and_its_surroundings() -> None:
    then = "\n".join(map(str, range(100)))
    (found,) = compare(make_cell("x", out(then)), make_cell("x", out(then.replace("50", "fifty\x1b[2J"))), number=1)
    assert found.diff.split("\n") == ["--- recorded", "+++ now", " 48", " 49", "-50", "+fifty", " 51", " 52"]


def test_long_outputs_are_compared_in_part() -> None:
    then, now = ("\n".join(f"{word} {number}" for number in range(50_000)) for word in ("a", "b"))
    (found,) = compare(make_cell("x", out(then)), make_cell("x", out(now)), number=1)
    assert found.diff.endswith("[compared up to line 1001, of 50001 and 50001]")


def test_status_calls_and_notepad_are_compared() -> None:
    then = make_cell("x", out("a"), tool_calls=(call(query="Liri"),), notepad=Notepad(facts=("a",)))
    now = make_cell("x", out("b"), status="timed_out", tool_calls=(call(query="Titu"),))
    assert [found.of for found in compare(then, now, number=1)] == ["status", "tool calls", "notepad"]
    slow = msgspec.structs.replace(then, tool_calls=(msgspec.structs.replace(then.tool_calls[0], duration_s=9.0),))
    assert list(compare(then, slow, number=1)) == []


async def test_cells_run_again_in_order_and_differences_are_told_as_they_come() -> None:
    saved = make_saved(make_cell("one", out("1\n")), make_cell(None), make_cell("two", out("2\n")))
    pool = FakePool({"one": cell("1\n"), "two": cell("zwei\n")})
    told: list[tuple[int, int]] = []
    found = await replay(saved, pool, on_step=lambda number, step, found: told.append((number, len(found))))
    assert told == [(1, 0), (3, 1)]
    assert [(each.step, each.of) for each in found] == [(3, "output")]
    assert all(repl.closed for repl in pool.opened)


async def test_sessions_are_seeded_as_they_were_and_open_again_when_killed() -> None:
    saved = make_saved(make_cell("die", status="killed"), make_cell("live", out("1\n")))
    pool = FakePool({"die": killed, "live": cell("1\n")})
    assert await replay(saved, pool) == ()
    assert pool.seeds == [derive_seed(saved.episode.seed, "repl", number) for number in (0, 1)]


async def test_tools_answer_from_the_record() -> None:
    recorded = (call("one", query="a"), call("two", query="a"))
    saved = make_saved(
        make_cell("ask", out("one\n"), tool_calls=recorded[:1]), make_cell("ask", out("two\n"), tool_calls=recorded[1:])
    )
    assert await replay(saved, FakePool({"ask": calling("search", query="a")})) == ()


async def test_a_call_that_is_not_on_record_is_refused_and_told() -> None:
    saved = make_saved(make_cell("ask", out("one\n"), tool_calls=(call("one", query="a"),)))
    status, output, calls = await replay(saved, FakePool({"ask": calling("search", query="b")}))
    assert status == Difference(step=1, of="status", diff="--- recorded\n+++ now\n-ok\n+error")
    assert [output.of, calls.of] == ["output", "tool calls"]
    assert "this call of search is not on record" in calls.diff


async def test_a_recorded_refusal_is_given_again() -> None:
    refused = ToolCall(name="search", arguments={}, duration_s=0.0, error="search takes one text", fault="agent")
    error = Error(ename="ToolError", evalue="search takes one text", traceback=())
    saved = make_saved(make_cell("ask", error, status="error", tool_calls=(refused,)))
    assert await replay(saved, FakePool({"ask": calling("search")})) == ()


async def test_a_session_gets_copies_of_the_record_and_named_files_and_no_others(tmp_path: Path) -> None:
    table, big = tmp_path / "table.csv", tmp_path / "big.csv"
    table.write_bytes(b"1")
    big.write_bytes(b"2")
    saved = make_saved(make_cell("1", out("1\n")))
    files = (str(table), str(big), "/nowhere/gone.csv")
    saved = msgspec.structs.replace(saved, task=msgspec.structs.replace(saved.task, files=files))
    record = tmp_path / "record"
    assert save_run(record, saved) == ("given/gone.csv",)
    (record / "given" / "big.csv").unlink()
    read = read_saved(record)
    assert read.task.files == ("table.csv", "big.csv", "gone.csv")
    assert given_files(record, read, ()) == ((record / "given" / "table.csv",), ("big.csv", "gone.csv"))
    found, missing = given_files(record / "episode.jsonl", read, (big,))
    assert (found, missing) == ((record / "given" / "table.csv", big), ("gone.csv",))
    pool = FakePool(AnyCode(cell("1\n")))
    assert await replay(read, pool, files=found) == ()
    assert pool.opened[0].stored == {"table.csv": b"1", "big.csv": b"2"}
    with pytest.raises(
        ConfigError, match=r"the episode had no file of that name; it had table\.csv, big\.csv, gone\.csv"
    ):
        given_files(record, read, (Path("other.csv"),))


def test_a_record_reaches_no_file_of_its_readers(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"key")
    record = tmp_path / "record"
    saved = make_saved()
    for name in ("/proc/self/environ", "../secret", "link", "..", ""):
        task = msgspec.structs.replace(saved.task, files=(name,))
        write_saved(record, msgspec.structs.replace(saved, task=task))
        (record / "given").mkdir(exist_ok=True)
        (record / "given" / "link").unlink(missing_ok=True)
        (record / "given" / "link").symlink_to(tmp_path / "secret")
        assert given_files(record, read_saved(record), ())[0] == ()
    shutil.rmtree(record / "given")
    (record / "given").symlink_to(tmp_path)
    task = msgspec.structs.replace(saved.task, files=("secret",))
    write_saved(record, msgspec.structs.replace(saved, task=task))
    assert given_files(record, read_saved(record), ())[0] == ()


def test_of_the_records_sandbox_only_tighter_limits_are_taken() -> None:
    hostile: dict[str, Json] = {
        "tier": "unsandboxed",
        "python": "/bin/evil",
        "packages": ["evil"],
        "memory_mb": 1_000_000,
        "processes": 8,
        "cpu_s": True,
        "disk_mb": "all",
        "nonsense": 1,
    }
    saved = msgspec.structs.replace(make_saved(), config={"repl": hostile})
    config, others = repl_config(saved, ReplConfig())
    assert config == ReplConfig(processes=8)
    assert [other.partition("=")[0] for other in others] == [
        f"repl.{key}" for key in ("tier", "python", "packages", "memory_mb", "cpu_s", "disk_mb")
    ]
    with pytest.raises(StoreError, match="processes"):
        repl_config(msgspec.structs.replace(make_saved(), config={"repl": {"processes": -1}}), ReplConfig())
    assert repl_config(make_saved(), ReplConfig()) == (ReplConfig(), ())
