"""The context of a reward function, and the distinction between functions with two and with three parameters."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat, TypeVar

from lzero.rewards.judge import Judge
from lzero.types import Episode, Json, Reward, Task


@dataclass(frozen=True, kw_only=True)
class RewardContext:
    """The context that a reward function may use: `async def reward(task, episode, context)`."""

    outcome: Mapping[str, Json] | None
    """Final state of the environment; None for one without a state."""
    seed: int
    """Seed for random numbers; the same for the same episode."""
    judge: Judge | None
    """The model that [judge] names; None if it names none."""


Scored = Reward | SupportsFloat
RewardFn = (
    Callable[[Task, Episode], Scored | Awaitable[Scored]]
    | Callable[[Task, Episode, RewardContext], Scored | Awaitable[Scored]]
)
"""Function that scores an episode that did not fail. It returns a Reward, or a number from 0 to 1, or is `async` and does so.
`lzero.rollout.scoring` calls it in a thread; an exception is a failure of that episode. If its third parameter is called `context`, it gets
a context."""


F = TypeVar("F", bound=Callable[..., Any])


def needs_judge(function: F) -> F:
    """Mark a reward function that cannot score without a judge, so that a run without judge.model is refused before it starts."""
    vars(function)["needs_judge"] = True
    return function


def takes_context(function: Callable[..., Any]) -> bool:
    """Return whether the third parameter of a function is called `context`."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a function written in C has no signature
        return False
    return names[2:3] == ["context"]
