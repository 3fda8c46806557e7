"""Keys of a run: its directory and seed, its model."""

from typing import Literal

import pydantic
from pydantic import Field

from lzero.config.base import NANO, Section


class RunConfig(Section):
    dir: str = Field(
        "", description="Run directory; empty: runs/<name>-<date>-<time>. Only --resume changes an existing one."
    )
    name: str = Field("world", description="First part of the run directory's name.")
    seed: int = Field(0, ge=0, description="Seed of everything random in the run.")
    deterministic: bool = Field(
        False,
        description="Make episodes, metrics and weights on CPU depend on the seed only, not on timing; slower (see docs/training.md).",
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="Services that show training metrics in addition to metrics.jsonl (extra `tracking`)."
    )
    wandb: Literal["offline", "online"] = Field(
        "offline",
        description='Keep Weights & Biases data on this machine ("offline"), or upload it with WANDB_API_KEY ("online").',
    )


class ModelConfig(Section):
    path: str = Field(
        NANO,
        description='"nano" (bundled), a Hugging Face model directory with its tokenizer, or, for `lzero sft`, "fresh": '
        "new random weights in the nano's shape, and a tokenizer of the words in the demonstrations.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Type of the weights, in sampling and in training; AdamW updates float32 copies of bfloat16 weights.",
    )

    @pydantic.field_validator("path")
    @classmethod
    def _is_no_policy(cls, path: str) -> str:
        if path.startswith("policy:"):
            policy = path.removeprefix("policy:")
            raise ValueError(f'a policy is no model: write engine.kind = "scripted" and engine.policy = "{policy}"')
        return path

    device: str = Field("auto", description='"auto" (CUDA if available), or a torch device: "cpu", "cuda:1".')
