"""Check model and machine before the first request: the engine samples from the model's own policy, and rows are independent.

The engine computes probe tokens both from cached keys and in one plain pass, and compares the log-probabilities. A short probe does not
reach the end of a long attention window; there the check reads the configuration instead.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from lzero.engine.local.arrays import Ints
from lzero.engine.local.cache import Forward
from lzero.errors import EngineError, ModelError
from lzero.model_reach import shortest_reach

PROBE_TOKENS = 24
NUM_DECODED = 3
"""Tokens at the end of a probe that are fed one at a time, as sampled tokens are."""
TOLERANCE = {torch.float32: 1e-3}
TOLERANCE_OF_HALVES = 0.2
"""Largest mean gap of log-probabilities (nats, weighted by probability) that rounding explains."""
LOWER = "lower agent.max_tokens"
_LENGTHS = re.compile(r"window|chunk|local|block_size")


@torch.inference_mode()
def check_policy(forward: Forward) -> None:
    """Check that the engine samples from the model's own policy at every length up to that of its slots.

    Raises ModelError if its log-probabilities differ from those of a plain forward pass: training would then score another policy
    than the one that sampled.
    """
    model, max_tokens = forward.model, forward.scratch
    name = type(model).__name__
    reach = shortest_reach(model)
    if reach is not None and reach < max_tokens:
        raise ModelError(
            f"{name} has layers that look back {reach:,} tokens only (a sliding window, or chunks), which the local engine does not keep "
            f"to: {LOWER} from {max_tokens:,} to {reach:,}, or take a model with full attention"
        )
    try:
        _check_positions(model, max_tokens)
        for length in _lengths(model, max_tokens):
            gap = _gap(forward, length)
            tolerance = TOLERANCE.get(forward.dtype, TOLERANCE_OF_HALVES)
            if not gap <= tolerance:
                raise ModelError(
                    f"the local engine cannot serve {name}: from cached keys it computes other probabilities than in one pass over "
                    f"{length:,} tokens (a gap of {gap:.4f} nats, {tolerance} are allowed)"
                )
    except (ModelError, EngineError):
        raise
    except Exception as error:  # a model is a program, and fails in every way that one can
        raise ModelError(f"the local engine cannot serve {name}: {type(error).__name__}: {error}") from error


def _check_positions(model: Any, max_tokens: int) -> None:
    """Check that the model has all positions of a slot, and that a position does not change the results at others.

    Rope frequencies that depend on the longest sequence would make cached keys wrong and couple the rows of a batch.
    """
    name, tokens = type(model).__name__, model.get_input_embeddings()
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding) and module is not tokens and re.search(r"pos|wpe", path):
            positions = module.num_embeddings - getattr(module, "offset", 0)
            if positions < max_tokens:
                raise ModelError(f"{name} has {positions:,} positions: {LOWER} from {max_tokens:,} to that")
    length = min(PROBE_TOKENS, max_tokens)
    ids = torch.from_numpy(_probe_ids(model, length)).to(model.device).repeat(2, 1)
    near = torch.arange(length, device=model.device)
    alone, beside = (
        model(input_ids=ids, position_ids=torch.stack([near, near + offset]), use_cache=False).logits[0, -1].float()
        for offset in (0, max_tokens - length)
    )
    gap = _divergence(alone, beside)
    if not gap <= TOLERANCE.get(model.dtype, TOLERANCE_OF_HALVES) / 10:
        raise ModelError(
            f"{name} scales its positions by the longest sequence of a batch (rope scaling; a gap of {gap:.4f} nats), which cached keys "
            f"cannot follow: {LOWER} from {max_tokens:,} to the length that the model was first trained with{_original(model)}"
        )


def _original(model: Any) -> str:
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    length = rope.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
    return f" ({length:,})" if isinstance(length, int) else ""


def _lengths(model: Any, max_tokens: int) -> Iterator[int]:
    """Yield the lengths of the probes: a short one, and one beyond each length in the configuration at which attention may change."""
    yield min(PROBE_TOKENS, max_tokens)
    named = _numbers(model.config.get_text_config(decoder=True).to_dict())
    yield from sorted({min(2 * length, max_tokens) for length in named if PROBE_TOKENS <= length < max_tokens})


def _numbers(config: dict[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int) and _LENGTHS.search(key):
            yield value


def _gap(forward: Forward, length: int) -> float:
    """Return the gap between the engine's log-probabilities of a sequence, fed in two parts and then token by token, and one plain pass.

    The engine's passes get all keys of the slot, as with a longer neighbour, so a model that derives query positions from the number of
    keys fails here.
    """
    ids = _probe_ids(forward.model, length)
    plain = forward.model(input_ids=torch.from_numpy(ids).to(forward.device)[None], use_cache=False).logits[0]
    decoded = min(NUM_DECODED, length - 1)
    ends = sorted({max(1, (length - decoded) // 2), length - decoded, *range(length - decoded + 1, length + 1)})
    gaps, start = [], 0
    for end in ends:
        positions = np.arange(start, end)[None]
        rows = None if end - start == 1 else np.zeros(1, dtype=np.int64)
        logits = forward(ids[None, start:end], positions, rows=rows, kv_length=forward.scratch)
        gaps.append(_divergence(plain[end - 1].float(), logits[0].float()))
        start = end
    return max(gaps, key=lambda gap: float("inf") if gap != gap else gap)


def _divergence(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the mean |log p − log q| of two [vocabulary] of logits, weighted by p."""
    p, q = torch.log_softmax(one, dim=-1), torch.log_softmax(other, dim=-1)
    return float(((p - q).abs() * p.exp()).nansum()) if bool(torch.isfinite(p.max() + q.max())) else float("nan")


def _probe_ids(model: Any, length: int) -> Ints:
    return np.random.default_rng(0).integers(0, model.config.get_text_config(decoder=True).vocab_size, length)


@torch.inference_mode()
def rows_are_independent(forward: Forward, num_rows: int) -> bool:
    """Return whether decode passes of `num_rows` rows (`Forward.decode_alike`) give a sequence the same bits in every row.

    The same sequence in every row must give the same logits in all. Then, with other sequences in every second row, the rest must give them
    again. The sequences are long, because sums of few terms hide how a kernel rounds. Matrix kernels may treat the edge of a batch, or
    another thread's rows, differently; then this is False. The cache is overwritten.
    """
    forward.cache.fill()
    token, other = _probe_ids(forward.model, 2).tolist()
    last = forward.scratch - 1
    # From the end, so that a pass does not see what an earlier one wrote at a later position.
    for position in sorted({last, last * 2 // 3, last // 3}, reverse=True):
        logits = forward.decode_alike(np.full(num_rows, token), np.full(num_rows, position))
        if not (logits == logits[0]).all():
            return False
        for is_other in (np.arange(num_rows) % 2 == 0, np.arange(num_rows) % 2 == 1):
            elsewhere = last if position < last else -1
            mixed = forward.decode_alike(np.where(is_other, other, token), np.where(is_other, elsewhere, position))
            if not (mixed == logits)[torch.from_numpy(~is_other)].all():
                return False
    return True
