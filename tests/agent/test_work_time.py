"""The time of an episode's cells and tool calls: it is the agent's own, and an agent that has used it up is scored.

The loop's clock jumps, so what takes minutes here takes none.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from episode_fakes import (
    AGENT,
    SUBMIT,
    Cell,
    Echo,
    FakePool,
    Replies,
    StuckEngine,
    attempt,
    calling,
    cell,
    hanging,
    killed,
    reply,
)
from virtual_time import run

from lzero.agent.cutoff import Cutoff
from lzero.agent.episode import GRACE_S
from lzero.config import AgentConfig
from lzero.errors import PoolFull, ReplError, ToolError
from lzero.protocols import OnCall, Repl, ToolContext, ToolSpec
from lzero.tools.retry import AskedTooOften, RateLimited, Throttled
from lzero.turns import CLOCK, CallClock, Turns
from lzero.types import Execution, Json

DEADLINE_S = 20.0
"""What lzero has for its part."""


def agent(**budgets: float) -> AgentConfig:
    return AGENT.model_copy(update={"work_s": 100.0, **budgets})


def taking(seconds: float, then: Cell | None = None) -> Cell:
    async def run_cell(on_call: OnCall) -> Execution:
        await asyncio.sleep(seconds)
        return await (then or cell("done\n"))(on_call)

    return run_cell


def times(number: int, each: Cell) -> Cell:
    async def run_cell(on_call: OnCall) -> Execution:
        for _ in range(number - 1):
            await each(on_call)
        return await each(on_call)

    return run_cell


class Slow(Echo):
    """A tool that takes its time; or waits for a helper that other episodes hold."""

    def __init__(self, seconds: float, helper: Turns | None = None) -> None:
        self._seconds, self._helper = seconds, helper

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        if self._helper is not None:
            async with self._helper.turn():
                return "free"
        await asyncio.sleep(self._seconds)
        return "slow"


class Quota(Echo):
    """A service that refuses a call within QUOTA_S of the one before."""

    def __init__(self) -> None:
        self._next = 0.0

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        now = asyncio.get_running_loop().time()
        if now < self._next:
            raise AskedTooOften("slow down", retry_after_s=self._next - now)
        self._next = now + QUOTA_S
        return "an answer"


def test_time_in_cells_loses_no_episode() -> None:
    pool = FakePool({"slow": taking(2 * DEADLINE_S), **SUBMIT})
    episode = run(attempt(Replies(reply("slow"), reply("submit")), pool, agent=agent(), deadline_s=DEADLINE_S))
    assert (episode.status, episode.answer) == ("finished", "Kato")
    assert episode.steps[0].timings["work"] == 2 * DEADLINE_S


def test_cells_that_stall_until_the_time_is_up_end_the_episode_scored() -> None:
    pool = FakePool({"stall": taking(30.0)})
    episode = run(attempt(Replies(reply("stall")), pool, agent=agent(cell_s=30.0, max_steps=9), deadline_s=DEADLINE_S))
    assert (episode.status, episode.answer, episode.failure, len(episode.steps)) == ("out_of_time", None, None, 4)
    assert [step.timings["work"] for step in episode.steps] == [30.0, 30.0, 30.0, 10.0 + GRACE_S]
    assert pool.opened[0].deadlines == [30.0, 30.0, 30.0, 10.0], "the last cell gets what is left"
    assert pool.opened[0].closed
    assert episode.budgets.work_s == 100.0


def test_a_cell_that_goes_on_beyond_the_time_is_ended_with_its_session() -> None:
    pool = FakePool({"hang": hanging})
    episode = run(attempt(Replies(reply("hang")), pool, agent=agent(), deadline_s=DEADLINE_S))
    assert (episode.status, episode.failure) == ("out_of_time", None)
    (step,) = episode.steps
    assert step.execution is not None
    assert (step.execution.status, step.execution.reason) == ("killed", "time: the agent's 100 s are used up")
    assert pool.opened[0].closed


def test_a_slow_tool_that_is_called_again_and_again_is_on_the_agents_time() -> None:
    pool = FakePool({"calls": times(60, calling("echo", text="x"))})
    policy = Replies(reply("calls"))
    episode = run(attempt(policy, pool, agent=agent(max_steps=9), tools=[Slow(1.5)], deadline_s=DEADLINE_S))
    assert (episode.status, episode.failure, len(episode.steps)) == ("out_of_time", None, 2)
    assert sum(call.error is None for step in episode.steps for call in step.tool_calls) == 66


def test_a_call_ends_with_the_time_and_further_ones_are_refused() -> None:
    async def calls(on_call: OnCall) -> Execution:
        for text in ("hang", "hi"):
            with pytest.raises(ToolError, match="time for cells and tool calls is used up"):
                await on_call("echo", {"text": text})
        return Execution(outputs=(), status="ok", duration_s=0.0)

    pool = FakePool({"calls": taking(95.0, calls)})
    episode = run(attempt(Replies(reply("calls")), pool, agent=agent(cell_s=99.0), tools=[Echo()]))
    assert (episode.status, episode.failure) == ("out_of_time", None)
    assert [(call.fault, call.duration_s) for call in episode.steps[0].tool_calls] == [("agent", 5.0), ("agent", 0.0)]


def test_waiting_for_a_helper_is_not_on_the_agents_time() -> None:
    helper = Turns(1, "a reader")
    pool = FakePool({"read": calling("echo", text="x"), **SUBMIT})

    async def main() -> tuple[str, float, float]:
        async def others() -> None:
            async with helper.turn():
                await asyncio.sleep(500.0)

        holding = asyncio.create_task(others())
        await asyncio.sleep(0)
        policy = Replies(reply("read"), reply("submit"))
        episode = await attempt(policy, pool, agent=agent(), tools=[Slow(0.0, helper)], deadline_s=900.0)
        await holding
        return episode.status, episode.steps[0].timings["work"], episode.steps[0].tool_calls[0].queued_s

    assert run(main()) == ("finished", 0.0, 500.0)


QUOTA_S = 3.0
"""Seconds between two calls of a service: 20 a minute."""


@pytest.mark.parametrize("at_once", [False, True], ids=["one after another", "at once"])
@pytest.mark.parametrize("retry", [False, True], ids=["a rate of ours", "refusals"])
def test_an_agent_that_calls_without_end_is_out_of_time_however_long_its_calls_wait(at_once: bool, retry: bool) -> None:
    tool = Throttled(Quota()) if retry else RateLimited(Echo(), per_second=1 / QUOTA_S)

    async def flood(on_call: OnCall) -> Execution:
        calls = (on_call("echo", {"text": str(number)}) for number in range(64))
        if at_once:
            await asyncio.gather(*calls, return_exceptions=True)
        else:
            for call in calls:
                with suppress(ToolError):
                    await call
        return Execution(outputs=(), status="ok", duration_s=0.0)

    policy = Replies(reply("flood"))
    flooding = attempt(policy, FakePool({"flood": flood}), agent=agent(max_steps=15), tools=[tool], deadline_s=300.0)
    episode = run(flooding)
    assert (episode.status, episode.failure) == ("out_of_time", None)
    assert sum(step.timings["work"] for step in episode.steps) == pytest.approx(100.0, abs=1.0)


def test_an_honest_call_a_cell_waits_on_lzeros_time_beside_an_agent_that_floods() -> None:
    helper = Turns(1, "a reader")

    async def main() -> tuple[str, float]:
        async def floods() -> None:
            CLOCK.set(CallClock("another episode"))
            async with helper.turn():
                await asyncio.sleep(30.0)

        flood = [asyncio.create_task(floods()) for _ in range(60)]
        await asyncio.sleep(0)
        policy = Replies(reply("read"), reply("read"), reply("submit"))
        pool = FakePool({"read": calling("echo", text="x"), **SUBMIT})
        episode = await attempt(policy, pool, agent=agent(), tools=[Slow(0.0, helper)], deadline_s=130.0)
        for each in flood:
            each.cancel()
        return episode.status, sum(step.timings["work"] for step in episode.steps)

    assert run(main()) == ("finished", 0.0)


def test_an_answer_counts_though_the_time_is_up() -> None:
    async def submit_late(on_call: OnCall) -> Execution:
        await on_call("submit_final_answer", {"answer": "Kato"})
        return await hanging(on_call)

    episode = run(attempt(Replies(reply("late")), FakePool({"late": submit_late}), agent=agent()))
    assert (episode.status, episode.answer) == ("finished", "Kato")


def test_killing_the_session_again_and_again_is_scored() -> None:
    pool = FakePool({"exit": taking(30.0, killed)})
    episode = run(attempt(Replies(reply("exit")), pool, agent=agent(max_steps=9, cell_s=50.0), deadline_s=DEADLINE_S))
    assert (episode.status, len(episode.steps)) == ("out_of_time", 4)


class CrowdedPool(FakePool):
    """Has room at once for a first session, and again only after `wait_s`; until then, it gives up now and then."""

    def __init__(self, cells: dict[str, Cell], *, wait_s: float) -> None:
        super().__init__(cells)
        self._wait_s = wait_s

    async def open(self, tools: Sequence[ToolSpec], on_call: OnCall, *, seed: int) -> Repl:
        if self.opened and self._wait_s > 0:
            patience_s = min(30.0, self._wait_s)
            self._wait_s -= patience_s
            await asyncio.sleep(patience_s)
            raise PoolFull("no REPL became free within 30 s")
        return await super().open(tools, on_call, seed=seed)


@pytest.mark.parametrize(
    ("wait_s", "status", "work_s"), [(80.0, "finished", 80.0), (1_000.0, "out_of_time", 100.0 + GRACE_S)]
)
def test_an_agent_that_killed_its_session_waits_for_another_on_its_own_time(
    wait_s: float, status: str, work_s: float
) -> None:
    pool = CrowdedPool({"exit": killed, **SUBMIT}, wait_s=wait_s)
    episode = run(attempt(Replies(reply("exit"), reply("submit")), pool, agent=agent(), deadline_s=DEADLINE_S))
    assert (episode.status, episode.failure, len(episode.steps)) == (status, None, 2)
    assert sum(step.timings["work"] for step in episode.steps) == work_s


def test_a_pool_that_breaks_after_a_killed_session_fails_the_episode() -> None:
    class Broken(FakePool):
        async def open(self, tools: Sequence[ToolSpec], on_call: OnCall, *, seed: int) -> Repl:
            if self.opened:
                raise ReplError("no pool server is available")
            return await super().open(tools, on_call, seed=seed)

    episode = run(attempt(Replies(reply("exit")), Broken({"exit": killed}), agent=agent(), deadline_s=DEADLINE_S))
    assert episode.failure is not None
    assert episode.failure.kind == "repl"


@pytest.mark.parametrize(("seconds", "shown"), [(74.0, ""), (80.5, "; 19 seconds left for cells and tool calls]")])
def test_the_model_is_shown_its_time_when_little_of_it_is_left(seconds: float, shown: str) -> None:
    policy = Replies(reply("slow"), reply("submit"))
    run(attempt(policy, FakePool({"slow": taking(seconds), **SUBMIT}), agent=agent(cell_s=90.0)))
    line = policy.transcripts[1].rpartition("</output>\n")[2].partition("<|im_end|>")[0]
    assert line.startswith("[3 steps and ")
    assert line.endswith(shown or " tokens left]")


def late_by(seconds: float) -> tuple[Cutoff, Cell]:
    """Return a cut-off, and a cell during which it is reached after so many seconds."""
    cutoff = Cutoff(1)

    async def others_come_in(on_call: OnCall) -> Execution:
        await asyncio.sleep(seconds)
        cutoff.arrived()
        return await hanging(on_call)

    return cutoff, others_come_in


def test_an_episode_that_is_late_by_its_own_work_is_scored_when_its_round_is_cut_off() -> None:
    cutoff, hang = late_by(5.0)
    pool = FakePool({"one": cell("1\n"), "hang": hang})
    episode = run(attempt(Replies(reply("one"), reply("hang")), pool, agent=agent(), cutoff=cutoff))
    assert (episode.status, episode.failure, len(episode.steps)) == ("out_of_time", None, 2)
    execution = episode.steps[1].execution
    assert execution is not None
    assert (execution.status, execution.reason) == ("killed", "time: its round is over")
    assert pool.opened[0].closed


def test_an_episode_that_waits_for_the_engine_is_a_straggler() -> None:
    def engine(on_stuck: Callable[[], None]) -> StuckEngine:
        return StuckEngine(Replies(reply("one")), answers=1, on_stuck=on_stuck)

    async def main() -> str:
        cutoff = Cutoff(1)
        asyncio.get_running_loop().call_later(8.0, cutoff.arrived)
        pool = FakePool({"one": taking(3.0)})
        episode = await attempt(engine(lambda: None), pool, agent=agent(), cutoff=cutoff)
        assert episode.failure is not None
        return episode.failure.kind

    assert run(main()) == "straggler"
