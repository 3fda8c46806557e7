"""Flex attention: a compiled kernel that skips the blocks of a row in which no token sees another. On a CPU it has no gradient."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from lzero.train.attention.segments import Segments

BLOCK = 128


def attend(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float | None) -> Tensor:
    """Return [R, H, L, D] for queries [R, H, L, D], keys and values [R, Hkv, L, D] of the rows."""
    groups = query.shape[1] != key.shape[1]
    if query.is_cuda:
        found: Tensor = _compiled()(query, key, value, block_mask=segments.blocks, scale=scale, enable_gqa=groups)
        return found
    plain = flex_attention(query, key, value, block_mask=segments.blocks, scale=scale, enable_gqa=groups)
    assert isinstance(plain, Tensor)
    return plain


def block_mask(until: Tensor) -> BlockMask:
    """Return the mask by blocks, from the least and the greatest `seen_until` of each block, without the square of the row.

    A block of keys is seen by a later block of queries in part if its greatest lies behind the first query, and as a whole if its least
    lies behind the last query.
    """
    rows, width = until.shape
    number = -(-width // BLOCK)
    filled = torch.nn.functional.pad(until, (0, number * BLOCK - width)).view(rows, number, BLOCK)
    least, greatest = filled.amin(-1).unsqueeze(1), filled.amax(-1).unsqueeze(1)
    block = torch.arange(number, device=until.device)
    first, last = (block * BLOCK)[:, None], (block * BLOCK + BLOCK - 1)[:, None]
    before = block < block[:, None]
    whole = before & (least > last)
    part = (before & (greatest > first) & ~whole) | (block == block[:, None])

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < until[row, key])

    return BlockMask.from_kv_blocks(
        *_listed(part), *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(width, width)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each row and block of queries of [R, B, B], the number of key blocks and their indices, with those first."""
    blocks = blocks.unsqueeze(1)
    order = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), order.to(torch.int32)


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)
