"""Keys of evaluation."""

from typing import Annotated

from pydantic import Field

from lzero.config.base import Count, Section


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
