"""Classes for TRL's `environment_factory` are worlds, unchanged."""

import math
import random
import threading
from typing import Any

import pytest
from builders import make_attempt

from lzero.agent.scenes import Scenes
from lzero.config import EnvironmentConfig, load_config
from lzero.environments import open_environment
from lzero.environments.trl import _Method
from lzero.errors import ConfigError, RewardError, SceneError, ToolError
from lzero.rewards.context import RewardContext
from lzero.rollout.compose import open_reward
from lzero.tools import tool
from lzero.types import Task

LET_GO = threading.Event()
TASK = Task(id="t", question="Guess it.", answers=(), metadata={"low": "3"})


class Game:
    """Guess a number."""

    won: Any = 0.0

    def reset(self, low: str, prompt: Any = None, **row: Any) -> str:
        self.secret = random.randint(int(low), 99)
        return f"It is above {low}."

    def guess(self, number: int) -> str:
        """Guess the number."""
        if number > 99:
            raise ValueError("numbers end at 99")
        self.won = float(number == self.secret)
        return "yes" if self.won else "no"

    async def burn(self) -> str:
        """Burn the game."""
        raise RuntimeError("it burns")

    def get_reward(self) -> Any:
        return self.won

    def _hidden(self) -> None: ...


class Judged(Game):
    async def get_reward(self) -> Any:
        return 2.5


class Wordy(Game):
    won = "1.0"


class Infinite(Game):
    won = math.inf


class Hangs(Game):
    def reset(self, low: str, prompt: Any = None, **row: Any) -> str:
        LET_GO.wait(60)
        return super().reset(low)


class Silent:
    def reset(self, **row: Any) -> None: ...


def environment(name: str) -> Any:
    return open_environment(EnvironmentConfig(use="trl", options={"factory": f"{__name__}:{name}"}))


async def test_a_game_is_played_and_paid() -> None:
    async with environment("Game").scene(TASK, seed=5) as one, environment("Game").scene(TASK, seed=5) as two:
        assert one.observation == "It is above 3."
        burn, guess = one.tools
        assert (burn.name, guess.name, guess.parameters) == ("burn", "guess", ("number",))
        context: Any = None
        with pytest.raises(ToolError, match="ValueError: numbers end at 99") as raised:
            await guess.call({"number": 100}, context)
        assert raised.value.fault == "agent"
        assert one._game.secret == two._game.secret, "the episodes of a group get the same game"
        assert await guess.call({"number": one._game.secret}, context) == "yes"
        assert (await one.outcome(), await two.outcome()) == ({"reward": 1.0}, {"reward": 0.0})


async def test_any_exception_is_a_mistake_that_the_agent_reads_as_in_trl(caplog: pytest.LogCaptureFixture) -> None:
    context: Any = None
    async with environment("Game").scene(TASK, seed=5) as scene:
        burn, guess = scene.tools
        for _ in range(2):
            with pytest.raises(ToolError, match="RuntimeError: it burns") as raised:
                await burn.call({}, context)
            assert raised.value.fault == "agent"
        with pytest.raises(ToolError, match="ValueError"):
            await guess.call({"number": 100}, context)
    assert [record.getMessage()[:4] for record in caplog.records] == ["burn"], "a bug is logged, once"
    assert "it burns" in caplog.text


class Nameless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(("error", "read"), [(SystemExit(3), "SystemExit: 3"), (Nameless(), "Nameless")])
async def test_what_is_no_exception_or_has_no_words_is_a_mistake_too(error: BaseException, read: str) -> None:
    def leave() -> str:
        """Leave."""
        raise error

    context: Any = None
    method = _Method(tool(leave), lambda name, raised: None)
    with pytest.raises(ToolError, match=read) as raised:
        await method.call({}, context)
    assert raised.value.fault == "agent"


async def test_a_reward_may_be_async_or_missing() -> None:
    async with environment("Judged").scene(TASK, seed=1) as judged, environment("Silent").scene(TASK, seed=1) as silent:
        assert await judged.outcome() == {"reward": 2.5}
        assert (silent.tools, silent.observation, await silent.outcome()) == ((), "", None)


@pytest.mark.parametrize("name", ["Wordy", "Infinite"])
async def test_a_reward_that_is_no_number_names_the_class(name: str) -> None:
    async with environment(name).scene(TASK, seed=1) as scene:
        with pytest.raises(SceneError, match=f"get_reward of .*:{name} returned"):
            await scene.outcome()


async def test_a_reset_that_hangs_holds_up_no_other_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lzero.environments.trl.QUEUE_S", 0.05)
    hung = Scenes(environment=environment("Hangs"), timeout_s=0.2)
    with pytest.raises(ConfigError, match="took more than"):
        await hung.rehearse(TASK)
    async with environment("Game").scene(TASK, seed=1) as scene:
        assert scene.tools
    LET_GO.set()


async def test_lzero_check_rehearses_it_and_a_class_without_reset_is_refused() -> None:
    rehearsal = await Scenes(environment=environment("Game"), timeout_s=60.0).rehearse(TASK)
    assert rehearsal.outcome == {"reward": 0.0}
    with pytest.raises(ConfigError, match="has no method reset"):
        environment("EnvironmentConfig")


def test_the_reward_pays_the_outcome_on_the_last_step() -> None:
    reward: Any = open_reward(load_config(None, ["reward.function=outcome"]))
    paid = reward(TASK, make_attempt(TASK), RewardContext(outcome={"reward": 2.5}, seed=0, judge=None))
    assert (paid.score, paid.per_step, paid.parts) == (1.0, (2.5,), {"outcome": (2.5,)})
    ruin = reward(TASK, make_attempt(TASK), RewardContext(outcome={"reward": -1e9}, seed=0, judge=None))
    assert (ruin.score, ruin.per_step) == (0.0, (-1e6,))
    with pytest.raises(RewardError, match="there is none"):
        reward(TASK, make_attempt(TASK), RewardContext(outcome=None, seed=0, judge=None))
