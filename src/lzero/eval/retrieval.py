"""Measure how often a search with the question finds the gold passages of a task, by source.

A task names its gold passages by their titles: `metadata["supporting_titles"]`, a JSON list. `lzero.data` fills it for HotpotQA,
2WikiMultihopQA, MuSiQue and other rows that tell.
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec import Struct

from lzero.data.shapes.parts import SUPPORTING_TITLES
from lzero.errors import DataError
from lzero.eval.statistics import interval, mean
from lzero.protocols import SearchIndex
from lzero.types import Task

ALL = "all"
"""Name of the row over all sources."""


class Recall(Struct, frozen=True, kw_only=True):
    """How many gold passages are among the first k results, over the tasks of one source that name them."""

    source: str
    num_tasks: int
    recall: dict[int, float]
    """k → mean share of a task's gold titles."""
    interval: dict[int, tuple[float, float]]
    """k → 95 % interval of `recall`, over tasks."""
    complete: dict[int, float]
    """k → share of the tasks all of whose gold titles were found."""


class Retrieval(Struct, frozen=True, kw_only=True):
    """Recall by source, then over all of them if there are several."""

    rows: tuple[Recall, ...]
    num_unlabelled: int
    """Tasks that name no gold passage, which are left out."""


def gold_titles(task: Task) -> tuple[str, ...]:
    """Return the titles of the passages that answer a task, each once; () if it names none. Raises DataError for what is no list."""
    given = task.metadata.get(SUPPORTING_TITLES)
    if given is None:
        return ()
    try:
        titles = msgspec.json.decode(given, type=list[str])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise DataError(
            f"task {task.id}: metadata `{SUPPORTING_TITLES}` is {given!r:.60}: give the titles of its gold passages as a JSON list"
        ) from None
    return tuple(dict.fromkeys(title.strip() for title in titles))


def measure(tasks: Iterable[Task], index_of: Callable[[Task], SearchIndex | None], *, at: Sequence[int]) -> Retrieval:
    """Search once for each task that names gold passages, with its question, and count these among the first k results, for k in `at`.

    A result counts by its title, so any passage of a gold title does. `index_of` returns None for a task that has nothing to search.
    Raises DataError for such a task, and if no task names a gold passage.
    """
    shares: dict[str, list[tuple[float, ...]]] = {}
    num_unlabelled = 0
    for task in tasks:
        titles = gold_titles(task)
        if not titles:
            num_unlabelled += 1
            continue
        index = index_of(task)
        if index is None:
            raise DataError(f"task {task.id} has no passages to search: name a corpus that holds them")
        found = [passage.title.strip() for passage in index.search(task.question, limit=max(at))]
        shares.setdefault(task.source, []).append(
            tuple(sum(title in found[:k] for title in titles) / len(titles) for k in at)
        )
    if not shares:
        raise DataError(
            f"none of {num_unlabelled} tasks names its gold passages: give their titles as `{SUPPORTING_TITLES}`, a list of texts"
        )
    rows = [_row(source, values, at) for source, values in sorted(shares.items())]
    if len(rows) > 1:
        rows.append(_row(ALL, [value for values in shares.values() for value in values], at))
    return Retrieval(rows=tuple(rows), num_unlabelled=num_unlabelled)


def _row(source: str, shares: Sequence[Sequence[float]], at: Sequence[int]) -> Recall:
    by_k = dict(zip(at, zip(*shares, strict=True), strict=True))
    return Recall(
        source=source,
        num_tasks=len(shares),
        recall={k: mean(values) for k, values in by_k.items()},
        interval={k: interval(values) for k, values in by_k.items()},
        complete={k: mean([value == 1.0 for value in values]) for k, values in by_k.items()},
    )
