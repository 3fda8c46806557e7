"""Pool servers for tests: in this process, or in a separate one that can be killed."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import psutil
from websockets.asyncio.client import connect

from lzero.config import ReplConfig
from lzero.protocols import ReplPool
from lzero.repl import LocalPool
from lzero.repl.remote import wire
from lzero.repl.remote.pool import RemotePool
from lzero.repl.remote.server import PoolServer
from lzero.serving import Serving

TOKEN = "a-token-for-tests-only"  # noqa: S105
_COMMAND = "from lzero.cli import main; main()"
_PATIENCE_S = 60.0


def serving(
    pool: ReplPool, *, file_bytes: int = ReplConfig().file_mb << 20, lifetime_s: float | None = None, **options: Any
) -> PoolServer:
    """Return a server at a free port; options as in `Serving`."""
    return PoolServer(pool, Serving(port=0, **options), token=TOKEN, file_bytes=file_bytes, lifetime_s=lifetime_s)


@asynccontextmanager
async def remote_pool(local: LocalPool, **options: Any) -> AsyncIterator[RemotePool]:
    """Yield `local` as a client on the same machine sees it."""
    async with serving(local, **options) as server, RemotePool((server.url,), token=TOKEN) as pool:
        yield pool


@asynccontextmanager
async def over_loopback() -> AsyncIterator[RemotePool]:
    """Yield a pool of this machine behind a server and a client."""
    async with LocalPool() as local, remote_pool(local) as pool:
        yield pool


def raw(url: str, token: str = TOKEN, version: str = str(wire.VERSION)) -> connect:
    """Return a connection of a client that may send any messages."""
    headers = {"Authorization": f"Bearer {token}", wire.VERSION_HEADER: version}
    return connect(url + wire.PATH, additional_headers=headers, proxy=None, compression=None, max_size=None)


class ServerProcess:
    """Runs `lzero pool serve` in a separate process: `async with ServerProcess("--lease-s=1") as server: server.url`."""

    def __init__(self, *arguments: str, before: str = "") -> None:
        """`before`: statements that run in the process first."""
        self._command = (sys.executable, "-c", before + _COMMAND, "pool", "serve", "--port=0", *arguments)
        self.url = ""
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        environment = {**os.environ, "LZERO_POOL_TOKEN": TOKEN}
        self.process = await asyncio.create_subprocess_exec(
            *self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        assert self.process.stdout is not None
        line = (await asyncio.wait_for(self.process.stdout.readline(), _PATIENCE_S)).decode()
        if not line:
            raise AssertionError(await self.errors())
        self.url = line.split()[3]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.errors()  # reads its pipes to their end

    async def errors(self) -> str:
        """Return its stderr after its end."""
        _, errors = await asyncio.wait_for(self.process.communicate(), _PATIENCE_S)
        return errors.decode()

    def sessions(self) -> set[int]:
        """Return the pids of its sandboxes' processes."""
        return {process.pid for process in psutil.Process(self.process.pid).children(recursive=True)}
