"""The reward "outcome": pays the number that the environment's outcome holds."""

from lzero.errors import RewardError
from lzero.rewards.context import RewardContext
from lzero.rewards.validation import LARGEST, on_last_step, real_number
from lzero.types import Episode, Reward, Task


def outcome_reward(task: Task, episode: Episode, context: RewardContext) -> Reward:
    """Return `context.outcome["reward"]` on the last step; the score is that number, between 0 and 1. Raises RewardError without one.

    A number beyond what a step may pay is paid as that much: an agent that has lost more must not go without a score.
    """
    if not context.outcome or "reward" not in context.outcome:
        raise RewardError('pays what the environment\'s outcome holds as "reward", and there is none')
    reward = max(-LARGEST, min(LARGEST, real_number(context.outcome["reward"], "found in the outcome")))
    per_step = on_last_step(reward, len(episode.steps))
    return Reward(score=min(1.0, max(0.0, reward)), per_step=per_step, parts={"outcome": per_step})
