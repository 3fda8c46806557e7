"""Compare lzero's search with an independent BM25 library, on the same questions: `python benchmarks/retrieval.py TASKS CORPUS [--json]`.

The yardstick is bm25s (`pip install bm25s`, extra `reference`) with the same words, k1 and b; a title counts five times, as in lzero's
index. It scores every passage with a word of the question, where lzero scores those with its rarer words (MAX_SCORED); the third index is
lzero's without that limit.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from lzero.config import TasksConfig
from lzero.data.files import read_passages
from lzero.data.sources import open_source
from lzero.eval.retrieval import Retrieval, measure
from lzero.protocols import SearchIndex
from lzero.text import words
from lzero.tools import search
from lzero.tools.corpus import open_corpus
from lzero.types import Passage

AT = (1, 2, 5, 10, 20)
K1, B = 1.2, 0.75
"""SQLite's constants."""
REACH = 0.01
"""Largest difference to the yardstick over all questions."""


class Yardstick:
    """Passages ranked by bm25s. Implements `SearchIndex`."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        import bm25s

        self._passages = passages
        self._ids: dict[str, int] = {}
        texts = [words(each.title) * round(search.TITLE_WEIGHT) + words(each.text) for each in passages]
        rows = [[self._ids.setdefault(word, len(self._ids)) for word in text] for text in texts]
        self._index = bm25s.BM25(method="robertson", k1=K1, b=B)
        self._index.index((rows, self._ids), show_progress=False)

    def search(self, query: str, *, limit: int) -> list[Passage]:
        ids = [self._ids[word] for word in dict.fromkeys(words(query)) if word in self._ids]
        found, _ = self._index.retrieve([ids], k=limit, show_progress=False)
        return [self._passages[int(number)] for number in found[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", help="a file of tasks that name their gold passages")
    parser.add_argument("corpus", type=Path, help="a file of passages")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    arguments = parser.parse_args()
    source = open_source(arguments.tasks, split="eval", seed=0, config=TasksConfig(eval=arguments.tasks))
    tasks = [source.task(index) for index in range(len(source))]
    index = open_corpus(arguments.corpus, read_passages)

    def measured(searched: SearchIndex) -> Retrieval:
        return measure(tasks, lambda task: searched, at=AT)

    found = {"lzero": measured(index), "bm25s": measured(Yardstick(list(read_passages(arguments.corpus))))}
    search.MAX_SCORED = len(index) * search.MAX_QUERY_WORDS
    found["lzero without its limit"] = measured(index)
    if arguments.json:
        print(json.dumps({name: {row.source: row.recall for row in each.rows} for name, each in found.items()}))
        return
    for position, row in enumerate(found["lzero"].rows):
        print(f"{row.source}, {row.num_tasks} questions: recall at {', '.join(map(str, AT))}")
        for name, each in found.items():
            print(f"  {name:<24} {'  '.join(f'{each.rows[position].recall[k]:.3f}' for k in AT)}")
    last, yardstick = found["lzero"].rows[-1], found["bm25s"].rows[-1]
    gap = max(abs(last.recall[k] - yardstick.recall[k]) for k in AT)
    print(f"largest difference over {last.source}: {gap:.3f} (≤ {REACH}: {'reached' if gap <= REACH else 'MISSED'})")


if __name__ == "__main__":
    main()
