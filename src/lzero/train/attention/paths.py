"""Attention segment by segment, with torch's scaled dot products: runs on every device, in every type.

A segment costs its queries times its keys, where a mask costs the square of the whole row.
"""

import torch
from torch import Tensor

from lzero.train.attention.segments import Segments


def attend(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float | None) -> Tensor:
    """Return [T, H, D] for queries [T, H, D], keys and values [K, Hkv, D] of the segments."""
    stretches = zip(
        torch.split(query, _lengths(segments.query_ends)),
        torch.split(key, _lengths(segments.key_ends)),
        torch.split(value, _lengths(segments.key_ends)),
        strict=True,
    )
    parts = [_segment(*map(_heads_first, parts), scale=scale) for parts in stretches]
    return torch.cat(parts)


def _segment(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
    """Return [q, H, D] for [1, H, q, D] and [1, Hkv, k, D]: the last query sees all keys, each one before it a key less."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    seen = None
    if 1 < num_queries < num_keys:
        seen = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query.device).tril(num_keys - num_queries)
    found = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=seen,
        is_causal=num_queries == num_keys,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found[0].transpose(0, 1)


def _heads_first(part: Tensor) -> Tensor:
    """Return [1, H, t, D] for [t, H, D]."""
    return part.transpose(0, 1).unsqueeze(0)


def _lengths(ends: Tensor) -> list[int]:
    lengths: list[int] = ends.diff().tolist()
    return lengths
