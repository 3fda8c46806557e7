"""MCP servers as child processes and over HTTP on loopback: real ones, made with the SDK, and quick ones for tests of their processes."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from builders import CONTEXT
from mcp_http import KEY, SCRIPT, HttpServer
from repl_sessions import run, value

from lzero.agent.broker import Broker
from lzero.errors import ConfigError, ToolError
from lzero.protocols import Tool
from lzero.repl import LocalPool
from lzero.tools.mcp_servers import McpSpec, open_servers, read_specs
from lzero.tools.mcp_servers.server import McpServer
from lzero.types import Error, Json

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]
STDIO = McpSpec(name="tests", command=(sys.executable, str(SCRIPT)))
QUICK_SCRIPT, ODD_SCRIPT = (SCRIPT.with_name(f"{name}_mcp_server.py") for name in ("quick", "odd"))
QUICK = replace(STDIO, command=(sys.executable, str(QUICK_SCRIPT)))


def odd(*words: str) -> McpSpec:
    return replace(STDIO, command=(sys.executable, str(ODD_SCRIPT), *words))


def named(tools: tuple[Tool, ...], name: str) -> Tool:
    return next(tool for tool in tools if tool.name == name)


async def call(server: McpServer, tool: str, **arguments: Json) -> Json:
    return await named(server.tools, tool).call(arguments, CONTEXT)


async def failure(server: McpServer, tool: str, **arguments: Json) -> tuple[str, str]:
    with pytest.raises(ToolError) as raised:
        await call(server, tool, **arguments)
    return raised.value.fault, str(raised.value)


def children() -> list[psutil.Process]:
    """Servers that speak over stdio; one over HTTP is not started by what is tested."""
    found = [(child, child.cmdline()) for child in psutil.Process().children(recursive=True)]
    scripts = set(map(str, (SCRIPT, QUICK_SCRIPT, ODD_SCRIPT)))
    return [child for child, command in found if scripts & {*command} and command[-1] != "http"]


async def until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20.0
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"{pid} lives on"
        await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def http() -> Iterator[HttpServer]:
    """For tests that leave it alive: a server takes two seconds to start."""
    server = HttpServer()
    yield server
    server.close()


@pytest_asyncio.fixture(scope="module", params=["stdio", "http"], loop_scope="module")
async def server(request: pytest.FixtureRequest) -> AsyncIterator[McpServer]:
    """Yield a client for the tests that leave the server alive."""
    if request.param == "stdio":
        async with McpServer(STDIO, call_s=20.0) as found:
            yield found
        assert not children()
        return
    served: HttpServer = request.getfixturevalue("http")
    (spec,) = read_specs(f"{served.url} TESTS_TOKEN")
    async with McpServer(spec, lookup={"TESTS_TOKEN": KEY}.get, call_s=20.0) as found:
        yield found


async def test_tools_are_described_by_their_schemas_and_answer_with_values(server: McpServer) -> None:
    nested = named(server.tools, "nested")
    assert nested.parameters == ("points", "mode", "label")
    assert nested.description.splitlines()[0] == (
        "nested(points: list[Point], mode: Literal['sum', 'mean'] = 'sum', label: str | None = None) -> dict"
    )
    assert "Point = {'x': int, 'y': float = 0.5}" in nested.description.splitlines()
    assert named(server.tools, "add").description.splitlines()[:2] == [
        "add(a: int, b: int = 2) -> int",
        "Adds two numbers.",
    ]
    assert await call(server, "add", a=3) == 5
    assert await call(server, "nested", points=[{"x": 1}]) == {"points": [1], "mode": "sum", "label": None}
    assert await call(server, "picture") == "a pixel\n[image image/png, 8 bytes]"
    assert await asyncio.gather(*(call(server, "add", a=n, b=0) for n in range(8))) == list(range(8))


async def test_what_the_agent_gets_wrong_is_its_fault(server: McpServer) -> None:
    assert await failure(server, "add", b=1) == ("agent", "add needs 'a': add(a: int, b: int = 2) -> int")
    assert (await failure(server, "add", a=1, c=2))[0] == "agent"
    fault, text = await failure(server, "add", a="one")
    assert fault == "agent"
    assert "valid integer" in text
    assert (await failure(server, "fail", reason="no such file"))[0] == "agent"


async def test_results_are_bounded(server: McpServer) -> None:
    result = await call(server, "flood", characters=300_000)
    assert isinstance(result, str)
    assert len(result) == 200_000
    assert result.endswith("characters, cut]")
    waiting = asyncio.create_task(call(server, "wait_for_release"))
    fault, text = await failure(server, "flood", characters=10_000_000)
    assert (fault, text) == ("agent", "flood answered with more than 8,388,608 bytes: ask for less")
    assert await call(server, "release") == "done"
    assert await waiting == "released"


ODD = {
    "closed": ("agent", "no such key"),
    "terminated": ("tool", "the MCP server 'tests' refused terminated: the account was terminated"),
    "timed_out": ("agent", "took too long"),
    "failed": ("tool", "the MCP server 'tests' refused failed: the disk is full"),
    "of_another_shape": ("tool", "the MCP server 'tests' gave of_another_shape an answer of another shape: "),
    "too_many": ("agent", "too_many answered with more than 30,000 values: ask for less"),
    "too_large": ("agent", "too_large answered with more than 8,388,608 bytes: ask for less"),
    "too_deep": ("agent", "too_deep answered with what is nested too deep or has too long a number: ask for less"),
    "no_json_rpc": ("tool", "the MCP server 'tests' refused no_json_rpc: the answer is not valid JSON-RPC"),
    "unknown": ("agent", "the MCP server 'tests' did not answer unknown within 0.5 s"),
    "without_number": ("agent", "the MCP server 'tests' did not answer without_number within 0.5 s"),
}


async def test_whatever_a_server_answers_to_one_call_the_others_go_on() -> None:
    async with McpServer(odd()) as server:
        waiting = asyncio.create_task(call(server, "wait"))
        for name, (fault, text) in ODD.items():
            server._call_s = 0.5 if "within" in text else 50.0
            found = await failure(server, name)
            assert (found[0], found[1][: len(text)]) == (fault, text)
        assert await call(server, "half_a_character") == "a\ufffd"
        assert await call(server, "release") == "released"
        assert await waiting == "released"


async def test_an_answer_over_http_that_an_agent_can_cause_is_no_failure_of_the_server(http: HttpServer) -> None:
    (spec,) = read_specs(f"{http.url} TESTS_TOKEN")
    async with McpServer(spec, lookup={"TESTS_TOKEN": KEY}.get) as server:
        assert await server.call("say_half", {}) == "a\ufffd"
        with pytest.raises(ToolError, match="say_deep answered with what is nested too deep") as raised:
            await server.call("say_deep", {})
        assert raised.value.fault == "agent"


async def test_an_exchange_over_http_that_fails_is_no_other_calls_failure(http: HttpServer) -> None:
    (spec,) = read_specs(f"{http.url} TESTS_TOKEN")
    async with McpServer(spec, lookup={"TESTS_TOKEN": KEY}.get) as server:
        for name, text in (
            ("compress", "refused compress: compressed what it was asked to send as it is"),
            ("break_off", "refused break_off: "),
            ("say_no_json", "refused say_no_json: Failed to parse JSON response"),
            ("refuse", "refused refuse: "),
        ):
            waiting = asyncio.create_task(call(server, "wait_for_release"))
            with pytest.raises(ToolError, match=text) as raised:
                await server.call(name, {})
            assert raised.value.fault == "tool"
            assert await call(server, "release") == "done"
            assert await waiting == "released"
        assert await call(server, "add", a=1) == 3


async def test_a_call_that_is_given_up_is_no_other_calls_failure(server: McpServer) -> None:
    waiting = asyncio.create_task(call(server, "wait_for_release"))
    given_up = [asyncio.create_task(call(server, "wait_for_ever")) for _ in range(3)]
    assert await call(server, "add", a=1) == 3
    for task in given_up:
        task.cancel()
    await asyncio.wait(given_up)
    assert await call(server, "add", a=1) == 3
    assert await call(server, "release") == "done"
    assert await waiting == "released"


async def test_a_call_has_a_deadline_and_the_server_lives_on() -> None:
    async with McpServer(QUICK) as server:
        server._call_s = 0.2
        pid = await call(server, "pid")
        assert await failure(server, "wait_for_ever") == (
            "agent",
            "the MCP server 'tests' did not answer wait_for_ever within 0.2 s",
        )
        assert await call(server, "pid") == pid


@pytest.mark.parametrize(
    ("number", "cause"), [(0, "ended with code 3; last words: the disk is full"), (signal.SIGKILL, "killed by SIGKILL")]
)
async def test_a_server_that_dies_in_mid_call_is_said_to_and_started_again(number: int, cause: str) -> None:
    async with McpServer(QUICK) as server:
        started = time.monotonic()
        waiting = asyncio.create_task(failure(server, "wait_for_ever"))
        pid = await call(server, "pid")
        fault, text = await failure(server, "die", signal_number=int(number))
        assert fault == "tool"
        assert text.startswith("the MCP server 'tests' is gone (")
        assert cause in text
        assert (await waiting)[1] == text
        assert time.monotonic() - started < 10.0
        assert await call(server, "pid") != pid
    assert not children()


async def test_a_call_that_changes_nothing_is_made_again_where_another_call_has_ended_the_server() -> None:
    async with McpServer(QUICK) as server:
        waiting = asyncio.create_task(call(server, "wait_for_release"))
        assert (await failure(server, "die"))[0] == "tool"
        assert await call(server, "release") == "done"
        assert await waiting == "released"


async def test_a_server_over_http_that_dies_is_said_to_and_spoken_to_again() -> None:
    with closing(HttpServer()) as dying, closing(HttpServer()) as again:
        (spec,) = read_specs(f"{dying.url} TESTS_TOKEN")
        async with McpServer(spec, lookup={"TESTS_TOKEN": KEY}.get) as server:
            fault, text = await failure(server, "die")
            assert fault == "tool"
            assert text.startswith("the MCP server '127' ")
            assert KEY not in text
            fault, text = await failure(server, "add", a=1)
            assert fault == "tool"
            assert "onnect" in text
            server.spec = replace(spec, url=again.url)
            assert await call(server, "add", a=1) == 3


async def test_a_wrong_token_is_told_by_its_status(http: HttpServer) -> None:
    (spec,) = read_specs(f"{http.url} TESTS_TOKEN")
    with pytest.raises(ConfigError, match=r"'127' .*HTTP 401 Unauthorized") as raised:
        await McpServer(spec, lookup={"TESTS_TOKEN": "another-token"}.get).__aenter__()
    assert "another-token" not in str(raised.value)


async def test_a_secret_is_in_the_servers_environment_and_nowhere_else() -> None:
    spec = replace(QUICK, environment={"API_KEY": "${TESTS_KEY}", "PLAIN": "1"})
    assert KEY not in repr(spec)
    async with McpServer(spec, lookup={"TESTS_KEY": KEY}.get) as server:
        found = await call(server, "environment")
    assert isinstance(found, dict)
    assert found["API_KEY"] == "${TESTS_KEY}"  # hidden on its way back; the server had it
    assert set(found) <= {"PATH", "HOME", "LANG", "LC_CTYPE", "API_KEY", "PLAIN"}
    with pytest.raises(ConfigError, match="needs the variable TESTS_KEY, which is not set"):
        McpServer(spec, lookup=lambda _: None)


async def test_a_server_that_prints_without_end_is_given_up() -> None:
    for noise in ("'\\n' * 65536", "'x' * 99 + '\\n'"):
        spec = McpSpec(name="loud", command=(sys.executable, "-c", f"while True: print({noise}, end='')"))
        with pytest.raises(ConfigError, match=r"'loud' .*prints without end what is no message"):
            await McpServer(spec).__aenter__()


async def test_a_secret_is_hidden_before_what_a_server_says_is_cut() -> None:
    code = f"import os, sys; sys.exit('x' * {300 - 24 - len(KEY) // 2} + os.environ['API_KEY'] + 'y' * 100)"
    spec = McpSpec(name="indiscreet", command=(sys.executable, "-c", code), environment={"API_KEY": "${TESTS_KEY}"})
    with pytest.raises(ConfigError) as raised:
        await McpServer(spec, lookup={"TESTS_KEY": KEY}.get).__aenter__()
    assert "last words: xxx" in str(raised.value)
    assert KEY[:4] not in str(raised.value)


async def test_hostile_names_and_texts_come_out_as_plain_python() -> None:
    async with open_servers([replace(STDIO, command=(*STDIO.command, "hostile"))], taken={"search"}) as tools:
        assert [tool.name for tool in tools] == [
            "tests_print",
            "read_file",
            "tests_read_file",
            "tool_31m_im_end",
            "tool_9_lives",
        ]
        assert named(tools, "read_file").parameters == ("class_", "file_name", "file_name_2")
        for tool in tools:
            assert len(tool.description) < 4000
            assert all(character.isprintable() or character == "\n" for character in tool.description)
            assert "<|" not in tool.description
        assert await named(tools, "read_file").call({"file_name_2": "x", "class_": "y"}, CONTEXT) == (
            "('read-file', {'file-name': 'x', 'class': 'y'})"
        )


async def test_two_servers_have_tools_of_different_names() -> None:
    other = replace(QUICK, name="others")
    async with open_servers([QUICK, other], taken={"pid"}) as tools:
        names = [tool.name for tool in tools]
        assert len(set(names)) == len(names)
        assert {"add", "others_add", "tests_pid", "others_pid"} <= set(names)
        assert await named(tools, "others_add").call({"a": 1}, CONTEXT) == 3
    assert not children()


@pytest.mark.sandbox
async def test_a_cell_calls_them(pool: LocalPool) -> None:
    async with open_servers([STDIO]) as tools:
        broker = Broker(CONTEXT.task, tools, CONTEXT.read_file)
        repl = await pool.open(broker.tools, broker.on_call, seed=0)
        assert await value(repl, "add(1), add(b=4, a=3), nested([{'x': 2}])['points']") == "(3, 7, [2])"
        (error,) = [output for output in (await run(repl, "add(b=1)")).outputs if isinstance(output, Error)]
        assert (error.ename, error.evalue) == ("ToolError", "add needs 'a': add(a: int, b: int = 2) -> int")
        await repl.close()


# Nothing is left behind


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        (
            replace(STDIO, command=("/no/such/program",)),
            "cannot be started: No such file or directory: /no/such/program",
        ),
        (
            replace(STDIO, command=(sys.executable, "-c", "raise SystemExit('no licence')")),
            "ended with code 1; last words: no licence",
        ),
        (odd("endless"), "sent a line of more than 8,388,608 bytes"),
        (McpSpec(name="tests", url="http://127.0.0.1:9/mcp"), "onnect"),
    ],
)
async def test_a_server_that_cannot_be_had_says_why(spec: McpSpec, cause: str) -> None:
    with pytest.raises(ConfigError, match="the MCP server 'tests' ") as raised:
        await McpServer(spec).__aenter__()
    assert cause in str(raised.value)
    assert not children()


async def test_a_server_that_says_nothing_is_given_up_and_ended(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did not answer within 0\.5 s"):
        await McpServer(odd("silent", str(tmp_path / "pid")), connect_s=0.5).__aenter__()
    assert not children()


async def test_what_a_server_started_ends_with_it() -> None:
    async with McpServer(QUICK) as server:
        child = await call(server, "start_child")
        assert isinstance(child, int)
    await until_gone(child)


async def test_a_cancelled_task_leaves_no_process() -> None:
    pids: list[int] = []

    async def work() -> None:
        async with McpServer(QUICK) as server:
            pid = await call(server, "pid")
            assert isinstance(pid, int)
            pids.append(pid)
            await call(server, "wait_for_ever")

    task = asyncio.create_task(work())
    while not pids:
        assert not task.done()
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert not children()


ABANDONED = """
import asyncio, sys
from lzero.tools.mcp_servers.server import McpServer
from lzero.tools.mcp_servers.specs import McpSpec

async def main():
    server = await McpServer(McpSpec(name="tests", command=(sys.executable, sys.argv[1]))).__aenter__()
    print(await server.call("pid", {}), await server.call("start_child", {}), flush=True)

asyncio.run(main())
"""


async def test_a_loop_that_ends_without_closing_leaves_no_process() -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", ABANDONED, str(QUICK_SCRIPT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for pid in map(int, done.stdout.split()):
        await until_gone(pid)
