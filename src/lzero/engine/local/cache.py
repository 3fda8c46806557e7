"""Keep keys and values of many sequences in preallocated slots, and run forward passes over any of them.

Decoding reads the first rows of the storage in place (views, no copies), all rows at once. A prefill names its rows, whose keys are
gathered once. Position `max_tokens` of every slot is a scratch column for the writes of padding and of rows that are not part of a pass.
"""

import inspect
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.cache_utils import Cache, DynamicCache

from lzero.engine.local import CACHE_SHARE
from lzero.engine.local.arrays import Ints
from lzero.errors import EngineError, ModelError
from lzero.model_reach import shortest_reach
from lzero.threads import computing_alone

ALIGNED_POSITIONS = 16
"""The number of positions of a slot is a multiple of this. Then every row of keys, values and attention weights (in float32) begins at a
multiple of 64 bytes. Matrix kernels may round differently with the alignment of their input."""


class SlotCache(Cache):  # type: ignore[misc]  # transformers ships no types
    """A transformers cache of `num_slots` sequences; `aim` sets where the next forward pass reads and writes."""

    def __init__(
        self, shapes: list[tuple[torch.Size, torch.Size]], like: torch.Tensor, *, slots: int, tokens: int
    ) -> None:
        """`shapes`: (heads, ·, head size) of each layer's keys and values, as [1, heads, 1, size]."""
        super().__init__(layers=[])
        wanted = [(shape[1], shape[3]) for pair in shapes for shape in pair]
        self._blocks = {
            (heads, size): like.new_zeros(wanted.count((heads, size)), slots, heads, tokens, size)
            for heads, size in set(wanted)
        }
        """One tensor for all storage of one shape (usually everything), so that moving a slot is one operation."""
        unused = {shape: iter(block) for shape, block in self._blocks.items()}
        self._layers = [tuple(next(unused[shape[1], shape[3]]) for shape in pair) for pair in shapes]
        """(keys, values) of each layer: views of [slots, heads, tokens, size]."""
        self._rows: torch.Tensor | None = None
        self._write_rows = self._write_positions = torch.empty(0)
        self._count = self._kv_length = 0

    def aim(self, rows: torch.Tensor | None, positions: torch.Tensor, kv_length: int) -> None:
        """Let the next pass write at `positions` [batch, queries] of `rows` [batch], and read the first `kv_length` positions of these.

        `rows`: None selects the first ones.
        """
        self._rows, self._count, self._kv_length = rows, len(positions), kv_length
        every = torch.arange(len(positions), device=positions.device) if rows is None else rows
        self._write_rows, self._write_positions = every[:, None], positions

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [batch, heads, queries, size]. Return the keys and values that queries may attend to, [batch, heads, kv_length, size]."""
        found = []
        for storage, new in zip(self._layers[layer_idx], (key_states, value_states), strict=True):
            storage[self._write_rows, :, self._write_positions] = new.transpose(1, 2)
            if self._rows is None:
                found.append(storage[: self._count, :, : self._kv_length])
            else:
                found.append(storage[:, :, : self._kv_length].index_select(0, self._rows))
        return found[0], found[1]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        for block in self._blocks.values():
            block[:, target, :, :length] = block[:, source, :, :length]

    def fill(self) -> None:
        """Fill all slots with the same random keys and values."""
        generator = torch.Generator().manual_seed(0)
        for block in self._blocks.values():
            block.copy_(torch.randn(block[:, :1].shape, generator=generator))

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` positions of two slots."""
        for block in self._blocks.values():
            first, second = block[:, one, :, :length], block[:, other, :, :length]
            kept = first.clone()
            first.copy_(second)
            second.copy_(kept)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._kv_length - self._write_positions.shape[-1]


class Forward:
    """Forward passes of one model over the slots of its cache.

    Raises ModelError for a model that it cannot serve, EngineError for a cache that does not fit.
    """

    def __init__(self, model: Any, *, num_slots: int, max_tokens: int) -> None:
        self.model = model.eval()
        self._cache_argument = _cache_argument(model)
        self.scratch = max_tokens
        self._width = -(-(max_tokens + 1) // ALIGNED_POSITIONS) * ALIGNED_POSITIONS
        self.device: torch.device = model.device
        like: torch.Tensor = next(model.parameters())
        with torch.inference_mode(), computing_alone():
            shapes = _cache_shapes(model)
            _check_memory(model, shapes, num_slots, max_tokens)
            self.cache = SlotCache(shapes, like, slots=num_slots, tokens=self._width)
        self._forbidden = torch.finfo(like.dtype).min
        self.dtype = like.dtype
        self._columns = torch.arange(self._width, device=self.device)

    def __call__(self, tokens: Ints, positions: Ints, *, rows: Ints | None, kv_length: int) -> torch.Tensor:
        """Feed `tokens` [batch, queries] at `positions` (-1: padding) of `rows` (None: the first ones).

        Returns the logits after the last query, [batch, vocabulary]; a query sees the keys up to its own position.
        """
        padding = positions < 0
        write = self._tensor(np.where(padding, self.scratch, positions))
        seen = self._tensor(np.where(padding, 0, positions))
        hidden = self._columns[:kv_length] > seen[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device).masked_fill_(hidden, self._forbidden)
        self.cache.aim(None if rows is None else self._tensor(rows), write, kv_length)
        result = self.model(
            input_ids=self._tensor(tokens),
            attention_mask=mask,
            position_ids=seen,
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_argument: self.cache},
        )
        logits: torch.Tensor = result.logits[:, -1]
        return logits

    def decode_alike(self, tokens: Ints, positions: Ints) -> torch.Tensor:
        """Feed one token, at one position, to each of the first rows [rows]. Returns [rows, vocabulary].

        Every pass reads all keys of the slots, so a row's logits depend on its own sequence, not on its position in the batch. On CPU,
        torch's fused attention gives each thread a buffer with another alignment, so its rounding depends on the thread. Attention is
        computed as plain matrix products instead.
        """
        with sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext():
            return self(tokens[:, None], positions[:, None], rows=None, kv_length=self._width)

    def score(self, ids: Ints) -> tuple[float, ...]:
        """Return the log-probability of each token given those before it; 0.0 for the first. Uses a plain pass, without the cache."""
        tokens = self._tensor(ids)[None]
        logprobs = torch.log_softmax(self.model(input_ids=tokens, use_cache=False).logits[0, :-1].float(), dim=-1)
        return (0.0, *logprobs.gather(1, tokens[0, 1:, None])[:, 0].tolist())

    def _tensor(self, values: Ints) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)


def _cache_argument(model: Any) -> str:
    """Return the name of the parameter of `forward` that takes the cache: transformers 5.24 renamed it."""
    return "past_key_values" if "past_key_values" in inspect.signature(model.forward).parameters else "cache"


def _cache_shapes(model: Any) -> list[tuple[torch.Size, torch.Size]]:
    """Return the shapes of each layer's keys and values, from a pass of the model over one token. Raises ModelError."""
    shortest_reach(model)  # refuses layers with other state than keys and values
    cache = DynamicCache()
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    try:
        model(input_ids=token, use_cache=True, **{_cache_argument(model): cache})
        return [(layer.keys.shape, layer.values.shape) for layer in cache.layers]
    except Exception as error:  # a model is a program, and fails in every way that one can
        name = type(model).__name__
        raise ModelError(f"the local engine cannot serve {name}: {type(error).__name__}: {error}") from error


def fitting_slots(model: Any, *, num_slots: int, max_tokens: int) -> int:
    """Return `num_slots`, or the smaller number whose keys and values fit into CACHE_SHARE of the free memory. Raises ModelError."""
    with torch.inference_mode(), computing_alone():
        per_slot = _token_bytes(model, _cache_shapes(model)) * (max_tokens + 1)
    return min(num_slots, max(1, int(_free_bytes(model.device) * CACHE_SHARE / per_slot)))


def _token_bytes(model: Any, shapes: list[tuple[torch.Size, torch.Size]]) -> int:
    like: torch.Tensor = next(model.parameters())
    return sum(key.numel() + value.numel() for key, value in shapes) * like.element_size()


def _free_bytes(device: torch.device) -> int:
    import psutil

    free: int = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return free


def _check_memory(model: Any, shapes: list[tuple[torch.Size, torch.Size]], slots: int, tokens: int) -> None:
    """Refuse a cache that cannot fit, before it is allocated."""
    per_token, free = _token_bytes(model, shapes), _free_bytes(model.device)
    needed = per_token * slots * (tokens + 1)
    if needed > free:
        fitting = int(free / per_token / (tokens + 1))
        fix = f"lower rollout.concurrency to {fitting}, or agent.max_tokens" if fitting else "lower agent.max_tokens"
        raise EngineError(
            f"the cache of {slots} slots × {tokens} tokens × {per_token} bytes needs {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free on {model.device}: {fix}"
        )
