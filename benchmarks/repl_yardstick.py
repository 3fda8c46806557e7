"""What the REPLs are measured against: bubblewrap + ipykernel + jupyter_client, one jailed Jupyter kernel a session.

The kernel's sockets are files (transport "ipc") in the one directory that its jail may write, so that it needs no network. It is
started as jupyter_client starts kernels: wait until it is ready, then speak to it. For comparison it is also given every advantage: its
first cell is sent before anybody knows that it is ready. Either way numpy and pandas stay unloaded, which a REPL of ours has loaded.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

CELL = "x = 1\nx + 1"
_TIMEOUT_S = 60.0


class _Manager(AsyncKernelManager):
    """Starts its kernel in a jail."""

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        directory = str(Path(self.connection_file).parent)
        jail = ["bwrap", "--unshare-all", "--die-with-parent"]
        jail += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        jail += ["--tmpfs", "/tmp", "--bind", directory, directory, "--chdir", directory]  # noqa: S108 - the jail's own
        if Path(sys.prefix).is_relative_to("/tmp"):  # noqa: S108 - an environment may lie beneath what was just hidden
            jail += ["--ro-bind", sys.prefix, sys.prefix]
        return [*jail, sys.executable, "-m", "ipykernel_launcher", "-f", self.connection_file]


async def session(trips: int, *, wait: bool) -> tuple[float, list[float]]:
    """Seconds from start to first result, and of further round trips of a trivial cell, of one kernel. `wait`: until it is ready."""
    started = time.perf_counter()
    async with _kernel() as client:
        if wait:
            await client.wait_for_ready(timeout=_TIMEOUT_S)
        await _run(client, listen=wait)
        first = time.perf_counter() - started
        times = []
        for _ in range(trips):
            started = time.perf_counter()
            await _run(client)
            times.append(time.perf_counter() - started)
    return first, times


@asynccontextmanager
async def _kernel() -> AsyncIterator[AsyncKernelClient]:
    with tempfile.TemporaryDirectory(prefix="lzero-yardstick-", dir="/var/tmp") as directory:
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        manager = _Manager(
            kernel_name="python3", transport="ipc", ip=f"{directory}/at", connection_file=f"{directory}/kernel.json"
        )
        await manager.start_kernel(
            env=environment | {"IPYTHONDIR": directory},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            independent=True,  # in a pid namespace its parent is pid 1, which it would take for the death of its parent
        )
        client = manager.client()
        client.start_channels(hb=False, stdin=False, control=False)
        try:
            yield client
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)


async def _run(client: AsyncKernelClient, *, listen: bool = True) -> None:
    """One cell: sent, answered, and its outputs heard to their end. (To a kernel that was not waited for, the first cell's may
    come before the subscription to them does.)"""
    request = client.execute(CELL)
    while (reply := await client.get_shell_msg(timeout=_TIMEOUT_S))["parent_header"].get("msg_id") != request:
        pass
    assert reply["content"]["status"] == "ok", reply
    while listen:
        message = await client.get_iopub_msg(timeout=_TIMEOUT_S)
        of_this = message["parent_header"].get("msg_id") == request
        listen = not (of_this and message["content"].get("execution_state") == "idle")
