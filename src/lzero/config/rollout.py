"""Keys of rollouts: how many episodes run, which are trained on, how long they may take."""

from typing import Annotated, Literal

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
