"""The environment "search": a tool that searches each task's own passages, or one corpus."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from lzero.environments.stateless import StatelessScene
from lzero.text import counted
from lzero.tools.search import PassageIndex, Search
from lzero.types import Passage, Task

SEARCH_RESULTS = 5
"""Passages that one search of a corpus returns to an agent for a person."""
INDEXES = 256
"""Number of tasks with an index in memory: those of the running episodes."""


class SearchEnvironment:
    """Offers `search` over the corpus, or over the passages of each task; a task without passages has no such tool. Implements
    `Environment`."""

    def __init__(
        self,
        *,
        corpus: Annotated[
            str,
            Field(
                description="A .jsonl/.jsonl.gz/.parquet file of passages (title, text), or a directory of such files and of documents "
                "(text, Markdown, HTML, PDF, Word, PowerPoint); empty: each task's own passages."
            ),
        ] = "",
        results: Annotated[int, Field(ge=1, description="Passages that one `search` returns.")] = 1,
        snippet_chars: Annotated[int, Field(ge=1, description="Characters of a passage that `search` returns.")] = 1000,
    ) -> None:
        """Index the corpus; later runs find its index on disk. Raises DataError."""
        self._corpus = corpus
        self._results = results
        self._snippet_chars = snippet_chars
        self._index = _open_corpus(corpus) if corpus else None
        self._shared = self._search(self._index, in_thread=True) if self._index is not None else None
        self._search_of = lru_cache(maxsize=INDEXES)(self._search_passages)  # the episodes of a task share an index

    def __str__(self) -> str:
        return f"search in {self._corpus}, {counted(len(self._index), 'passage')}" if self._index else "search"

    @asynccontextmanager
    async def scene(self, task: Task, *, seed: int) -> AsyncIterator[StatelessScene]:
        search = self._shared or (self._search_of(task.passages) if task.passages else None)
        yield StatelessScene(tools=() if search is None else (search,))

    async def close(self) -> None:
        self._search_of.cache_clear()

    def reads(self) -> Mapping[str, Path]:
        """Return the corpus. Implements `WithFiles`."""
        return {"corpus": Path(self._corpus)} if self._corpus else {}

    def _search_passages(self, passages: tuple[Passage, ...]) -> Search:
        return self._search(PassageIndex(passages))

    def _search(self, index: PassageIndex, *, in_thread: bool = False) -> Search:
        return Search(index, num_results=self._results, snippet_chars=self._snippet_chars, in_thread=in_thread)


def corpus_search(corpus: str | Path, *, num_results: int = SEARCH_RESULTS, snippet_chars: int = 1000) -> Search:
    """Return the tool `search(query)` over a directory of documents or a file of passages, which is indexed once.

    `NBAgent(model, tools=[corpus_search("papers/")])`. Raises DataError, ConfigError.
    """
    return Search(_open_corpus(corpus), num_results=num_results, snippet_chars=snippet_chars, in_thread=True)


def _open_corpus(corpus: str | Path) -> PassageIndex:
    from lzero.data.files import read_passages
    from lzero.tools.corpus import open_corpus

    return open_corpus(Path(corpus), read_passages)
