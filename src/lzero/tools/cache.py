"""Cache a tool's answers on disk, for calls that cost money or time: `Cached(tool, Path("answers.sqlite"), version="serper 5")`.

Use it only for tools whose answer depends on their arguments alone, never for one that reads a session. Several processes may share a file.
Only answers are cached; failed calls are repeated.
"""

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

from lzero.blocking import in_thread
from lzero.errors import DataError
from lzero.protocols import Tool, ToolContext
from lzero.tools.wrapper import Wrapper, canonical
from lzero.types import Json

_WAIT_S = 30.0
"""Seconds to wait for another process that is writing."""
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY, tool TEXT NOT NULL, arguments TEXT NOT NULL, version TEXT NOT NULL, answer TEXT NOT NULL
) WITHOUT ROWID
"""
_FIND = "SELECT answer FROM answers WHERE key = ?"
_KEEP = "INSERT INTO answers VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"


class Cached(Wrapper):
    """Calls the tool only if the answer is not in `file`. Raises DataError for a file that is not such a cache, or cannot be written.

    `version` names everything else that an answer depends on (provider, number of results). Other versions share the file, not the answers.
    """

    def __init__(self, tool: Tool, file: Path, *, version: str) -> None:
        super().__init__(tool)
        self._file = file
        self._version = version
        if file.parent.exists() and not file.parent.is_dir():
            raise DataError(f"cannot write the cache of tool answers: tools.cache = {file.parent} is not a directory")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot write the cache of tool answers {file}: {error.strerror}") from None
        for statement in ("PRAGMA journal_mode = WAL", _TABLE):
            self._execute(statement)
        self._execute(_FIND, b"")

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        """Return the cached or new answer. Raises what the tool raises, and DataError if the file breaks meanwhile."""
        text = canonical(arguments)
        key = hashlib.blake2b(json.dumps([self.name, self._version, text]).encode(), digest_size=16).digest()
        kept = await in_thread(self._execute, _FIND, key)
        if kept is not None:
            known: Json = json.loads(kept[0])
            return known
        answer = await self.tool.call(arguments, context)
        await in_thread(self._execute, _KEEP, key, self.name, text, self._version, json.dumps(answer))
        return answer

    def _execute(self, statement: str, *values: str | bytes) -> tuple[str] | None:
        """Return the first row of a statement. Its own connection takes a fraction of a millisecond, and belongs to one thread."""
        try:
            with closing(sqlite3.connect(self._file, timeout=_WAIT_S)) as connection, connection:
                row: tuple[str] | None = connection.execute(statement, values).fetchone()
                return row
        except sqlite3.Error as error:
            raise DataError(
                f"{self._file} cannot be used as a cache of tool answers: {error}; delete it, or name another"
            ) from error
