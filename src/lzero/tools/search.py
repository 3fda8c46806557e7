"""Search passages with a BM25 index on SQLite's FTS5, and offer that to agents as a tool.

A task has few passages of its own (indexed in memory, in about a millisecond); a corpus has many (indexed once, on disk, and found again by
the hash of its content). `lzero.text` splits texts of any script into words. A query is only words, so an agent cannot cause a syntax
error.
"""

import hashlib
import itertools
import json
import os
import queue
import sqlite3
import tempfile
import weakref
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from lzero import blocking
from lzero.errors import DataError, ToolError
from lzero.paths import cache_directory
from lzero.protocols import SearchIndex, ToolContext
from lzero.text import words
from lzero.turns import Turns
from lzero.types import Json, Passage

TITLE_WEIGHT = 5.0
"""Weight of a word in a title, relative to one in a text."""
MAX_SCORED = 8_000
"""Approximate number of passages that one query scores: its rarest words come first, words in nearly every passage are left out."""
COMMON = 100
"""Number of passages with a word from which on its frequency is stored."""
MAX_QUERY_WORDS = 64
MAX_QUERY_CHARS = 2_000
FORMAT = 1
"""Version of the index layout and of the splitting into words. An increase makes older files invalid."""
_CONNECTIONS = 4
_TABLES = """
CREATE TABLE passages (id INTEGER PRIMARY KEY, title TEXT NOT NULL, text TEXT NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(
    title, text, content='', tokenize="unicode61 remove_diacritics 0 categories 'L* N* M* Co'"
);
CREATE TABLE frequencies (word TEXT PRIMARY KEY, num_passages INTEGER NOT NULL) WITHOUT ROWID;
"""
_COUNT = "INSERT INTO frequencies SELECT term, doc FROM temp.counts WHERE doc >= ?"
_FREQUENCIES = "SELECT word, num_passages FROM frequencies WHERE word IN (SELECT value FROM json_each(?))"
_SEARCH = """
SELECT passages.title, passages.text FROM (
    SELECT rowid, bm25(words, ?, 1.0) AS score FROM words WHERE words MATCH ? ORDER BY score, rowid LIMIT ?
) AS best JOIN passages ON passages.id = best.rowid ORDER BY best.score, best.rowid
"""


class PassageIndex:
    """Passages ranked by BM25; equal scores keep the passages' order. Thread-safe.

    PassageIndex(task.passages).search("founder of Liri", limit=3)
    """

    def __init__(self, passages: Iterable[Passage]) -> None:
        """Index `passages` in memory."""
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        _fill(connection, passages)
        self._hold([connection])

    @classmethod
    def kept(cls, key: str, read: Callable[[], Iterable[Passage]], *, cache: Path | None = None) -> "PassageIndex":
        """Return the index stored under `key`; make it of `read()` if there is none. Raises DataError.

        Several processes may call it at once: each finds a complete index, or makes it.
        """
        digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        path = (cache or cache_directory("search")) / f"{digest}.sqlite"
        if not _is_whole(path):
            _build(path, read())
        index = cls.__new__(cls)
        index._hold([_open(path) for _ in range(_CONNECTIONS)])
        return index

    def search(self, query: str, *, limit: int) -> list[Passage]:
        """Return the best `limit` passages that contain a word of the query, best first. Any string is a query."""
        found = list(dict.fromkeys(words(query[:MAX_QUERY_CHARS])))[:MAX_QUERY_WORDS]
        if not found:
            return []
        connection = self._idle.get()
        try:
            expression = " OR ".join(f'"{word}"' for word in _rarest(connection, found))
            rows = connection.execute(_SEARCH, (TITLE_WEIGHT, expression, limit)).fetchall()
        finally:
            self._idle.put(connection)
        return [Passage(title=title, text=text) for title, text in rows]

    def __len__(self) -> int:
        """Return the number of passages."""
        return self._num_passages

    def close(self) -> None:
        """Release the files, which also happens when the index is garbage-collected."""
        self._finalizer()

    def _hold(self, connections: list[sqlite3.Connection]) -> None:
        self._num_passages = int(connections[0].execute("SELECT count(*) FROM passages").fetchone()[0])
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        for connection in connections:
            self._idle.put(connection)
        self._finalizer = weakref.finalize(self, _close, connections)


class Search:
    """The tool `search(query)`: returns the best passages of an index, as text.

    `in_thread` keeps the event loop free while a large index is searched; for a task's few passages it would cost more than it saves.
    """

    name = "search"
    parameters = ("query",)
    description = (
        "search(query: str) -> str\nThe passages that match the query's words best, one a line, as `title: text`."
    )

    def __init__(
        self, index: SearchIndex, *, num_results: int = 1, snippet_chars: int = 1000, in_thread: bool = False
    ) -> None:
        self._index = index
        self._num_results = num_results
        self._snippet_chars = snippet_chars
        self._turns = Turns(_CONNECTIONS, "the search index") if in_thread else None

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        """Return the results as text. Raises ToolError: the agent's fault without a query, the tool's if the index cannot be read."""
        query = arguments.get("query")
        if not isinstance(query, str) or not query.strip() or len(arguments) != 1:
            given = ", ".join(f"{name}={value!r:.40}" for name, value in arguments.items())
            raise ToolError(
                f'search takes one text that is not empty, as in search("Ada Lovelace"), not ({given})', fault="agent"
            )
        try:
            if self._turns is not None:
                async with self._turns.turn():
                    passages = await blocking.in_thread(self._index.search, query, limit=self._num_results)
            else:
                passages = self._index.search(query, limit=self._num_results)
        except sqlite3.Error as error:
            raise ToolError(f"the search index cannot be read: {error}", fault="tool") from error
        return "\n".join(self._line(passage) for passage in passages) or "no results"

    def _line(self, passage: Passage) -> str:
        text = passage.text[: self._snippet_chars]
        return f"{passage.title}: {text}" if passage.title else text


def _fill(connection: sqlite3.Connection, passages: Iterable[Passage]) -> None:
    connection.executescript(_TABLES)
    with connection:
        for number, passage in enumerate(passages):
            connection.execute("INSERT INTO passages VALUES (?, ?, ?)", (number, passage.title, passage.text))
            connection.execute(
                "INSERT INTO words (rowid, title, text) VALUES (?, ?, ?)",
                (number, " ".join(words(passage.title)), " ".join(words(passage.text))),
            )


def _rarest(connection: sqlite3.Connection, found: list[str]) -> list[str]:
    """Return the query's words that are worth their cost: all, unless together they are in more than MAX_SCORED passages."""
    frequency = dict(connection.execute(_FREQUENCIES, (json.dumps(found),)).fetchall())
    rising = sorted(found, key=lambda word: frequency.get(word, COMMON))
    totals = itertools.accumulate(frequency.get(word, 0) for word in rising)
    return [
        word
        for index, (word, total) in enumerate(zip(rising, totals, strict=True))
        if index == 0 or total <= MAX_SCORED
    ]


def _build(path: Path, passages: Iterable[Passage]) -> None:
    """Write the index under a temporary name, and rename it, so that no reader sees an incomplete one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as directory:
            unfinished = Path(directory) / path.name
            with closing(sqlite3.connect(unfinished)) as connection:
                connection.execute("PRAGMA journal_mode = OFF")  # an interrupted build drops the file
                _fill(connection, passages)
                connection.execute("CREATE VIRTUAL TABLE temp.counts USING fts5vocab(main, words, row)")
                connection.execute(_COUNT, (COMMON,))
                connection.execute("INSERT INTO words (words) VALUES ('optimize')")
                connection.commit()
            os.replace(unfinished, path)
    except (OSError, sqlite3.Error) as error:
        raise DataError(
            f"cannot write the search index {path}: {error}; free space there, or set XDG_CACHE_HOME to another directory"
        ) from error


def _is_whole(path: Path) -> bool:
    """Return whether there is a complete index at `path`."""
    try:
        with closing(_open(path)) as connection:
            (num_pages,) = connection.execute("PRAGMA page_count").fetchone()
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    except sqlite3.Error:
        return False
    return 0 < int(num_pages) * int(page_size) == path.stat().st_size


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)


def _close(connections: list[sqlite3.Connection]) -> None:
    for connection in connections:
        connection.close()
