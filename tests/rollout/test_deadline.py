"""The seconds that lzero has for its part of an episode: what the agent's work time leaves, and never too few."""

import pytest

from lzero.config import load_config
from lzero.errors import ConfigError
from lzero.rollout.compose import build
from lzero.rollout.deadline import OTHER_S, budgets_line, lzero_s


def test_by_default_it_is_what_the_replies_may_take() -> None:
    config = load_config(None, ["agent.max_steps=4", "rollout.request_timeout_s=50", "agent.work_s=70"])
    assert lzero_s(config) == 4 * 50 + OTHER_S
    assert budgets_line(config) == (
        "4 steps, 384 tokens, 10 s a cell, 70 s for all cells and tool calls (agent.work_s); 390 s in all"
    )


def test_more_may_be_given_and_the_work_time_is_no_part_of_it() -> None:
    assert lzero_s(load_config(None, ["rollout.episode_timeout_s=2000", "agent.work_s=600"])) == 1400


async def test_every_command_that_runs_episodes_refuses_too_little() -> None:
    config = load_config(None, ["agent.work_s=500", "rollout.episode_timeout_s=600"])
    with pytest.raises(ConfigError, match=r"rollout.episode_timeout_s = 600 and agent.work_s = 500"):
        async with build(config):
            pass
