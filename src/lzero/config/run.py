"""Keys of a run: its directory and seed, its model."""

from typing import Literal

import pydantic
from pydantic import Field

from lzero.config.base import NANO, Section


class RunConfig(Section):
    dir: str = ""
    """Run directory; empty: runs/<name>-<date>-<time>. Only --resume changes an existing one."""
    name: str = "world"
    """First part of the run directory's name."""
    seed: int = Field(0, ge=0)
    """Seed of everything random in the run."""
    deterministic: bool = False
    """Make episodes, metrics and weights on CPU depend on the seed only, not on timing; slower (see docs/training.md)."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Services that show training metrics in addition to metrics.jsonl (extra `tracking`)."""
    wandb: Literal["offline", "online"] = "offline"
    """Keep Weights & Biases data on this machine ("offline"), or upload it with WANDB_API_KEY ("online")."""


class ModelConfig(Section):
    path: str = NANO
    """Model: "nano" (bundled), a Hugging Face model directory with its tokenizer, or, for `lzero sft`, "fresh": new random weights in the
    nano's shape, and a tokenizer of the words in the demonstrations."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights, in sampling and in training; AdamW updates float32 copies of bfloat16 weights."""

    @pydantic.field_validator("path")
    @classmethod
    def _is_no_policy(cls, path: str) -> str:
        if path.startswith("policy:"):
            policy = path.removeprefix("policy:")
            raise ValueError(f'a policy is no model: write engine.kind = "scripted" and engine.policy = "{policy}"')
        return path

    device: str = "auto"
    """Torch device, as "cpu" or "cuda:1"; "auto": CUDA if available."""


class LaunchConfig(Section):
    ray: str = ""
    """Address of a Ray cluster, as "10.0.0.1:6379", or "auto" for the one that this machine belongs to. lzero starts pool servers on its
    nodes for sandboxes, and vLLM servers and ranks of the trainer on others (docs/scale.md); empty: all on this machine."""


HERE = LaunchConfig()
"""Everything starts on this machine."""
