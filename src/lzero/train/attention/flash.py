"""Flash attention over segments of unequal lengths: CUDA, bfloat16 and float16.

torch brings the second generation; a later one is a package that torch finds (`flash-attn-3` for Hopper, `flash-attn-4` for Blackwell).
"""

from typing import Literal

from torch import Tensor

from lzero.train.attention.segments import Segments

Generation = Literal["FA2", "FA3", "FA4"]


def attend(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float | None) -> Tensor:
    """Return [T, H, D] for queries [T, H, D], keys and values [K, Hkv, D] of the segments."""
    from torch.nn.attention.varlen import varlen_attn

    queries, keys = segments.longest
    found = varlen_attn(
        query,
        key,
        value,
        segments.query_ends,
        segments.key_ends,
        queries,
        keys,
        scale=scale,
        window_size=(-1, 0),  # causal, and the last query of a segment sees its last key
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found, Tensor)
    return found


def activate(generation: Generation) -> None:
    """Let torch compute flash attention with this generation, in the whole process. Raises what its package raises."""
    from torch.nn.attention import activate_flash_attention_impl, restore_flash_attention_impl

    if generation == "FA2":
        restore_flash_attention_impl(_raise_warn=False)
    else:
        activate_flash_attention_impl(generation)
