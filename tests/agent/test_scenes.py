"""Scenes: opened and closed with each episode, with tools of their own, an observation and an outcome; and what goes wrong with one."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from episode_fakes import AGENT, RENDERER, TOKENIZER, FakePool, Replies, calling, reply
from rollout_fakes import attempted

from lzero.agent.agents import make_agent
from lzero.agent.conversation import TokenModel
from lzero.agent.cutoff import Cutoff
from lzero.agent.playing import EpisodePlayer
from lzero.agent.scenes import MAX_OUTCOME_BYTES, Scenes
from lzero.agent.setting import Setting, Ticket
from lzero.config import AgentConfig, EnvironmentConfig
from lzero.engine.scripted.engine import ScriptedEngine
from lzero.environments import open_environment
from lzero.errors import ConfigError
from lzero.protocols import Scene, Tool
from lzero.tools import tool
from lzero.types import Episode, Passage, Sampling, Task

TASK = Task(id="t1", question="Pay Kato 3 coins.", answers=(), passages=(Passage(title="Liri", text="a place"),))


class Purse:
    """A scene whose state a tool changes."""

    observation = "Your purse holds 5 coins."

    def __init__(self, seed: int) -> None:
        self.seed, self.coins = seed, 5
        self.tools: Sequence[Tool] = (tool(self.pay),)

    async def pay(self, whom: str, coins: int) -> str:
        """Pays somebody."""
        self.coins -= coins
        return f"{whom} thanks you"

    async def outcome(self) -> Mapping[str, Any] | None:
        return {"coins": self.coins, "seed": self.seed}


class Market:
    """Opens purses; `broken` says where it fails."""

    def __init__(self, broken: str = "", *, error: BaseException | None = None) -> None:
        self.broken, self.error = broken, error or RuntimeError("the market burns")
        self.events: list[str] = []

    async def at(self, place: str) -> None:
        self.events.append(place)
        if self.broken == f"{place} fails":
            raise self.error
        if self.broken == f"{place} hangs":
            await asyncio.Event().wait()

    @asynccontextmanager
    async def scene(self, task: Task, *, seed: int) -> AsyncIterator[Purse]:
        await self.at("open")
        purse = Purse(seed)
        asked = purse.outcome

        async def outcome() -> Mapping[str, Any] | None:
            await self.at("outcome")
            return await asked()

        purse.outcome = outcome  # type: ignore[method-assign]
        try:
            yield purse
        finally:
            await self.at("close")

    async def close(self) -> None: ...


def play(
    environment: Any, *, agent: AgentConfig = AGENT, timeout_s: float = 60.0, policy: Replies | None = None
) -> tuple[EpisodePlayer, Replies]:
    policy = policy or Replies(reply("pay"), reply("submit"))
    pool = FakePool(
        {"pay": calling("pay", whom="Kato", coins=3), "submit": calling("submit_final_answer", answer="done")}
    )
    engine = TokenModel(ScriptedEngine(policy, TOKENIZER), RENDERER, 5.0)
    setting = Setting(agent=agent, model=engine, pool=pool, deadline_s=20.0)
    scenes = Scenes(environment=environment, timeout_s=timeout_s)
    return EpisodePlayer(scenes=scenes, agent=make_agent(setting), config=agent), policy


async def played(environment: Any, **how: Any) -> Episode:
    ticket = Ticket(id="e1", index=0, seed=7, sampling=Sampling())
    return await play(environment, **how)[0](TASK, ticket, seed=11)


async def test_an_episode_acts_on_a_scene_of_its_own_and_records_how_it_was_left() -> None:
    market = Market()
    playing, policy = play(market)
    ticket = Ticket(id="e1", index=0, seed=7, sampling=Sampling())
    first, second = [await playing(TASK, ticket, seed=11) for _ in range(2)]
    assert (first.status, first.answer, first.outcome) == ("finished", "done", {"coins": 2, "seed": 11})
    assert first.steps[0].tool_calls[0].result == "Kato thanks you"
    assert second.outcome == {"coins": 5, "seed": 11}, "the replies were used up, so it did not pay"
    assert "Pay Kato 3 coins.\n\nYour purse holds 5 coins.\n[4 steps" in policy.transcripts[0]
    assert market.events == ["open", "outcome", "close"] * 2


async def test_half_a_character_in_an_observation_ends_nothing() -> None:
    class Broken(Purse):
        observation = "\ud800"

    class Odd(Market):
        @asynccontextmanager
        async def scene(self, task: Task, *, seed: int) -> AsyncIterator[Purse]:
            yield Broken(seed)

    assert (await played(Odd())).failure is None


@pytest.mark.parametrize("how", ["fails", "hangs"])
@pytest.mark.parametrize("place", ["open", "outcome", "close"])
async def test_an_environment_that_fails_is_named_and_its_episode_fails(place: str, how: str) -> None:
    episode = await played(Market(f"{place} {how}"), timeout_s=60.0 if how == "fails" else 0.2)
    assert episode.failure is not None
    assert episode.failure.kind == "environment"
    said = {"open": "opening the scene", "outcome": "asking for the outcome", "close": "closing the scene"}
    assert episode.failure.where == said[place]
    hung = "the environment took more than environment.timeout_s = 0.2 s"
    assert episode.failure.what == (hung if how == "hangs" else "the environment raised RuntimeError: the market burns")
    assert episode.outcome is None


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), TimeoutError("no answer"), GeneratorExit()])
async def test_what_an_environment_raises_ends_nothing_but_its_episode(error: BaseException) -> None:
    episode = await played(Market("open fails", error=error))
    assert episode.failure is not None
    assert f"raised {type(error).__name__}" in episode.failure.what


async def test_a_scene_that_breaks_while_an_agent_acts_in_it_fails_the_episode() -> None:
    broke = asyncio.Event()

    class Connected(Market):
        @asynccontextmanager
        async def scene(self, task: Task, *, seed: int) -> AsyncIterator[Purse]:
            async def listen(purse: Purse) -> None:
                while purse.coins == 5:
                    await asyncio.sleep(0)
                broke.set()
                raise OSError("the link is gone")

            async with asyncio.TaskGroup() as connections:
                purse = Purse(seed)
                connections.create_task(listen(purse))
                yield purse

    async def waits(task: Task, scene: Scene, ticket: Ticket) -> Episode:
        assert isinstance(scene, Purse)
        await scene.pay("Kato", 3)
        await asyncio.wait_for(broke.wait(), 60)
        return attempted(task, ticket, "paid")

    scenes = Scenes(environment=Connected(), timeout_s=60.0)
    playing = EpisodePlayer(scenes=scenes, agent=waits, config=AGENT)
    episode = await playing(TASK, Ticket(id="e1", index=0, seed=7, sampling=Sampling()), seed=11)
    assert episode.failure is not None
    assert episode.failure.kind == "environment"
    assert "OSError: the link is gone" in episode.failure.what


async def test_an_environment_is_closed_when_its_episode_is_cancelled() -> None:
    market = Market()
    waiting = asyncio.Event()

    class Waits(Replies):
        def __call__(self, transcript: str, seed: int) -> str:
            waiting.set()
            return super().__call__(transcript, seed)

    playing, _ = play(market, policy=Waits(reply("pay")))
    running = asyncio.create_task(playing(TASK, Ticket(id="e", index=0, seed=1, sampling=Sampling()), seed=1))
    await waiting.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert market.events == ["open", "close"]


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("won", "the outcome is a str, not a mapping of names to JSON values"),
        (
            {"a": {"b": 1}, "world": {"map": object()}},
            "the outcome returned a value of type object under 'world.map', which is not JSON",
        ),
        ({"log": "x" * MAX_OUTCOME_BYTES}, f"at most {MAX_OUTCOME_BYTES:,} fit"),
    ],
)
async def test_an_outcome_that_is_no_data_is_named(outcome: object, said: str) -> None:
    class Odd(Market):
        @asynccontextmanager
        async def scene(self, task: Task, *, seed: int) -> AsyncIterator[Purse]:
            purse = Purse(seed)

            async def tell() -> Any:
                return outcome

            purse.outcome = tell  # type: ignore[method-assign]
            yield purse

    episode = await played(Odd())
    assert episode.failure is not None
    assert said in episode.failure.what


@tool
def submit_final_answer(answer: str) -> str:
    """Clashes."""
    return answer


def not_a_tool() -> None: ...


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (3, "opened a int, which has no tools and no observation and no outcome"),
        (
            submit_final_answer,
            "the scene's tool 'submit_final_answer' has the name 'submit_final_answer', and so has another function",
        ),
        (not_a_tool, "is not a tool"),
    ],
)
async def test_a_scene_that_no_episode_could_use_is_refused_before_work_starts(scene: Any, said: str) -> None:
    class Odd(Market):
        @asynccontextmanager
        async def scene(self, task: Task, *, seed: int) -> AsyncIterator[Any]:
            purse = Purse(seed)
            purse.tools = (scene,)
            yield scene if scene == 3 else purse

    scenes = Scenes(environment=Odd(), timeout_s=60.0)
    with pytest.raises(ConfigError, match=said):
        await scenes.rehearse(TASK)
    assert (await Scenes(environment=Market(), timeout_s=60.0).rehearse(TASK)).observation.startswith("Your purse")


@pytest.mark.parametrize(
    ("tools", "said"),
    [(None, "tools are a NoneType, not a sequence"), (iter(()), "not a sequence"), (RuntimeError("closed"), "closed")],
)
async def test_tools_that_cannot_be_listed_are_named(tools: Any, said: str) -> None:
    class Odd(Purse):
        @property
        def tools(self) -> Any:
            if isinstance(tools, Exception):
                raise tools
            return tools

        @tools.setter
        def tools(self, given: object) -> None: ...

    class Opens(Market):
        @asynccontextmanager
        async def scene(self, task: Task, *, seed: int) -> AsyncIterator[Purse]:
            yield Odd(seed)

    episode = await played(Opens())
    assert episode.failure is not None
    assert (episode.failure.kind, episode.failure.where) == ("environment", "opening the scene")
    assert said in episode.failure.what


async def test_an_environment_that_does_not_close_is_left_behind_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    class Hangs(Market):
        async def close(self) -> None:
            await asyncio.Event().wait()

    with caplog.at_level(logging.WARNING):
        await Scenes(environment=Hangs(), timeout_s=0.05).close()
    assert "did not close within environment.timeout_s = 0.05 s" in caplog.text


class Wild:
    """An agent of one's own."""

    def __init__(self, setting: Setting, *, does: str = "answers") -> None:
        self.does = does

    async def __call__(self, task: Task, scene: Any, ticket: Ticket) -> Any:
        if self.does == "raises":
            raise ValueError("no idea")
        if self.does == "cancels":
            raise asyncio.CancelledError
        if self.does == "exits":
            sys.exit(3)
        if self.does == "returns":
            return "42"
        if self.does == "hangs":
            await asyncio.Event().wait()
        await scene.pay("Kato", 3)
        return attempted(task, ticket, "\ud800" if self.does == "breaks" else "paid")


def wild(does: str) -> AgentConfig:
    return AGENT.model_copy(update={"use": f"{__name__}:Wild", "options": {"does": does}})


async def test_an_agent_of_ones_own_acts_in_the_scene() -> None:
    sys.modules.setdefault(__name__, sys.modules[Wild.__module__])
    episode = await played(Market(), agent=wild("answers"))
    assert (episode.answer, episode.outcome) == ("paid", {"coins": 2, "seed": 11})


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("raises", "Wild raised ValueError: no idea"),
        ("returns", "Wild returned a str, not an Episode"),
        ("cancels", "Wild raised CancelledError"),
        ("exits", "Wild raised SystemExit: 3"),
        ("breaks", "Wild returned an episode that cannot be recorded: "),
    ],
)
async def test_an_agent_of_ones_own_that_fails_is_named_and_its_episode_fails(does: str, said: str) -> None:
    episode = await played(Market(), agent=wild(does))
    assert episode.failure is not None
    assert episode.failure.kind == "agent"
    assert said in episode.failure.what


async def test_an_agent_of_ones_own_is_cut_off_with_its_round() -> None:
    cutoff = Cutoff(1)
    ticket = Ticket(id="e1", index=0, seed=7, sampling=Sampling(), cutoff=cutoff)
    running = asyncio.create_task(play(Market(), agent=wild("hangs"))[0](TASK, ticket, seed=1))
    await asyncio.sleep(0)
    cutoff.arrived()
    episode = await running
    assert episode.failure is not None
    assert episode.failure.kind == "straggler"


async def test_search_is_there_where_there_are_passages() -> None:
    environment = open_environment(EnvironmentConfig())
    bare = Task(id="t2", question="?", answers=())
    async with environment.scene(TASK, seed=0) as one, environment.scene(TASK, seed=0) as two:
        assert [each.name for each in one.tools] == ["search"]
        assert one.tools[0] is two.tools[0], "the episodes of a task share an index"
        assert await one.outcome() is None
    async with environment.scene(bare, seed=0) as none:
        assert not none.tools
    async with open_environment(EnvironmentConfig(use="none")).scene(TASK, seed=0) as none:
        assert not none.tools
    await environment.close()


@pytest.mark.parametrize(
    ("use", "options", "said"),
    [
        (
            "serch",
            {},
            r'environment.use = "serch": did you mean "search"\? It is one of search, none, trl, or an import path',
        ),
        (
            "search",
            {"result": 3},
            r"unknown key 'environment.options.result': .* has the options corpus, results, snippet_chars",
        ),
        ("search", {"results": 0}, r"environment.options.results = 0: Input should be greater than or equal to 1"),
        (f"{__name__}:Purse", {}, r"missing key 'environment.options.seed'"),
        (f"{__name__}:Purse", {"seed": 1}, r"makes a Purse, which has no method scene and no close"),
        (f"{__name__}:TASK", {}, r"is Task\(.*: name a class or a function"),
        (
            f"{__name__}:Market",
            {"broken": ["x"]},
            r"environment.options.broken = \['x'\]: Input should be a valid string",
        ),
    ],
)
def test_an_environment_that_cannot_be_used_is_named(use: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_environment(EnvironmentConfig(use=use, options=options))
