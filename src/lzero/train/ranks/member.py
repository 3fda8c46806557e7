"""Build a member: one rank of a run, with its part of the models and the optimizer."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lzero.config import Config
from lzero.train.checkpoint import Progress
from lzero.train.lora import draw_adapter
from lzero.train.ranks.group import Group
from lzero.train.ranks.loading import load_parts
from lzero.train.ranks.sharding import Sharding, shard, shard_head
from lzero.train.trainable import Role, in_role
from lzero.train.trainer import Trainer
from lzero.train.ulysses import share_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Member:
    """A trainer of this rank's part, and the group of all ranks, through which it exchanges tensors."""

    group: Group
    trainer: Trainer

    def total(self, loss: float) -> float:
        """Return the loss of all ranks' rows, for that of this rank's. Ranks that share rows have the same. Collective."""
        return self.group.sum(loss) / self.trainer.config.train.sequence_ranks


def build_member(config: Config, group: Group, *, checkpoint: Path | None = None) -> tuple[Member, Progress]:
    """Load this rank's part of everything. All ranks call it at the same time. Raises ModelError, StoreError or ConfigError."""
    sharding = Sharding(
        dtype=getattr(torch, config.model.dtype), offload=config.train.offload, reshard=config.train.reshard
    )
    neighbours = group.neighbours(config.train.sequence_ranks) if config.train.sequence_ranks > 1 else None

    def divided(model: "PreTrainedModel", *, role: Role) -> "PreTrainedModel":
        sharded = shard(in_role(model, config, role), group.mesh, sharding)
        if neighbours is not None:
            share_rows(sharded, neighbours)
        return sharded

    def load(directory: Path, *, role: Role) -> "PreTrainedModel":
        learns = role == "critic" or (role == "policy" and not config.lora.rank)
        model = load_parts(
            directory,
            dtype="float32" if learns else config.model.dtype,
            device="cpu" if config.train.offload else str(group.device),
            prepare=partial(divided, role=role),
        )
        draw_adapter(model, seed=config.run.seed)
        return model

    trainer, progress = Trainer.build(
        config, checkpoint=checkpoint, load=load, shard_head=lambda head: shard_head(head, group.mesh, sharding)
    )
    return Member(group=group, trainer=trainer), progress
