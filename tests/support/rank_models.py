"""Models whose heads divide over ranks: 4 heads, 2 heads of keys, embeddings tied or not; and a GPT-2 in float64."""

from dataclasses import replace
from typing import Any, Literal

import torch
from builders import TINY
from plain_gradient import TOKENIZER, moved
from transformers import GPT2Config, GPT2LMHeadModel

from lzero.models import new_model

Kind = Literal["tied", "untied", "float64"]
SIZES = replace(TINY, num_layers=2, num_heads=4, num_kv_heads=2, init_std=0.2)


def rank_model(kind: Kind, *, seed: int = 0) -> Any:
    """Return a model on the CPU; the same seed gives the same weights."""
    if kind != "float64":
        return new_model(replace(SIZES, tied_embeddings=kind == "tied"), TOKENIZER, seed=seed)
    torch.manual_seed(seed)
    shape = GPT2Config(
        n_layer=2, n_head=4, n_embd=16, vocab_size=40, n_positions=512, initializer_range=0.3, attn_implementation="sdpa"
    )  # fmt: skip
    return GPT2LMHeadModel(shape).double().eval()


def initial_of(model: Any) -> Any:
    """Return another policy, for a reference."""
    return moved(model, 0.05, seed=2)
