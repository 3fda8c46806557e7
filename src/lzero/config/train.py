"""Keys of updates, and of fine-tuning."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from lzero.config.base import Count, Fraction, Positive, Section


class TrainConfig(Section):
    updates: Count = Field(12, description="Number of updates; each trains on one batch of episodes.")
    minibatches: Count = Field(
        1,
        description="Parts of a batch, split by episodes, with one optimiser step each. 1: strictly on-policy.",
    )
    epochs: Count = Field(1, description="Passes of an update over its batch.")
    lr: Positive = Field(1e-3, description="Peak learning rate.")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="Decay of the learning rate after the warm-up: none, or to zero after the last update.",
    )
    warmup_updates: Annotated[int, Field(ge=0)] = Field(
        0, description="Updates over which the learning rate rises, before the first one at `lr`."
    )
    weight_decay: float = Field(0.01, ge=0.0, description="AdamW's decoupled weight decay.")
    grad_clip: Positive = Field(1.0, description="Maximum gradient norm; larger gradients are scaled down.")
    micro_batch_tokens: Count = Field(
        8192, description="Tokens (padding included) of one forward and backward pass; does not change the gradient."
    )
    packing: Literal["auto", "packed", "padded", "tree"] = Field(
        "auto",
        description='Layout of sequences in a pass: one row without padding ("packed"), one row per sequence ("padded"), one row per '
        'common prefix, computed once ("tree"), or the fastest on the device ("auto"; CUDA: packed, CPU: tree).',
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Keep one activation per layer and recompute the rest in the backward pass: far less memory, slower.",
    )
    checkpoint_every: Count = Field(10, description="Updates between checkpoints; the last policy is always saved.")
    keep_checkpoints: Count = Field(2, description="Number of newest checkpoints that stay on disk.")
    keep_best: bool = Field(
        True,
        description="With eval.every: also keep a checkpoint of the policy with the best held-out score.",
    )

    @pydantic.model_validator(mode="after")
    def _an_update_has_all_of_the_rate(self) -> Self:
        if self.warmup_updates >= self.updates:
            raise ValueError(f"warmup_updates = {self.warmup_updates} must be smaller than updates = {self.updates}")
        return self


class SftConfig(Section):
    episodes: tuple[str, ...] = Field((), description="Run directories whose recorded episodes are the training data.")
    weights: tuple[float, ...] = Field(
        (), description="Share of each of `episodes` in the mix; empty: in proportion to their sizes."
    )
    focus: str = Field(
        "",
        description="Regular expression: only action tokens that overlap a match have loss; empty: all action tokens.",
    )
    tokens: Count = Field(1_000_000, description="Tokens to train on.")
    batch_size: Count = Field(32, description="Sequences per optimiser step.")
    lr: Positive = Field(0.02, description="Learning rate of Muon on matrices (or of AdamW on everything).")
    embedding_lr: Positive = Field(
        0.01, description="Learning rate of AdamW on embeddings and norms, with Muon on the rest."
    )
    optimizer: Literal["muon", "adamw"] = Field(
        "adamw", description="Muon on matrices with AdamW on the rest, or AdamW alone."
    )
    warmup: Fraction = Field(0.02, description="Share of the steps over which the learning rate rises.")
    decay: Fraction = Field(0.2, description="Share of the steps, at the end, over which it falls to zero.")
