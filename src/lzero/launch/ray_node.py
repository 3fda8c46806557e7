"""The part of the Ray launcher that runs on a node: an actor that starts one program and waits for its end."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lzero.errors import LaunchError
from lzero.launch.local import LocalProcess, new_directory, remove_left, runnable
from lzero.temporary import OwnedDirectory


class ProgramOfNode:
    """One program on this node. It ends with the actor, and so with the run and with the node's Ray."""

    def __init__(self) -> None:
        self._process: LocalProcess | None = None
        self._temporary: OwnedDirectory | None = None

    async def start(self, program: Mapping[str, Any]) -> tuple[str, str, int]:
        """Start the program; return the node's id and address, and the port that it was given.

        Raises LaunchError if it cannot be run, or this node has another lzero.
        """
        import ray

        from lzero import __version__

        host = str(ray.util.get_node_ip_address())
        if program["version"] != __version__:
            raise LaunchError(
                f"node {host} has lzero {__version__}, and the run has {program['version']}: install the same on both"
            )
        if program["directory"]:
            directory = Path(program["directory"])
            directory.mkdir(parents=True, exist_ok=True)
        else:
            await asyncio.to_thread(remove_left, program["role"])
            self._temporary = new_directory(program["role"])
            directory = self._temporary.path
        command, port = runnable(program["command"], host=host)
        # Ray sets it by the CPUs of the actor, which has none: its program may use the whole node.
        own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self._process = LocalProcess(
            command, environment={**own, **program["variables"]}, directory=directory, port=port
        )
        return ray.get_runtime_context().get_node_id(), host, port

    async def ended(self) -> tuple[str, str]:
        """Wait until the program has ended; return how, and the end of its log."""
        assert self._process is not None
        return await self._process.ended(), await self._process.tail()

    async def tail(self) -> str:
        assert self._process is not None
        return await self._process.tail()

    async def read(self, name: str) -> bytes:
        """Return a file of the program's directory; nothing if there is none."""
        assert self._process is not None
        return await self._process.read(name)

    async def end(self) -> None:
        """End the program, and remove its directory if it was made for it."""
        assert self._process is not None
        await self._process.end()
        self._clean()

    async def kill(self) -> None:
        assert self._process is not None
        await self._process.kill()
        self._clean()

    def _clean(self) -> None:
        if self._temporary is not None:
            self._temporary.remove()
