"""The REPL of an episode: opened for the first code, and again after a cell has killed it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lzero.agent.broker import Broker
from lzero.agent.file_cache import FileCache
from lzero.closing import closed_on_error
from lzero.errors import DataError, WorkspaceError
from lzero.paths import file_problem
from lzero.protocols import Repl, ReplPool
from lzero.seeds import derive_seed
from lzero.text import unbroken
from lzero.types import Execution, WorkspaceFile


class EpisodeRepl:
    """Runs the cells of one episode, and reads files of its workspace."""

    def __init__(self, pool: ReplPool, seed: int, files: Sequence[str], *, cache: FileCache | None = None) -> None:
        """`files`: paths on the host; every REPL gets a copy of each in its workspace. `cache` reads them; the episodes of a run share it.

        Raises DataError for a file that cannot be read.
        """
        self._pool = pool
        self._cache = cache or FileCache()
        self._seed = seed
        self._files = tuple(map(Path, files))
        check_files(self._files)
        self._num_opened = 0
        self._repl: Repl | None = None

    @property
    def was_killed(self) -> bool:
        """Whether a cell has killed the last REPL, so that the next cell needs another."""
        return self._repl is None and self._num_opened > 0

    async def ready(self, broker: Broker) -> None:
        """Open a REPL, unless there is one; `broker` answers its tool calls. Raises ReplError, and DataError for a file that cannot be
        read."""
        if self._repl is None:
            self._repl = await self._open(broker)

    async def run(self, code: str, *, deadline_s: float) -> Execution:
        """Run one cell; `ready` comes first. Raises ReplError."""
        assert self._repl is not None
        execution = await self._repl.run(code, deadline_s=deadline_s)
        if execution.status == "killed":
            await self.close()
        return execution

    async def read(self, path: str) -> bytes:
        """Return a file of the workspace. Raises WorkspaceError, ReplError."""
        if self._repl is None:
            raise WorkspaceError(f"there is no file {path!r}: the session has not begun")
        return await self._repl.get(path)

    async def files(self) -> tuple[WorkspaceFile, ...]:
        """Return the regular files of the workspace. Raises ReplError."""
        return await self._repl.files() if self._repl is not None else ()

    async def close(self) -> None:
        """End the session; the next cell would open another. Safe to call twice."""
        repl, self._repl = self._repl, None
        if repl is not None:
            await repl.close()

    async def _open(self, broker: Broker) -> Repl:
        seed = derive_seed(self._seed, "repl", self._num_opened)
        repl = await self._pool.open(broker.tools, broker.on_call, seed=seed)
        self._num_opened += 1
        async with closed_on_error(repl.close):
            for file in self._files:
                try:
                    await repl.put(file.name, await self._cache.read(file))
                except WorkspaceError as error:
                    raise DataError(f"cannot give {file} to the agent: {error}") from None
        return repl


def check_files(files: Sequence[Path], *, max_bytes: int = sys.maxsize) -> None:
    """Check the files. Raises DataError for one that cannot be read or is larger than `max_bytes`, and for two files of one name."""
    names: set[str] = set()
    for file in files:
        if problem := file_problem(file):
            raise DataError(f"cannot give {file} to the agent: {problem}")
        if unbroken(str(file)) != str(file):
            raise DataError(f"cannot give {str(file)!r} to the agent: its name is not UTF-8")
        if (size := file.stat().st_size) > max_bytes:
            raise DataError(
                f"cannot give {file} to the agent: its {size:,} bytes exceed the limit of {max_bytes:,} for a file (repl.file_mb)"
            )
        if file.name in names:
            raise DataError(f"cannot give {file} to the agent: another file also has the name {file.name!r}")
        names.add(file.name)
