"""Keys of the critic, for estimators that need values (`gae`, `bilevel_gae`)."""

from typing import Annotated, Literal

from pydantic import Field

from lzero.config.base import Count, Positive, Section


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
