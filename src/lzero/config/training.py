"""Keys of training: rollouts, the algorithm, updates, evaluation, and fine-tuning."""

from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from lzero.config.base import Count, Fraction, Positive, Section


class RolloutConfig(Section):
    tasks_per_update: Count = Field(64, description="Groups per update.")
    episodes_per_task: Count = Field(4, description="Episodes per group.")
    concurrency: Count = Field(
        128, description="Maximum number of concurrent episodes; fewer if their keys and values do not fit into memory."
    )
    temperature: Positive = Field(1.0, description="Sampling temperature of training episodes.")
    filter: Literal["l0", "dapo", "none"] = Field(
        "l0",
        description='Treatment of groups whose core scores are all 0 or all 1: "l0" (dropped with probability drop_uniform; the last drops '
        'are taken back if refills do not fill the batch), "dapo" (dropped for good), "none" (trained on).',
    )
    drop_uniform: Fraction = Field(0.5, description='Probability of dropping such a group, with filter = "l0".')
    max_refills: Annotated[int, Field(ge=0)] = Field(
        4, description="Maximum rounds of further tasks that replace dropped groups."
    )
    curriculum: Literal["none", "pass_rate"] = Field(
        "none",
        description='Order of tasks: each in turn ("none"), or tasks that are solved about half the time more often ("pass_rate").',
    )
    stragglers: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0,
        description="Once this share of a round's episodes is done, cut off and drop the rest; 0: wait for all. The run is then not "
        "deterministic.",
    )
    episode_timeout_s: float = Field(
        0.0,
        ge=0.0,
        description="Seconds that an episode may take in all. agent.work_s of them are the agent's; if lzero needs more than the others, "
        "the episode is a failure of lzero (kind lost), never of the agent. 0: as many as agent.work_s and request_timeout_s allow.",
    )
    request_timeout_s: Positive = Field(120.0, description="Timeout of one request to the engine, in seconds.")
    max_failure_rate: Fraction = Field(
        0.5, description="Share of failed episodes among the last 64 above which the run stops with an error."
    )


class AlgoConfig(Section):
    # Credit: from rewards to advantages.
    estimator: str = Field(
        "reinforce++",
        description="Estimator of advantages from rewards: a name listed in docs/training.md, or the import path "
        '"package.module:Class" of your own subclass of lzero.Estimator.',
    )
    estimator_options: dict[str, Any] = Field(
        {}, description="Options of `estimator`, as {gamma = 0.9}; docs/training.md lists them."
    )
    # Loss.
    loss: str = Field(
        "policy_gradient",
        description='Surrogate of the loss: "policy_gradient" (strictly on-policy: one optimiser step per batch), "ppo" (the clipped '
        "ratio to the policy before the update), or the import path of your own subclass of lzero.Loss.",
    )
    loss_options: dict[str, Any] = Field(
        {}, description="Options of `loss`, as {clip_high = 0.3}; docs/training.md lists them."
    )
    average: Literal["token", "step", "episode", "constant"] = Field(
        "token",
        description='Denominator of the loss, over the whole update: its action tokens, steps, or episodes; "constant" divides by '
        "episodes × agent.max_steps × agent.response_tokens (Dr. GRPO).",
    )
    kl_coef: float = Field(0.001, ge=0.0, description="Coefficient of the KL penalty to the initial policy; 0: none.")
    kl: Literal["k1", "k2", "k3"] = Field(
        "k3", description="Estimator of that KL: k1 (log-ratio), k2 (half its square), k3 (never negative, L0's)."
    )
    kl_in: Literal["loss", "reward"] = Field(
        "loss", description="Add the KL penalty to the loss, or subtract it from the reward of each step."
    )
    entropy_coef: float = Field(0.0, ge=0.0, description="Coefficient of the entropy bonus in the loss.")
    importance_cap: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="Truncated importance sampling between sampler and trainer: the largest weight of a token that is likelier in the "
        "trainer; 0: no weights.",
    )
    shuffle_rewards: bool = Field(
        False, description="Control experiment: permute rewards among the episodes of a batch (see docs/training.md)."
    )


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


class EvalConfig(Section):
    num_tasks: Count = Field(300, description="Number of held-out tasks.")
    every: Annotated[int, Field(ge=0)] = Field(
        0, description="Updates between evaluations in training; 0: only before and after."
    )
    sampled_episodes: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Episodes per task sampled at rollout.temperature, for sampled exact match and pass@k in addition to the greedy "
        "score; 0: none.",
    )
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0,
        description="Sample from the likeliest tokens whose total probability is this (sampled episodes only); 1: from all.",
    )
