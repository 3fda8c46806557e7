"""The policy that is trained, the one it started from, and the three things done with them: score, batch, update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch.optim import Optimizer

from lzero.algo.advantages import reinforce_plus_plus, shuffle_rewards
from lzero.algo.batches import Batch, Scored, collate, step_advantages
from lzero.algo.losses import LossFn, policy_gradient
from lzero.algo.samples import to_samples
from lzero.config import Config
from lzero.errors import TrainError
from lzero.models import load_model, load_tokenizer, resolve
from lzero.protocols import AdvantageFn
from lzero.seeds import derive_seed
from lzero.train.checkpoint import Progress, read_progress, restore_optimizers, save_checkpoint
from lzero.train.score import reference_logprobs
from lzero.train.update import make_adamw, recompute_activations, update_policy
from lzero.types import Group, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Model, reference and optimizer of a run. `build` makes one from a configuration, or from a checkpoint."""

    config: Config
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerFast"
    reference: "PreTrainedModel | None"
    """The initial policy, which the KL penalty pulls towards; None when its coefficient is 0."""
    optimizer: Optimizer

    @classmethod
    def build(cls, config: Config, *, checkpoint: Path | None = None) -> tuple["Trainer", Progress]:
        """Load everything; with a `checkpoint` the policy, its optimizer and the random state are the checkpoint's, and the
        reference is still the configuration's model. Raises ModelError or StoreError."""
        progress = read_progress(checkpoint) if checkpoint else Progress()
        initial = resolve(config.model.path)
        dtype, device = config.model.dtype, config.model.device
        model = load_model(checkpoint or initial, dtype=dtype, device=device)
        if config.train.gradient_checkpointing:
            recompute_activations(model)
        reference = load_model(initial, dtype=dtype, device=device) if config.algo.kl_coef > 0 else None
        optimizer = make_adamw(model, lr=config.train.lr, weight_decay=config.train.weight_decay)
        if checkpoint:
            restore_optimizers(checkpoint, [optimizer])
        tokenizer = load_tokenizer(checkpoint or initial)
        return cls(config=config, model=model, tokenizer=tokenizer, reference=reference, optimizer=optimizer), progress

    def samples(self, groups: Sequence[Group]) -> list[Sample]:
        """What the groups' episodes can teach. Raises TrainError if no episode took a step."""
        samples = [sample for group in groups for episode in group.episodes for sample in to_samples(episode)]
        if not any(any(sample.mask) for sample in samples):
            raise TrainError("no episode of this batch took a step: is agent.max_tokens below the length of a prompt?")
        return samples

    def score(self, samples: Sequence[Sample]) -> list[tuple[float, ...]]:
        """Log-probabilities of the initial policy, a number a token; zeros when there is no penalty for leaving it."""
        if self.reference is None:
            return [(0.0,) * len(sample.token_ids) for sample in samples]
        return reference_logprobs(self.reference, samples, max_tokens=self.config.train.micro_batch_tokens)

    def advantages(self, groups: Sequence[Group], *, update: int) -> dict[str, tuple[float, ...]]:
        """Episode id → an advantage a step, over all steps of the batch."""
        episodes = [episode for group in groups for episode in group.episodes]
        rewards = [reward.per_step for group in groups for reward in group.rewards]
        if self.config.algo.shuffle_rewards:
            rewards = shuffle_rewards(rewards, seed=derive_seed(self.config.run.seed, "shuffle rewards", update))
        advantage_fn: AdvantageFn = partial(reinforce_plus_plus, gamma=self.config.algo.gamma)
        advantages = {episode.id: own for episode, own in zip(episodes, advantage_fn(rewards), strict=True)}
        assert len(advantages) == len(episodes), "two episodes of a batch have one id"
        return advantages

    def batch(
        self,
        samples: Sequence[Sample],
        references: Sequence[tuple[float, ...]],
        advantages: Mapping[str, tuple[float, ...]],
    ) -> Batch:
        """The whole update as tensors."""
        scored = [
            Scored(
                sample=sample,
                advantages=step_advantages(sample, advantages[sample.episode_id]),
                reference_logprobs=reference,
            )
            for sample, reference in zip(samples, references, strict=True)
        ]
        return collate(scored, max_tokens=self.config.train.micro_batch_tokens)

    def update(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns its metrics. Raises TrainError if it would not be finite."""
        loss_fn: LossFn = partial(policy_gradient, kl_coef=self.config.algo.kl_coef)
        return update_policy(
            self.model, [self.optimizer], batch, loss_fn=loss_fn, grad_clip=self.config.train.grad_clip
        )

    def save(self, directory: Path, progress: Progress) -> Path:
        """A checkpoint in `directory`; the oldest beyond `train.keep_checkpoints` go. Raises StoreError."""
        return save_checkpoint(
            directory,
            model=self.model,
            tokenizer=self.tokenizer,
            optimizers=[self.optimizer],
            progress=progress,
            keep=self.config.train.keep_checkpoints,
        )
