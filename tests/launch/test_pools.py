"""A pool server on every node, kept while servers end and nodes come and go. The same on this machine and on a Ray cluster."""

import asyncio
import os
import signal
from dataclasses import replace

import pytest
from fault_traces import until
from repl_sessions import no_tools, value

from lzero.errors import LaunchError, ServerLost
from lzero.launch import Node, Program, open_launcher
from lzero.launch.addresses import Watched, read_addresses
from lzero.launch.local import LOOPBACK, LocalLauncher, LocalProcess
from lzero.launch.pools import PoolServers
from lzero.repl.remote.pool import RemotePool

TOKEN = "a-token-for-tests-only"  # noqa: S105


class Machines(LocalLauncher):
    """Launcher that calls this machine by several names, as if it were several."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        self.on: dict[str, LocalProcess] = {}

    async def nodes(self, role: str) -> tuple[Node, ...]:
        return tuple(Node(id=name, host=LOOPBACK) for name in self.names)

    async def launch(self, program: Program, *, node: str = "") -> LocalProcess:
        self.on[node] = await super().launch(program)
        return self.on[node]


class Failing(Machines):
    """Launcher whose programs fail."""

    async def launch(self, program: Program, *, node: str = "") -> LocalProcess:
        return await super().launch(replace(program, command=("sh", "-c", "exit 255")), node=node)


class Buggy(Machines):
    """Launcher that has a bug in its second launch."""

    launches = 0

    async def launch(self, program: Program, *, node: str = "") -> LocalProcess:
        self.launches += 1
        if self.launches == 2:
            raise RuntimeError("the second launch")
        return await super().launch(program, node=node)


@pytest.mark.sandbox
async def test_a_server_that_is_killed_is_started_again_and_a_new_node_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lzero.launch.pools.LOOK_S", 0.1)
    async with asyncio.timeout(240), Machines("first") as machines:
        async with PoolServers(machines, token=TOKEN, arguments=("repl.zygotes=1",)) as servers:
            watched = Watched(servers.addresses, lambda _: None)
            async with RemotePool(watched.pool, token=TOKEN, watch=watched.look) as pool:
                repl = await pool.open((), no_tools, seed=0)
                os.killpg(machines.on["first"].group, signal.SIGKILL)
                with pytest.raises(ServerLost):
                    await repl.run("while True: pass", deadline_s=100.0)
                assert await value(await pool.open((), no_tools, seed=0), "1 + 1") == "2"  # waits for the next server
                machines.names = ("first", "second")
                await until(lambda: pool.stats()["servers"] == 2)
                machines.names = ("second",)
                await until(lambda: len(read_addresses(servers.addresses).pool) == 1)
                assert await value(await pool.open((), no_tools, seed=0), "1 + 1") == "2"
            assert servers.token_file.stat().st_mode & 0o077 == 0
        assert not servers.addresses.exists()


@pytest.mark.sandbox
async def test_a_node_whose_keeping_a_bug_ended_is_kept_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lzero.launch.pools.LOOK_S", 0.1)
    async with (
        asyncio.timeout(240),
        Buggy("first") as machines,
        PoolServers(machines, token=TOKEN, arguments=("repl.zygotes=1",)) as servers,
    ):
        os.killpg(machines.on["first"].group, signal.SIGKILL)
        await until(lambda: machines.launches == 3 and len(read_addresses(servers.addresses).pool) == 1)
    assert "RuntimeError: the second launch" in caplog.text


async def test_servers_that_do_not_start_are_an_error_with_the_end_of_their_log() -> None:
    async with asyncio.timeout(120), open_launcher() as launcher:
        with pytest.raises(
            LaunchError, match=r"no pool server serves: the pool server on 127.0.0.1 ended with code 1.*unknown key"
        ):
            async with PoolServers(launcher, token=TOKEN, arguments=("repl.memory=1",)):
                pass
    async with asyncio.timeout(120), Failing("anywhere") as failing:
        with pytest.raises(
            LaunchError, match=r"no pool server serves: the pool server on 127.0.0.1 ended with code 255"
        ):
            async with PoolServers(failing, token=TOKEN):
                pass
    async with Machines() as none:
        with pytest.raises(LaunchError, match="start nodes with the resource lzero_pool"):
            async with PoolServers(none, token=TOKEN):
                pass
