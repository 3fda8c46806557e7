"""A pool over the network, on loopback: real servers, real sandboxes, and every way in which one end may leave the other."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil
import pytest
from fault_traces import until
from pool_servers import TOKEN, ServerProcess, raw, remote_pool, serving
from repl_sessions import no_tools, value

from lzero.errors import ReplDied, ReplError, ServerLost, ToolError, WorkspaceError
from lzero.launch.addresses import Addresses, Watched, read_addresses, write_addresses
from lzero.protocols import OnCall, ToolSpec, ToolStub
from lzero.repl import LocalPool, LocalRepl
from lzero.repl.remote import pool as remote
from lzero.repl.remote import wire as remote_wire
from lzero.repl.remote.pool import RemotePool
from lzero.types import Json

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]
FOREVER = "import time\ntime.sleep(1000)"
SEARCH: ToolSpec = ToolStub(name="search", parameters=("query",), description="search(query: str) -> str")


# What a REPL does, it does from afar


async def test_state_outputs_errors_and_seeds_are_those_of_a_local_repl(pool: LocalPool) -> None:
    async with remote_pool(pool) as servers:
        far, near = await servers.open((), no_tools, seed=7), await pool.open((), no_tools, seed=7)
        for code in ("x = 2", "x + 1", "1 / 0", "import random, numpy\nrandom.random(), numpy.random.random()"):
            expected, got = await near.run(code, deadline_s=20.0), await far.run(code, deadline_s=20.0)
            assert (got.status, got.outputs) == (expected.status, expected.outputs)
        slow = await far.run("import time\ntime.sleep(60)", deadline_s=0.2)
        assert (slow.status, slow.reason) == ("timed_out", "interrupted after 0.2 s")
        gone, expected = [await repl.run("import os\nos._exit(3)", deadline_s=20.0) for repl in (far, near)]
        assert (gone.status, gone.reason) == ("killed", expected.reason)
        with pytest.raises(ReplDied, match="exited with code 3"):
            await far.run("1", deadline_s=20.0)
        await far.close()
        await far.close()
        await near.close()


async def test_tool_calls_are_answered_by_the_client(pool: LocalPool) -> None:
    async def on_call(name: str, arguments: dict[str, Json]) -> Json:
        match arguments["query"]:
            case "error":
                raise ToolError("no such thing", fault="agent")
            case "strange":
                return object()  # type: ignore[return-value] # what a tool should not, and does
            case "long":
                return "x" * (remote_wire.MAX_MESSAGE + 1)
            case "slow":
                await asyncio.sleep(0.5)
        return [name, arguments]

    async with remote_pool(pool) as servers:
        repl = await servers.open((SEARCH,), on_call, seed=0)
        assert await value(repl, "search('Liri'), search(query=[1, None])") == (
            "(['search', {'query': 'Liri'}], ['search', {'query': [1, None]}])"
        )
        for query, answer in (("error", "no such thing"), ("strange", "cannot be sent"), ("long", "cannot be sent")):
            text = await value(repl, f"try:\n    search({query!r})\nexcept ToolError as e:\n    told = str(e)\ntold")
            assert answer in text
        patient = await repl.run("search('slow')", deadline_s=0.3)
        assert (patient.status, patient.duration_s < 0.3) == ("ok", True)  # the tool's time is not the cell's
        await repl.close()


async def test_a_tool_with_a_bug_stops_its_caller_and_closes_its_repl(pool: LocalPool) -> None:
    async def on_call(name: str, arguments: dict[str, Json]) -> Json:
        raise ZeroDivisionError

    async with remote_pool(pool) as servers:
        repl = await servers.open((SEARCH,), on_call, seed=0)
        with pytest.raises(ZeroDivisionError):
            await repl.run("search(1)", deadline_s=20.0)
        with pytest.raises(ReplDied, match="abandoned"):
            await repl.run("1", deadline_s=20.0)
        await until(lambda: pool.stats()["open"] == 0)


async def test_files_go_in_and_out(pool: LocalPool) -> None:
    async with remote_pool(pool) as servers:
        repl = await servers.open((), no_tools, seed=0)
        for size in (0, 1, remote_wire.PART_BYTES, 3 * remote_wire.PART_BYTES + 5):
            data = os.urandom(size)
            await repl.put(f"directory/{size}.bin", data)
            assert await repl.get(f"directory/{size}.bin") == data
        assert [file.size for file in await repl.files()] != []
        with pytest.raises(WorkspaceError, match="leaves the workspace"):
            await repl.put("../x", b"")
        with pytest.raises(WorkspaceError, match="not there"):
            await repl.get("none")
        with pytest.raises(WorkspaceError, match=r"16,777,216.*raise repl\.file_mb on ws://"):
            await repl.put("large", bytes((16 << 20) + 1))
        assert await value(repl, "1 + 1") == "2"
        await repl.close()


async def test_a_large_file_holds_up_no_other_repl(pool: LocalPool) -> None:
    async with remote_pool(pool) as servers:
        first, second = [await servers.open((), no_tools, seed=0) for _ in range(2)]
        putting = asyncio.create_task(first.put("large", bytes(16 << 20)))
        await asyncio.sleep(0)
        assert await value(second, "1 + 1") == "2"
        assert not putting.done()
        await putting
        await asyncio.gather(first.close(), second.close())


async def test_sixty_four_at_once(pool: LocalPool) -> None:
    async with remote_pool(pool) as servers:

        async def one(number: int) -> str:
            repl = await servers.open((), no_tools, seed=number)
            await value(repl, f"x = {number}\nx")
            text = await value(repl, "x")
            await repl.close()
            return text

        assert await asyncio.gather(*(one(number) for number in range(64))) == [str(number) for number in range(64)]
        assert servers.stats()["open"] == pool.stats()["open"] == 0
        assert [load for name, load in servers.stats().items() if name.startswith("load")] == [0.0]
        facts = servers.facts()
        assert facts["tier"] == "namespaces"
        assert isinstance(facts["servers"], dict)
        assert msgspec.to_builtins(pool.facts()) in facts["servers"].values()


# What is closed, cancelled or left is gone on the server


async def test_close_leaves_nothing(pool: LocalPool) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    async with remote_pool(pool) as servers:
        repls = [await servers.open((), no_tools, seed=n) for n in range(4)]
        busy = asyncio.create_task(repls[0].run(FOREVER, deadline_s=100.0))
        await until(lambda: pool.stats()["open"] == 4)
        await servers.close()
        assert pool.stats()["open"] == 0
        assert (await busy).status == "killed"
        await servers.close()
        with pytest.raises(ReplDied, match="closed"):
            await repls[1].run("1", deadline_s=5.0)
        with pytest.raises(ReplError, match="closed"):
            await servers.open((), no_tools, seed=0)
    await until(lambda: len(os.listdir("/proc/self/fd")) == descriptors)


async def test_a_repl_that_waits_for_its_turn_to_carry_a_file_closes_at_once(pool: LocalPool) -> None:
    """Nine clients' worth of files are begun and not carried on; the last one does not keep its REPL."""
    async with serving(pool) as server, raw(server.url) as connection:
        await connection.recv()
        for number in range(1, 10):
            await connection.send(remote_wire.encode(remote_wire.Open(id=number, tools=(), seed=0)))
            await connection.recv()
        for number in range(1, 10):
            put = remote_wire.Put(id=100 + number, repl=number, path="x", size=10)
            await connection.send(remote_wire.encode(put))
        asked = [remote_wire.decode_server(bytes(await connection.recv(decode=False))) for _ in range(8)]
        assert asked == [remote_wire.More(id=100 + number) for number in range(1, 9)]
        started = time.monotonic()
        await connection.send(remote_wire.encode(remote_wire.Close(id=200, repl=9)))
        while not isinstance(remote_wire.decode_server(bytes(await connection.recv(decode=False))), remote_wire.Closed):
            pass
        assert time.monotonic() - started < 20.0
    await until(lambda: pool.stats()["open"] == 0)


async def test_a_cancelled_cell_closes_its_repl_on_the_server(pool: LocalPool) -> None:
    async with remote_pool(pool) as servers:
        first, second = [await servers.open((), no_tools, seed=0) for _ in range(2)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(first.run(FOREVER, deadline_s=100.0), 0.2)
        with pytest.raises(ReplDied, match="abandoned"):
            await first.run("1", deadline_s=5.0)
        await until(lambda: pool.stats()["open"] == 1)
        assert await value(second, "1 + 1") == "2"
        await asyncio.gather(first.close(), second.close())


async def test_a_cancelled_open_leaves_nothing(pool: LocalPool) -> None:
    async with remote_pool(pool) as servers:
        for delay in (0.0, 0.0005, 0.002, 0.005, 0.01):
            try:
                repl = await asyncio.wait_for(servers.open((), no_tools, seed=0), delay)
            except TimeoutError:
                continue
            await repl.close()
        await until(lambda: pool.stats()["open"] == 0)


async def test_a_server_that_ends_closes_what_it_served(pool: LocalPool) -> None:
    async with serving(pool) as server, RemotePool((server.url,), token=TOKEN) as servers:
        repl = await servers.open((), no_tools, seed=0)
        running = asyncio.create_task(repl.run(FOREVER, deadline_s=100.0))
        await asyncio.sleep(0.1)
        await server.close()
        assert pool.stats()["open"] == 0
        with pytest.raises(ReplDied, match=f"{server.url} was lost"):
            await running


# A server that is lost


async def test_a_killed_server_is_a_typed_failure_and_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        ServerProcess() as first,
        ServerProcess() as second,
        RemotePool((first.url, second.url), token=TOKEN) as servers,
    ):
        repls = [await servers.open((), no_tools, seed=n) for n in range(4)]
        assert {servers.stats()[f"load of {server.url}"] for server in (first, second)} == {2 / 512}
        sandboxes = [psutil.Process(pid) for pid in first.sessions()]
        running = [asyncio.create_task(repl.run(FOREVER, deadline_s=2.0)) for repl in repls]
        await asyncio.sleep(0.2)
        first.process.kill()
        outcomes = await asyncio.gather(*running, return_exceptions=True)
        lost = [outcome for outcome in outcomes if isinstance(outcome, ServerLost)]
        assert len(lost) == 2
        assert all(f"the pool server {first.url} was lost" in str(error) for error in lost)
        _, alive = psutil.wait_procs(sandboxes, timeout=20.0)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        others = [await servers.open((), no_tools, seed=n) for n in range(2)]
        assert await value(others[0], "1 + 1") == "2"
        assert servers.stats()["servers"] == 1
        second.process.kill()
        await second.process.wait()
        monkeypatch.setattr(remote, "_OPEN_TIMEOUT_S", 0.2)
        with pytest.raises(ReplError, match=f"no pool server is available: {first.url}.*{second.url}"):
            await servers.open((), no_tools, seed=0)
        await asyncio.gather(*(repl.close() for repl in (*repls, *others)))


async def test_a_server_that_hangs_is_noticed_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_OPEN_TIMEOUT_S", 0.2)
    async with ServerProcess("--lease-s=1") as server, RemotePool((server.url,), token=TOKEN) as servers:
        repl = await servers.open((), no_tools, seed=0)
        idle = len(server.sessions())
        running = asyncio.create_task(repl.run(FOREVER, deadline_s=100.0))
        await asyncio.sleep(0.1)
        server.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(ReplDied, match=f"{server.url} was lost: nothing was heard of it for 1 s"):
            await running
        assert time.monotonic() - started < 10.0
        with pytest.raises(ReplError, match="no pool server is available"):
            await servers.open((), no_tools, seed=0)
        server.process.send_signal(signal.SIGCONT)
        monkeypatch.undo()  # it waits for the server
        fresh = await servers.open((), no_tools, seed=0)
        assert await value(fresh, "1 + 1") == "2"
        await until(lambda: len(server.sessions()) <= idle)  # what the old connection had is gone
        await fresh.close()


async def test_servers_come_go_and_restart_with_an_address_file(tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    entering = f"--addresses={file}"
    async with ServerProcess(entering) as first, asyncio.timeout(120.0):
        watched = Watched(file, lambda _: None)
        assert watched.pool == (first.url,)
        async with RemotePool(watched.pool, token=TOKEN, watch=watched.look) as servers:
            repl = await servers.open((), no_tools, seed=0)
            async with ServerProcess(entering) as second:
                await until(lambda: servers.stats()["servers"] == 2)
                write_addresses(file, Addresses(pool=(second.url,)))
                await until(lambda: set(servers.facts()["servers"]) == {second.url})  # type: ignore[arg-type]
                other = await servers.open((), no_tools, seed=0)
                assert await value(repl, "1 + 1") == "2"  # no longer named, but there
                assert servers.stats()[f"load of {second.url}"] == 1 / 512
                second.process.kill()
                await second.process.wait()
                with pytest.raises(ServerLost, match=second.url):
                    await value(other, "1 + 1")
                opening = asyncio.create_task(servers.open((), no_tools, seed=0))
                async with ServerProcess(f"--port={second.url.rpartition(':')[2]}", entering) as again:
                    assert await value(await opening, "1 + 1") == "2"
                    again.process.terminate()
                    await again.process.wait()
                    assert read_addresses(file) == Addresses()


# A client that is lost

CLIENT = """
import asyncio, sys
from lzero.repl.remote.pool import RemotePool
async def main():
    async with RemotePool((sys.argv[1],), token=sys.argv[2]) as pool:
        repls = [await pool.open((), None, seed=0) for _ in range(3)]
        running = [asyncio.create_task(repl.run("import time\\ntime.sleep(1000)", deadline_s=1000.0)) for repl in repls]
        await asyncio.sleep(0.3)
        print("busy", flush=True)
        await asyncio.gather(*running)
asyncio.run(main())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_client_that_dies_or_hangs_leaves_nothing(end: signal.Signals) -> None:
    async with ServerProcess("--lease-s=1") as server:
        idle = server.sessions()
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, server.url, TOKEN, stdout=subprocess.PIPE
        )
        assert client.stdout is not None
        try:
            assert await asyncio.wait_for(client.stdout.readline(), 60.0) == b"busy\n"
            assert len(server.sessions()) >= len(idle) + 3
            client.send_signal(end)
            await until(lambda: len(server.sessions()) <= len(idle))
        finally:
            if client.returncode is None:
                client.kill()
            await client.communicate()


# Load


class Hanging(LocalPool):
    """A pool that does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def open(self, tools: Sequence[ToolSpec], on_call: OnCall, *, seed: int) -> LocalRepl:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_server_lost_while_it_opens_a_repl_is_replaced_by_another(pool: LocalPool) -> None:
    hanging = Hanging()
    async with (
        serving(hanging) as first,
        serving(pool) as second,
        RemotePool((first.url, second.url), token=TOKEN) as servers,
    ):
        opening = asyncio.create_task(servers.open((), no_tools, seed=0))
        await asyncio.wait_for(hanging.asked.wait(), 20.0)
        await first.close()
        repl = await opening
        assert await value(repl, "1 + 1") == "2"
        await repl.close()
        assert servers.stats()[f"load of {second.url}"] == 0.0


async def test_repls_go_where_there_is_most_room(pool: LocalPool) -> None:
    async with (
        serving(pool, max_repls=12) as large,
        serving(pool, max_repls=4) as small,
        RemotePool((small.url, large.url), token=TOKEN) as servers,
    ):
        repls = await asyncio.gather(*(servers.open((), no_tools, seed=n) for n in range(8)))
        stats = servers.stats()
        assert (stats["open"], stats[f"load of {small.url}"], stats[f"load of {large.url}"]) == (8, 0.5, 0.5)
        await asyncio.gather(*(repl.close() for repl in repls))


async def test_a_full_pool_waits_for_room_and_then_says_so(pool: LocalPool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with remote_pool(pool, max_repls=2) as servers:
        first, second = [await servers.open((), no_tools, seed=0) for _ in range(2)]
        waiting = asyncio.create_task(servers.open((), no_tools, seed=0))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await first.close()
        third = await waiting
        monkeypatch.setattr(remote, "_OPEN_TIMEOUT_S", 0.2)
        with pytest.raises(ReplError, match=r"no REPL became free within 0\.2 s on ws://.*--max-repls"):
            await servers.open((), no_tools, seed=0)
        await asyncio.gather(second.close(), third.close())
