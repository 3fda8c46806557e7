"""How sequences share the rows of a forward pass: what an update costs, and never what its gradient is.

padded    a sequence a row, rows of like length together, padding on the right: no real token sees it, as attention is causal
packed    all sequences in one row, positions counted anew in each: none sees another, and nothing is padded
tree      sequences that begin alike in one row, what they share computed once: a token sees what comes before it in its own

    padded  a b c d e        packed  a b c d e a b c f        tree  a b c d e f    (f sees a b c)
            a b c f .
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from lzero.types import Sample

Packing = Literal["padded", "packed", "tree"]

ATTENTION_REACH = 512
"""Keys that cost a token about as much as all its matrix products do, in a narrow model (6 times its width, by operations). In a wider
one attention is cheaper, and a tree pays where this still says it does not."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a batch is laid out."""

    max_tokens: int
    """Of one micro-batch, padding included; a longer sequence stands alone."""
    packing: Packing = "padded"
    whole_episodes: bool = False
    """Keep an episode's sequences in one micro-batch, as a ratio over episodes needs."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a micro-batch: which samples stand in it, in which order, and how many tokens that makes."""

    members: tuple[int, ...]
    length: int


def plan(samples: Sequence[Sample], layout: Layout) -> list[list[Row]]:
    """The rows of each micro-batch: every sample once, longest rows first, each micro-batch within the layout's tokens.

    Longest first, so that a run that will not fit in memory fails at once. Ties keep the order given.
    """
    if layout.whole_episodes:
        units = [_rows(samples, indices, layout) for indices in _episodes(samples)]
    else:
        units = [[row] for row in _rows(samples, range(len(samples)), layout)]
    units.sort(key=lambda unit: -max(row.length for row in unit))
    micro_batches: list[list[Row]] = []
    for unit in units:
        together = _beside(micro_batches[-1], unit, samples, layout) if micro_batches else []
        if together and num_computed(together, layout) <= layout.max_tokens:
            micro_batches[-1] = together
        else:
            micro_batches.append(list(unit))
    if layout.packing == "packed":
        return [[_end_to_end(rows)] for rows in micro_batches]
    return micro_batches


def num_computed(rows: Sequence[Row], layout: Layout) -> int:
    """Tokens that a micro-batch of these rows computes on, padding included."""
    lengths = [row.length for row in rows]
    return sum(lengths) if layout.packing == "packed" else max(lengths) * len(lengths)


def paths(sequences: Sequence[Sequence[int]], packing: Packing) -> list[list[int]]:
    """Where in a row each token of each of its sequences stands."""
    found: list[list[int]] = []
    length = 0
    for number, sequence in enumerate(sequences):
        shared = common_prefix(sequences[number - 1], sequence) if packing == "tree" and number else 0
        added = len(sequence) - shared
        found.append([*(found[-1][:shared] if shared else ()), *range(length, length + added)])
        length += added
    return found


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (own, its) in pairs if own != its), min(len(one), len(other)))


def _rows(samples: Sequence[Sample], indices: Iterable[int], layout: Layout) -> list[Row]:
    """A row for each of the samples, or, in trees, for those that begin alike, as long as that saves work.

    In the order of their tokens, each sample has its longest common prefix of all with the one before it.
    """
    alone = [Row(members=(index,), length=len(samples[index].token_ids)) for index in indices]
    if layout.packing != "tree":
        return alone
    rows: list[Row] = []
    for row in sorted(alone, key=lambda row: samples[row.members[0]].token_ids):
        if rows:
            joined = _joined(rows[-1], row, samples)
            if joined.length <= layout.max_tokens and _work(joined) < _work(rows[-1]) + _work(row):
                rows[-1] = joined
                continue
        rows.append(row)
    return rows


def _beside(rows: Sequence[Row], unit: Sequence[Row], samples: Sequence[Sample], layout: Layout) -> list[Row]:
    """The rows of both; in trees, one that fits into what would be padding of another stands there."""
    together, width = list(rows), max(row.length for row in rows)
    for row in unit:
        room = (
            place
            for place, other in enumerate(together if layout.packing == "tree" else ())
            if _share(other, row, samples, other.length + row.length - width)
        )
        place = next(room, None)
        if place is None:
            together.append(row)
        else:
            together[place] = _joined(together[place], row, samples)
    return together


def _share(row: Row, other: Row, samples: Sequence[Sample], tokens: int) -> bool:
    """Whether the one would share as many tokens with what follows it in a row."""
    last, first = samples[row.members[-1]].token_ids, samples[other.members[0]].token_ids
    return tokens <= 0 or (tokens <= len(last) and last[:tokens] == first[:tokens])


def _joined(row: Row, other: Row, samples: Sequence[Sample]) -> Row:
    shared = common_prefix(samples[row.members[-1]].token_ids, samples[other.members[0]].token_ids)
    return Row(members=row.members + other.members, length=row.length + other.length - shared)


def _work(row: Row) -> int:
    """Each of its tokens through the matrices, and against all of them."""
    return row.length * (ATTENTION_REACH + row.length)


def _end_to_end(rows: Sequence[Row]) -> Row:
    return Row(members=tuple(chain.from_iterable(row.members for row in rows)), length=sum(row.length for row in rows))


def _episodes(samples: Sequence[Sample]) -> list[list[int]]:
    units: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        units.setdefault(sample.episode_id, []).append(index)
    return list(units.values())
