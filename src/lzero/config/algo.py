"""Keys of the algorithm: credit, loss and KL penalty."""

from typing import Annotated, Any, Literal

from pydantic import Field

from lzero.config.base import Section


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
