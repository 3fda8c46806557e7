"""The time of an episode: the agent's work time, plus the time that lzero needs.

    agent.work_s + rollout.request_timeout_s × replies + OTHER_S   ≤   rollout.episode_timeout_s   ≤   repl.lifetime_s

With less time, an agent that stays within its budgets could lose its episode, which is then not scored. So less is refused.
"""

from lzero.agent.episode import SANDBOXES_S
from lzero.config import Config
from lzero.errors import ConfigError

QUEUES_S = 60.0
"""Seconds for queues. Replies faster than their timeout leave more. Waits that the agent multiplies end there (`agent/clocks.py`), so it
cannot use up the time of later replies."""
OTHER_S = SANDBOXES_S + QUEUES_S
"""Seconds for opening sessions and for queues."""


def lzero_s(config: Config) -> float:
    """Return the seconds of an episode that are lzero's: all but agent.work_s.

    Raises ConfigError, which names the key to change, if they are too few, or a session would end before its episode.
    """
    agent, rollout = config.agent, config.rollout
    replies = agent.max_steps * agent.replies_a_step
    needed = replies * rollout.request_timeout_s + OTHER_S
    total = rollout.episode_timeout_s or agent.work_s + needed
    if total < agent.work_s + needed:
        raise ConfigError(
            f"rollout.episode_timeout_s = {total:g} and agent.work_s = {agent.work_s:g}: {max(0.0, total - agent.work_s):g} s are left for "
            f"the engine, and {replies} replies of up to rollout.request_timeout_s = {rollout.request_timeout_s:g} s, sandboxes and queues "
            f"need {needed:g} s. Set rollout.episode_timeout_s to 0 (as much as is needed) or to {agent.work_s + needed:g} at least"
        )
    if not config.repl.is_elsewhere and config.repl.lifetime_s < total:
        raise ConfigError(
            f"repl.lifetime_s = {config.repl.lifetime_s:g} ends a session before its episode, which may take {total:g} s "
            f"(agent.work_s = {agent.work_s:g} included): set repl.lifetime_s to {total:g} at least"
        )
    return total - agent.work_s


def budgets_line(config: Config) -> str:
    """Return an episode's budgets in words: "6 steps, 384 tokens, 10 s a cell, 120 s for all cells and tool calls …"."""
    agent = config.agent
    return (
        f"{agent.max_steps} steps, {agent.max_tokens:,} tokens, {agent.cell_s:g} s a cell, {agent.work_s:g} s for all cells and tool calls "
        f"(agent.work_s); {agent.work_s + lzero_s(config):g} s in all"
    )
