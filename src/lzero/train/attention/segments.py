"""Describe which tokens of a micro-batch see each other, for attention kernels that take no mask.

One number for each token suffices: the position in the row from which on no token sees it (`seen_until`). A token sees those before it that
are still seen at its position. A *segment* is a part of a row whose tokens see the same tokens before it, and each other causally:

    tree         a b c d e f        f sees a b c
    seen_until   6 6 6 5 5 6
    segments     a b c d e | f      with keys  a b c d e | a b c f
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lzero.algo.batches import MicroBatch
from lzero.train.ulysses import SequenceRanks

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def seen_until(micro: MicroBatch) -> Tensor:
    """Return [R, L] int64: the place in the row from which on no token sees this one."""
    if micro.seen_until is not None:
        return micro.seen_until
    rows, width = micro.token_ids.shape
    ends = torch.full((rows, width), width, device=micro.token_ids.device)
    if micro.position_ids is None:
        return ends
    places = torch.arange(width, device=ends.device).expand(rows, width)
    starts = torch.where(micro.position_ids == 0, places, width)
    return torch.cat((starts[:, 1:], ends[:, :1]), dim=1).flip(1).cummin(dim=1).values.flip(1)


def square_mask(until: Tensor) -> Tensor:
    """Return [R, 1, L, L] bool: which tokens (last) each token (third) sees."""
    places = torch.arange(until.shape[1], device=until.device)
    return ((places <= places[:, None]) & (places[:, None] < until[:, None])).unsqueeze(1)


@dataclass(frozen=True)
class Segments:
    """The segments of a micro-batch of R rows of L tokens. Rows are flattened: token l of row r is token r·L + l of R·L."""

    until: Tensor
    """`seen_until` of the micro-batch."""
    branching: bool
    """Whether a segment may see tokens before it."""
    ranks: SequenceRanks | None = None
    """The ranks that share the rows, if there are any."""

    @classmethod
    def of(cls, micro: MicroBatch, ranks: SequenceRanks | None = None) -> "Segments":
        return cls(seen_until(micro), branching=micro.seen_until is not None, ranks=ranks)

    @cached_property
    def flat(self) -> Tensor:
        """[R·L]: `until` in the flattened rows."""
        rows, width = self.until.shape
        return (self.until + width * torch.arange(rows, device=self.until.device).unsqueeze(1)).flatten()

    @cached_property
    def query_ends(self) -> Tensor:
        """[S + 1] int32: 0, and the end of each segment."""
        return torch.cat((self.flat.new_zeros(1), torch.unique(self.flat))).to(torch.int32)

    @cached_property
    def key_places(self) -> Tensor | None:
        """[K] int64: the keys of all segments, one segment after another, in the order of tokens; None if they are the segments' own."""
        return self._keys[1] if self.branching else None

    @cached_property
    def key_ends(self) -> Tensor:
        """[S + 1] int32: 0, and the end of each segment's keys."""
        if not self.branching:
            return self.query_ends
        counts = torch.bincount(self._keys[0], minlength=len(self.query_ends) - 1)
        return torch.cat((counts.new_zeros(1), counts.cumsum(0))).to(torch.int32)

    @cached_property
    def longest(self) -> tuple[int, int]:
        """The most queries and the most keys of a segment. The host waits for them once a micro-batch, not in every layer."""
        queries, keys = torch.stack([ends.diff().max() for ends in (self.query_ends, self.key_ends)]).tolist()
        return int(queries), int(keys)

    @cached_property
    def blocks(self) -> "BlockMask":
        """The same as flex attention reads it."""
        from lzero.train.attention.flex import block_mask

        return block_mask(self.until)

    @cached_property
    def _keys(self) -> tuple[Tensor, Tensor]:
        """[K] the segment of each key, and [K] its token: a segment's keys are the tokens before its end that are seen until there."""
        ends = self.query_ends[1:, None].to(torch.int64)
        tokens = torch.arange(len(self.flat), device=ends.device)
        found = ((tokens < ends) & (self.flat >= ends)).nonzero()
        return found[:, 0], found[:, 1]
