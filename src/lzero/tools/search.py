"""Search passages with a BM25 index on SQLite's FTS5, and offer that to agents as a tool.

A task has few passages of its own (indexed in memory, in about a millisecond); a corpus has many (indexed once, on disk, and found again by
the hash of its content). The rarer words of a query find passages, and all of its words rank the best of these, so the commonest words cost
little. `lzero.text` splits texts of any script into words. A query is only words, so an agent cannot cause a syntax error.
"""

import hashlib
import itertools
import json
import math
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
"""Approximate number of passages that a query's rarer words score. Its commoner words only rank the best of these."""
RANKED = 200
"""Number of passages that the commoner words rank, and at least ten times those that the query asks for."""
COMMON = 100
"""Number of passages with a word from which on its counts are stored."""
MAX_QUERY_WORDS = 64
MAX_QUERY_CHARS = 2_000
FORMAT = 3
"""Version of the index layout and of the splitting into words. An increase makes older files invalid."""
K1, B = 1.2, 0.75
"""Constants of FTS5's bm25."""
_CONNECTIONS = 4
_TABLES = """
CREATE TABLE passages (id INTEGER PRIMARY KEY, title TEXT NOT NULL, text TEXT NOT NULL, num_words INTEGER NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(
    title, text, content='', tokenize="unicode61 remove_diacritics 0 categories 'L* N* M* Co'"
);
CREATE TABLE frequencies (word TEXT PRIMARY KEY, num_passages INTEGER NOT NULL, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE counts (number INTEGER, id INTEGER, weight REAL NOT NULL, PRIMARY KEY (number, id)) WITHOUT ROWID;
"""
_VOCABULARY = """
CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, words, row);
CREATE VIRTUAL TABLE temp.places USING fts5vocab(main, words, instance);
"""
_FREQUENT = (
    "INSERT INTO frequencies SELECT term, doc, row_number() OVER (ORDER BY term) FROM temp.vocabulary WHERE doc >= ?"
)
_COUNT = """
INSERT INTO counts SELECT number, doc, sum(iif(col = 'title', ?, 1.0))
FROM frequencies JOIN temp.places ON term = word WHERE num_passages < ? GROUP BY number, doc
"""
_FREQUENCIES = "SELECT word, num_passages, number FROM frequencies WHERE word IN (SELECT value FROM json_each(?))"
_SIZES = "SELECT count(*), avg(num_words) FROM passages"
_SEARCH = """
SELECT passages.title, passages.text, passages.id, passages.num_words, -best.score FROM (
    SELECT rowid, bm25(words, ?, 1.0) AS score FROM words WHERE words MATCH ? ORDER BY score, rowid LIMIT ?
) AS best JOIN passages ON passages.id = best.rowid ORDER BY best.score, best.rowid
"""
# CROSS JOIN: SQLite would otherwise read all counts of the word.
_WEIGHTS = "SELECT id, weight FROM (SELECT value FROM json_each(?)) CROSS JOIN counts ON id = value AND number = ?"

_Row = tuple[str, str, int, int, float]
"""Title, text, id, number of words and score of a passage."""
_Common = tuple[int, int]
"""Number of passages with a word, and the word's number."""


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
            rare, common = _divided(connection, found, half=self._num_passages / 2)
            expression = " OR ".join(f'"{word}"' for word in rare)
            num_ranked = max(RANKED, 10 * limit) if common else limit
            rows = connection.execute(_SEARCH, (TITLE_WEIGHT, expression, num_ranked)).fetchall()
            if common:
                rows = self._ranked(connection, rows, common)[:limit]
        finally:
            self._idle.put(connection)
        return [Passage(title=row[0], text=row[1]) for row in rows]

    def _ranked(self, connection: sqlite3.Connection, rows: list[_Row], common: list[_Common]) -> list[_Row]:
        """Return the passages that the rarer words have found, ranked by the commoner words, too, as FTS5's bm25 does."""
        scores = {passage: score for _, _, passage, _, score in rows}
        norms = {passage: K1 * (1 - B + B * num_words / self._mean_words) for _, _, passage, num_words, _ in rows}
        found = json.dumps(list(scores))
        for num_passages, word in common:
            idf = math.log((self._num_passages - num_passages + 0.5) / (num_passages + 0.5))
            for passage, weight in connection.execute(_WEIGHTS, (found, word)):
                scores[passage] += idf * weight * (K1 + 1) / (weight + norms[passage])

        def rank(row: _Row) -> tuple[float, int]:
            _, _, passage, _, _ = row
            return -scores[passage], passage

        return sorted(rows, key=rank)

    def __len__(self) -> int:
        """Return the number of passages."""
        return self._num_passages

    def close(self) -> None:
        """Release the files, which also happens when the index is garbage-collected."""
        self._finalizer()

    def _hold(self, connections: list[sqlite3.Connection]) -> None:
        num_passages, mean_words = connections[0].execute(_SIZES).fetchone()
        self._num_passages, self._mean_words = int(num_passages), float(mean_words or 1)
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
            title, text = words(passage.title), words(passage.text)
            connection.execute(
                "INSERT INTO passages VALUES (?, ?, ?, ?)",
                (number, passage.title, passage.text, len(title) + len(text)),
            )
            connection.execute(
                "INSERT INTO words (rowid, title, text) VALUES (?, ?, ?)", (number, " ".join(title), " ".join(text))
            )


def _count(connection: sqlite3.Connection) -> None:
    """Store in how many passages each common word is, and how often it is in each of them; bm25 gives words in half of all no weight."""
    connection.executescript(_VOCABULARY)
    (num_passages,) = connection.execute("SELECT count(*) FROM passages").fetchone()
    connection.execute(_FREQUENT, (COMMON,))
    connection.execute(_COUNT, (TITLE_WEIGHT, num_passages / 2))


def _divided(connection: sqlite3.Connection, found: list[str], *, half: float) -> tuple[list[str], list[_Common]]:
    """Return the rarer words of a query, in MAX_SCORED passages together, and its commoner words that are in less than half of all."""
    rows = connection.execute(_FREQUENCIES, (json.dumps(found),)).fetchall()
    frequency = {word: (num_passages, number) for word, num_passages, number in rows}
    rising = sorted(found, key=lambda word: frequency.get(word, (0, 0))[0])
    totals = itertools.accumulate(frequency.get(word, (0, 0))[0] for word in rising)
    num_rare = max(1, sum(total <= MAX_SCORED for total in totals))
    return rising[:num_rare], [frequency[word] for word in rising[num_rare:] if frequency[word][0] < half]


def _build(path: Path, passages: Iterable[Passage]) -> None:
    """Write the index under a temporary name, and rename it, so that no reader sees an incomplete one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as directory:
            unfinished = Path(directory) / path.name
            with closing(sqlite3.connect(unfinished)) as connection:
                connection.execute("PRAGMA journal_mode = OFF")  # an interrupted build drops the file
                _fill(connection, passages)
                _count(connection)
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
