"""Plan how sequences share the rows of a forward pass. This changes the cost of an update, never its gradient.

padded    one sequence per row, rows of similar length together, padding on the right: no real token sees it (causal attention)
packed    all sequences in one row, positions restart in each: no sequence sees another, and there is no padding
tree      sequences with a common prefix in one row, which is computed once: a token sees the tokens before it in its own sequence

padded  a b c d e        packed  a b c d e a b c f        tree  a b c d e f    (f sees a b c)
        a b c f .
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from typing import Literal

from lzero.types import Sample

Packing = Literal["padded", "packed", "tree"]

ATTENTION_REACH = 512
"""Number of keys that cost a token about as much as all its matrix products, in a narrow model (6 times its width, by operations). In a
wider model attention is cheaper, so a tree may pay even if this constant says that it does not."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Options for the layout of a batch."""

    max_tokens: int
    """The most tokens of a micro-batch, padding included; a longer sequence gets its own."""
    packing: Packing = "padded"
    whole_episodes: bool = False
    """Keep an episode's sequences in one micro-batch, as a ratio over episodes needs."""
    square: bool = True
    """Attention costs the square of a tree's row, as with a mask. Otherwise a token costs what it sees: whatever is shared saves work, and
    all trees of a micro-batch are in one row, without padding."""

    @property
    def end_to_end(self) -> bool:
        """Whether a micro-batch is one row."""
        return self.packing == "packed" or (self.packing == "tree" and not self.square)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a micro-batch: the indices of its samples, in order, and its number of tokens."""

    members: tuple[int, ...]
    length: int


def fastest_packing(device: str, *, has_kernel: bool) -> Packing:
    """Return the packing that costs least on a device, "cpu" or "cuda". `has_kernel`: whether the model attends by a kernel of lzero.

    Without one, a tree needs a mask, which costs the square of the row. CUDA's matrix products do not outweigh that.
    """
    return "packed" if device == "cuda" and not has_kernel else "tree"


def plan(samples: Sequence[Sample], layout: Layout) -> list[list[Row]]:
    """Return the rows of each micro-batch. Every sample occurs once, and each micro-batch stays within the layout's tokens.

    The longest rows come first, so that a run that does not fit in memory fails at once. Ties keep the given order.
    """
    micro_batches: list[list[Row]] = []
    for unit in sorted(units(samples, layout), key=lambda unit: -max(row.length for row in unit)):
        together = _beside(micro_batches[-1], unit, samples, layout) if micro_batches else []
        if together and num_computed(together, layout) <= layout.max_tokens:
            micro_batches[-1] = together
        else:
            micro_batches.append(list(unit))
    if layout.end_to_end:
        return [[_end_to_end(rows, samples, layout.packing)] for rows in micro_batches]
    return micro_batches


def units(samples: Sequence[Sample], layout: Layout) -> list[list[Row]]:
    """Return the rows that have to be in one micro-batch: all of an episode, if it is kept whole, else each row alone."""
    if layout.whole_episodes:
        return [_rows(samples, indices, layout) for indices in _episodes(samples)]
    return [[row] for row in _rows(samples, range(len(samples)), layout)]


def num_computed(rows: Sequence[Row], layout: Layout) -> int:
    """Return the number of tokens that a micro-batch of these rows computes, padding included."""
    lengths = [row.length for row in rows]
    return sum(lengths) if layout.end_to_end else max(lengths) * len(lengths)


def paths(sequences: Sequence[Sequence[int]], packing: Packing) -> list[list[int]]:
    """Return for each sequence of a row the positions of its tokens in the row."""
    found: list[list[int]] = []
    length = 0
    for number, sequence in enumerate(sequences):
        shared = common_prefix(sequences[number - 1], sequence) if packing == "tree" and number else 0
        added = len(sequence) - shared
        found.append([*(found[-1][:shared] if shared else ()), *range(length, length + added)])
        length += added
    return found


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the longest common prefix of two sequences."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (own, its) in pairs if own != its), min(len(one), len(other)))


def _rows(samples: Sequence[Sample], indices: Iterable[int], layout: Layout) -> list[Row]:
    """Return a row for each of the samples. In trees, samples with a common prefix share a row as long as that saves work.

    Sorted by tokens, each sample has its longest common prefix with the one before it.
    """
    alone = [Row(members=(index,), length=len(samples[index].token_ids)) for index in indices]
    if layout.packing != "tree":
        return alone
    rows: list[Row] = []
    for row in sorted(alone, key=lambda row: samples[row.members[0]].token_ids):
        if rows:
            joined = _joined(rows[-1], row, samples)
            saves = _work(joined, layout) < _work(rows[-1], layout) + _work(row, layout)
            if joined.length <= layout.max_tokens and saves:
                rows[-1] = joined
                continue
        rows.append(row)
    return rows


def _beside(rows: Sequence[Row], unit: Sequence[Row], samples: Sequence[Sample], layout: Layout) -> list[Row]:
    """Return the rows of both. In trees, a row joins another one if it fits into that one's padding."""
    together, width = list(rows), max(row.length for row in rows)
    for row in unit:
        room = (
            place
            for place, other in enumerate(together if layout.packing == "tree" and layout.square else ())
            if _share(other, row, samples, other.length + row.length - width)
        )
        place = next(room, None)
        if place is None:
            together.append(row)
        else:
            together[place] = _joined(together[place], row, samples)
    return together


def _share(row: Row, other: Row, samples: Sequence[Sample], tokens: int) -> bool:
    """Return whether `other` would share at least `tokens` tokens with the row that it follows."""
    last, first = samples[row.members[-1]].token_ids, samples[other.members[0]].token_ids
    return tokens <= 0 or (tokens <= len(last) and last[:tokens] == first[:tokens])


def _joined(row: Row, other: Row, samples: Sequence[Sample]) -> Row:
    shared = common_prefix(samples[row.members[-1]].token_ids, samples[other.members[0]].token_ids)
    return Row(members=row.members + other.members, length=row.length + other.length - shared)


def _work(row: Row, layout: Layout) -> int:
    """Return the relative cost of a row: its tokens' matrix products, and their attention, if that is to all tokens of the row."""
    return row.length * (ATTENTION_REACH + row.length) if layout.square else row.length


def _end_to_end(rows: Sequence[Row], samples: Sequence[Sample], packing: Packing) -> Row:
    if packing == "tree":
        return reduce(lambda row, other: _joined(row, other, samples), rows)
    return Row(members=tuple(chain.from_iterable(row.members for row in rows)), length=sum(row.length for row in rows))


def _episodes(samples: Sequence[Sample]) -> list[list[int]]:
    found: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        found.setdefault(sample.episode_id, []).append(index)
    return list(found.values())
