"""What an agent shows and what it calls is kept until its update is written: within bounds."""

from typing import Any

import pytest
from builders import make_cell, make_episode, make_saved, make_task
from cases import attack

from lzero.agent import broker as brokers
from lzero.agent.broker import Broker
from lzero.agent.outputs import render_output
from lzero.agent.replay import replay
from lzero.errors import StoreError, ToolError
from lzero.rollout import runner
from lzero.rollout.runner import with_bounded_outputs
from lzero.tools import tool
from lzero.types import Display, Json, Result, Stream, ToolCall


async def no_file(path: str) -> bytes:
    raise NotImplementedError


@tool
def repeat(text: str, times: int) -> str:
    """Repeats a text."""
    return text * times


@attack(103)
async def test_results_without_number_are_recorded_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session gets them whole."""
    monkeypatch.setattr(brokers, "RECORD_BYTES", 2_500)
    broker = Broker(make_task(), [repeat], no_file)
    for times in (1_000, 1_000, 1_000, 10):
        assert await broker.on_call("repeat", {"text": "x", "times": times}) == "x" * times
    first, second, third, last = broker.take_calls()
    assert (first.result, second.result, last.result) == ("x" * 1_000, "x" * 1_000, "x" * 10)
    assert third.arguments == {}
    assert third.result == "[a call of 1,035 bytes, which is not recorded: a record holds 2,500]"


@attack(103)
async def test_arguments_without_number_are_recorded_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that counts is recorded always."""
    monkeypatch.setattr(brokers, "RECORD_BYTES", 2_500)
    broker = Broker(make_task(), [repeat], no_file)
    for _ in range(4):
        with pytest.raises(ToolError, match="times is missing"):
            await broker.on_call("repeat", {"text": "x" * 1_000})
    await broker.on_call("submit_final_answer", {"answer": "y" * 2_000})
    *calls, answer = broker.take_calls()
    assert [len(call.arguments) for call in calls] == [1, 1, 0, 0]
    assert all(call.fault == "agent" for call in calls)
    assert answer.arguments == {"answer": "y" * 2_000}


@attack(103)
def test_images_without_number_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model has read stays as it is."""
    monkeypatch.setattr(runner, "RICH_CHARS", 2_500)
    image = Display(data={"text/plain": "<Figure>", "image/png": "A" * 1_000})
    unnamed = Result(data={"image/png": "A" * 1_000})
    episode = make_episode(*[make_cell("plot()", Stream(name="stdout", text="x" * 9_000), image, unnamed)] * 3)
    found = with_bounded_outputs(episode)
    outputs = [output for step in found.steps if step.execution for output in step.execution.outputs]
    assert sum(isinstance(output, Display | Result) and "image/png" in output.data for output in outputs) == 2
    assert outputs[-1] == Result(data={"text/plain": "[image/png]"})
    for before, after in zip(episode.steps, found.steps, strict=True):
        assert before.execution
        assert after.execution
        assert render_output(after.execution, max_chars=4_000) == render_output(before.execution, max_chars=4_000)
    assert with_bounded_outputs(found) == found


@attack(93)
@pytest.mark.parametrize("part", ["arguments", "result"])
async def test_a_recorded_call_of_any_depth_is_a_store_error(part: str) -> None:
    deep: Json = []
    for _ in range(900):
        deep = [deep]
    fields: dict[str, Any] = {"arguments": {}, part: {"x": deep}}
    call = ToolCall(name="search", duration_s=0.0, **fields)
    pool: Any = None  # no session is opened
    with pytest.raises(StoreError, match="nested too deep"):
        await replay(make_saved(make_cell("search()", tool_calls=(call,))), pool)
