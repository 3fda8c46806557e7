"""Keys of training: rollouts, the algorithm, updates, evaluation, and fine-tuning."""

from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from lzero.config.base import Count, Fraction, Positive, Section

LOSS_WITH_LAG = "ppo"
"""Default of algo.loss with rollout.max_lag."""


class RolloutConfig(Section):
    tasks_per_update: Count = 64
    """Groups per update."""
    episodes_per_task: Count = 4
    """Episodes per group."""
    concurrency: Count = 128
    """Maximum number of concurrent episodes; fewer if their keys and values exceed half of the free memory."""
    temperature: Positive = 1.0
    """Sampling temperature of training episodes."""
    max_lag: Annotated[int, Field(ge=0)] = 0
    """Updates by which the policy that samples may be older than the one that learns. 0: strictly on-policy; from 1 on, episodes run while
    the learner learns and while weights move, and the same seed does not give the same run."""
    lag_min_ess: Fraction = 0.5
    """Effective sample size of an update's tokens, as a share of their number, below which the lag is lowered by one."""
    lag_max_kl: Positive = 0.05
    """KL divergence of the learner's policy from the sampler's, in nats per token, above which the lag is lowered by one."""
    lag_max_masked: Fraction = 0.2
    """Share of tokens outside the loss's trust region above which the lag is lowered by one."""
    filter: Literal["l0", "dapo", "none"] = "l0"
    """Treatment of groups whose core scores are all 0 or all 1: "l0" (dropped with probability drop_uniform; the last drops are
    taken back if refills do not fill the batch), "dapo" (dropped for good), "none" (trained on)."""
    drop_uniform: Fraction = 0.5
    """Probability of dropping such a group, with filter = "l0"."""
    max_refills: Annotated[int, Field(ge=0)] = 4
    """Maximum rounds of further tasks that replace dropped groups."""
    curriculum: Literal["none", "pass_rate"] = "none"
    """Order of tasks: each in turn ("none"), or tasks that are solved about half the time more often ("pass_rate")."""
    stragglers: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Once this share of a round's episodes is done, cut off and drop the rest; 0: wait for all. The run is then not deterministic."""
    episode_timeout_s: float = Field(0.0, ge=0.0)
    """Seconds that an episode may take in all. agent.work_s of them are the agent's; if lzero needs more than the others, the
    episode is a failure of lzero (kind lost), never of the agent. 0: as many as agent.work_s and request_timeout_s allow."""
    request_timeout_s: Positive = 120.0
    """Timeout of one request to the engine, in seconds."""
    max_failure_rate: Fraction = 0.5
    """Share of failed episodes among the last 64 above which the run stops with an error."""


class AlgoConfig(Section):
    # Credit: from rewards to advantages.
    estimator: str = "reinforce++"
    """Estimator of advantages from rewards: a name listed in docs/training.md, or the import path "package.module:Class" of your own
    subclass of lzero.Estimator."""
    estimator_options: dict[str, Any] = Field({})
    """Options of `estimator`, as {gamma = 0.9}; docs/training.md lists them."""
    # Loss.
    loss: str = "policy_gradient"
    """Surrogate of the loss: "policy_gradient" (strictly on-policy: one optimiser step per batch), "ppo" (the clipped ratio to the
    policy before the update; with rollout.max_lag, to the policy that sampled, and then the default), another name listed in
    docs/training.md, or the import path of your own subclass of lzero.Loss."""
    loss_options: dict[str, Any] = Field({})
    """Options of `loss`, as {clip_high = 0.3}; docs/training.md lists them."""
    average: Literal["token", "step", "episode", "constant"] = "token"
    """Denominator of the loss, over the whole update: its action tokens, steps, or episodes; "constant" divides by episodes ×
    agent.max_steps × agent.response_tokens (Dr. GRPO)."""
    kl_coef: float = Field(0.001, ge=0.0)
    """Coefficient of the KL penalty to the initial policy; 0: none."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of that KL: k1 (log-ratio), k2 (half its square), k3 (never negative, L0's)."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Add the KL penalty to the loss, or subtract it from the reward of each step."""
    entropy_coef: float = Field(0.0, ge=0.0)
    """Coefficient of the entropy bonus in the loss."""
    importance_cap: Annotated[float, Field(ge=0.0)] = 0.0
    """Truncated importance sampling between sampler and trainer: the largest weight of a token that is likelier in the trainer; 0:
    no weights."""
    shuffle_rewards: bool = False
    """Control experiment: permute rewards among the episodes of a batch (see docs/training.md)."""


class TrainConfig(Section):
    updates: Count = 12
    """Number of updates; each trains on one batch of episodes."""
    minibatches: Count = 1
    """Parts of a batch, split by episodes, with one optimiser step each. 1: strictly on-policy."""
    epochs: Count = 1
    """Passes of an update over its batch."""
    lr: Positive = 1e-3
    """Peak learning rate."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Decay of the learning rate after the warm-up: none, or to zero after the last update."""
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    """Updates over which the learning rate rises, before the first one at `lr`."""
    optimizer: Literal["adamw", "muon", "adamw-8bit"] = "adamw"
    """AdamW; "muon": Muon for the matrices inside the layers, with steps of AdamW's size, and AdamW for the rest; "adamw-8bit": AdamW with
    moments of 8 bits (extra `low-bit`)."""
    offload_optimizer: bool = False
    """Keep the optimizer's moments, and float32 copies of the weights, in the host's memory, and compute its steps there. Saves memory of
    a GPU; slower."""
    weight_decay: float = Field(0.01, ge=0.0)
    """Decoupled weight decay."""
    grad_clip: Positive = 1.0
    """Maximum gradient norm; larger gradients are scaled down."""
    micro_batch_tokens: Count = 8192
    """Tokens (padding included) of one forward and backward pass; does not change the gradient."""
    packing: Literal["auto", "packed", "padded", "tree"] = "auto"
    """Layout of sequences in a pass: one row without padding ("packed"), one row per sequence ("padded"), one row per common prefix,
    computed once ("tree"), or the fastest ("auto": tree; packed on CUDA without a kernel of `attention`)."""
    attention: Literal["auto", "flash4", "flash3", "flash2", "flex", "paths", "mask"] = "auto"
    """Attention of the trained model: flash attention (by generation), flex attention, torch's scaled dot products for each path of a tree
    ("paths"), the model's own with a mask ("mask"), or the fastest that the machine has and that a probe finds right (CPU: mask)."""
    gradient_checkpointing: bool = False
    """Keep one activation per layer and recompute the rest in the backward pass: far less memory, slower."""
    frozen_layers: Annotated[int, Field(ge=0)] = 0
    """First layers that stay as they are, with the embeddings; 0: everything is trained. Updates are cheaper, in `lzero sft` too."""
    memory_test: Literal["auto", "on", "off"] = "auto"
    """Before the first rollout, make the passes of an update on the longest possible batch, and change nothing: "auto" on a GPU."""
    ranks: Count = 1
    """Processes that train together, each with a part of the weights (FSDP2). `lzero train` starts them, or torchrun (docs/scale.md)."""
    sequence_ranks: Count = 1
    """Ranks that share every row, each with a stretch of its tokens (Ulysses): for sequences too long for one. Divides train.ranks and the
    model's heads."""
    offload: bool = False
    """Keep weights, gradients and moments in the host's memory, and the weights of one layer at a time on the GPU; slower."""
    reshard: bool = True
    """With several ranks: free a layer's weights after its forward pass and gather them again for the backward pass. false: faster, and
    takes memory for the whole model."""
    rank_timeout_s: Positive = 300.0
    """Seconds for which ranks wait for each other in one operation, and for a rank to join, before the run ends with an error."""
    checkpoint_every: Count = 10
    """Updates between checkpoints; the last policy is always saved."""
    keep_checkpoints: Count = 2
    """Number of newest checkpoints that stay on disk."""
    keep_best: bool = True
    """With eval.every: also keep a checkpoint of the policy with the best held-out score."""

    @pydantic.model_validator(mode="after")
    def _an_update_has_all_of_the_rate(self) -> Self:
        if self.warmup_updates >= self.updates:
            raise ValueError(f"warmup_updates = {self.warmup_updates} must be smaller than updates = {self.updates}")
        return self


class SftConfig(Section):
    episodes: tuple[str, ...] = ()
    """Run directories whose recorded episodes are the training data."""
    weights: tuple[float, ...] = ()
    """Share of each of `episodes` in the mix; empty: in proportion to their sizes."""
    focus: str | tuple[str, ...] = ""
    """Regular expression: only action tokens that overlap a match have loss; empty: all action tokens. A list has one for each of
    `episodes`, such as demonstrations that teach everything but the first decision."""
    tokens: Count = 1_000_000
    """Tokens to train on."""
    batch_size: Count = 32
    """Sequences per optimiser step."""
    lr: Positive = 0.01
    """Learning rate of Muon on matrices, or of AdamW on everything: that wants a smaller one, such as 3e-4."""
    embedding_lr: Positive = 0.003
    """Learning rate of AdamW on embeddings and norms, with Muon on the rest."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon on matrices with AdamW on the rest, which suits a model that begins from nothing; or AdamW alone, for a pretrained one."""
    warmup: Fraction = 0.02
    """Share of the steps over which the learning rate rises."""
    decay: Fraction = 0.2
    """Share of the steps, at the end, over which it falls to zero."""


class EvalConfig(Section):
    num_tasks: Count = 300
    """Number of held-out tasks."""
    every: Annotated[int, Field(ge=0)] = 0
    """Updates between evaluations in training; 0: only before and after."""
    sampled_episodes: Annotated[int, Field(ge=0)] = 0
    """Episodes per task sampled at rollout.temperature, for sampled exact match and pass@k in addition to the greedy score; 0: none."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample from the likeliest tokens whose total probability is this (sampled episodes only); 1: from all."""


class CriticConfig(Section):
    kind: Literal["none", "model", "head"] = "none"
    """Critic that predicts returns: none, a model of its own ("model"), or a linear layer on the policy's last hidden states, whose
    gradient does not reach the policy ("head")."""
    path: str = ""
    """Model directory that a critic of kind "model" begins from; empty: model.path."""
    lr: Positive = 1e-5
    """Learning rate of the critic, constant."""
    epochs: Count = 1
    """Optimiser steps of the critic for each of the policy's, on the same episodes."""
    value_clip: Annotated[float, Field(ge=0.0)] = 0.5
    """No gradient where a value has moved further than this towards its target in one update; 0: no limit."""
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    """First updates that train the critic alone, while the policy stays as it is."""


class LoraConfig(Section):
    rank: int = Field(0, ge=0)
    """Rank of the LoRA adapters that are trained in place of the weights (extra `lora`); 0: none, and all weights are trained."""
    alpha: Count = 32
    """The adapters' changes are scaled by alpha / rank, so that the best learning rate hardly depends on the rank."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get an adapter, as ["q_proj", "v_proj"]; empty: all inside the model's layers."""
