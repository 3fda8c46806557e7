"""Draw tokens with a pure function of logits and of noise that belongs to a request, not to its neighbours in the batch."""

import numpy as np
import torch

from lzero.engine.local.arrays import Floats


class Noise:
    """Random numbers that decide the tokens of a request. Counter-based: Philox, keyed by the request's seed.

    One generator serves all seeds, because making one takes longer than drawing from it. Not thread-safe.
    """

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._start = self._philox.state

    def uniforms(self, seed: int, count: int) -> Floats:
        """Return `count` numbers in [0, 1); element i decides token i. They have 32 bits, so that a share of a float64 total stays below
        it."""
        self._start["state"]["key"][0] = seed % 2**64
        self._philox.state = self._start
        bits = np.random.Generator(self._philox).integers(0, 2**32, size=count, dtype=np.uint32)
        return bits.astype(np.float64) / 2**32


def draw(logits: torch.Tensor, temperature: Floats, top_p: Floats, noise: Floats) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token for each row of `logits` [rows, vocabulary]. Return (ids [rows], log-probs [rows]).

    `temperature` 0 is greedy, with log-probs at temperature 1. Other log-probs are at the temperature, before top-p. Inverse transform
    sampling chooses the token whose slice of the cumulative distribution contains the row's noise.
    """
    device = logits.device
    greedy = temperature == 0.0
    scale = torch.from_numpy(np.where(greedy, 1.0, temperature)).to(device, torch.float32)
    logprobs = torch.log_softmax(logits.float() / scale[:, None], dim=-1)
    if greedy.all():
        ids = logprobs.argmax(dim=-1)
    else:
        weights = logprobs.exp()
        if (top_p < 1.0).any():
            weights = _nucleus(weights, torch.from_numpy(top_p).to(device, torch.float32))
        cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
        targets = torch.from_numpy(noise).to(device)[:, None] * cumulative[:, -1:]
        ids = torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
        if greedy.any():
            ids = torch.where(torch.from_numpy(greedy).to(device), logprobs.argmax(dim=-1), ids)
    return ids, logprobs.gather(1, ids[:, None])[:, 0]


def _nucleus(weights: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Zero all but the likeliest tokens of each row whose probabilities first reach `top_p`; the likeliest always stays.

    A row with `top_p` 1 keeps all, even if its sum rounds to 1 before the end.
    """
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    beyond = (before >= top_p[:, None]) & (before > 0.0) & (top_p < 1.0)[:, None]
    ordered = ordered.masked_fill(beyond, 0.0)
    return torch.zeros_like(weights).scatter_(1, order, ordered)
