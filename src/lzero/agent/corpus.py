"""A corpus of one's own for an agent: `NBAgent(model, tools=[corpus_search("papers/")])`."""

from pathlib import Path

from lzero.tools.search import Search

SEARCH_RESULTS = 5


def corpus_search(corpus: str | Path, *, num_results: int = SEARCH_RESULTS, snippet_chars: int = 1000) -> Search:
    """The tool `search(query)` over a directory of documents or a file of passages, indexed once. Raises DataError, ConfigError."""
    from lzero.data.files import read_passages
    from lzero.tools.corpus import open_corpus

    index = open_corpus(Path(corpus), read_passages)
    return Search(index, num_results=num_results, snippet_chars=snippet_chars, in_thread=True)
