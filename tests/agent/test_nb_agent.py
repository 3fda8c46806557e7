"""NB-Agent as a person uses it, on models that speak in words, in real sessions."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from chat_servers import ChatServer, ended, streams, text
from starlette.responses import JSONResponse

from lzero.agent import NBAgent, make_task
from lzero.agent.episode_repl import EpisodeRepl
from lzero.agent.save import save_run
from lzero.agent.watch import Watcher
from lzero.config import Config, ModelConfig, ReplConfig, load_config, make_config
from lzero.engine.scripted.engine import ScriptedChat
from lzero.errors import ConfigError, ContextOverflow, DataError, EngineError, ToolError
from lzero.protocols import ChatPolicy
from lzero.repl import LocalPool
from lzero.store import SavedEpisode, read_saved
from lzero.tools import tool
from lzero.types import Completion, Message, Sampling, Stream, ToolCall, Usage

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


def cell(code: str) -> str:
    return f"<think>A thought of some length.</think>\n<code>\n{code}\n</code>"


def script(*replies: str) -> ChatPolicy:
    """Return a model that gives its replies in turn, by the number of replies in the conversation, and repeats the last."""
    return lambda messages, seed: replies[min(sum(m.role == "assistant" for m in messages), len(replies) - 1)]


class Turns:
    """Gives its replies in turn, whatever it is shown, and keeps its input."""

    def __init__(self, *replies: str) -> None:
        self.replies = replies
        self.shown: list[Sequence[Message]] = []

    def __call__(self, messages: Sequence[Message], seed: int) -> str:
        self.shown.append(tuple(messages))
        return self.replies[min(len(self.shown), len(self.replies)) - 1]


@tool
def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


async def test_a_key_of_an_mcp_server_may_stand_in_a_file(
    pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mcp")
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("TESTS_KEY='kept from everyone'\n")
    server = f"stdio:API_KEY=${{TESTS_KEY}} {sys.executable} {Path(__file__).parents[1] / 'support' / 'mcp_server.py'}"
    chat = ScriptedChat(script(cell("submit_final_answer(environment()['API_KEY'])")))
    async with NBAgent(chat, mcp=[server], pool=pool) as agent:
        assert (
            await agent.run("Which key?")
        ).answer == "${TESTS_KEY}"  # the server had it, and it is hidden on its way back


async def test_a_question_is_answered_with_tools(pool: LocalPool) -> None:
    chat = ScriptedChat(script(cell("x = double(21)\nprint(x)"), cell("submit_final_answer(x)")))
    async with NBAgent(chat, tools=[double], pool=pool) as agent:
        episode = await agent.run("What is twice 21?")
    assert (episode.status, episode.answer) == ("finished", "42")
    first = episode.steps[0]
    system, user = first.prompt.new_messages
    assert "- double(number: int) -> int\n  Twice a number." in system.content
    assert user.content.startswith("What is twice 21?\n[20 steps and 32000 tokens left]")
    assert first.execution is not None
    assert first.execution.outputs == (Stream(name="stdout", text="42\n"),)
    assert episode.steps[1].prompt.keep == 3
    assert "<output>\n42\n</output>" in episode.steps[1].prompt.new_messages[0].content


async def test_steps_come_as_they_happen_and_who_stops_listening_ends_it(pool: LocalPool) -> None:
    chat = ScriptedChat(script(cell("print(1)"), cell("import time\ntime.sleep(600)")))
    async with NBAgent(chat, pool=pool, max_steps=5) as agent:
        stream = agent.stream("Anything?")
        first = await anext(stream)
        assert first.execution is not None
        await stream.aclose()
        assert agent.episode is not None
        assert (agent.episode.status, len(agent.episode.steps)) == ("failed", 1)
        assert pool.stats()["open"] == 0
        chat = ScriptedChat(script(cell("submit_final_answer('yes')")))
    async with NBAgent(chat, pool=pool) as agent:
        assert [step.parsed.code async for step in agent.stream("Is it?")] == ["submit_final_answer('yes')"]
        assert agent.episode is not None
        assert agent.episode.answer == "yes"


async def test_a_watcher_sees_text_cells_calls_and_steps_in_order(pool: LocalPool) -> None:
    seen: list[str] = []

    class Seeing(Watcher):
        def on_text(self, kind: str, piece: str) -> None:
            if seen[-1:] != [kind]:
                seen.append(kind)

        def on_cell(self, code: str) -> None:
            seen.append("cell")

        def on_call(self, call: ToolCall) -> None:
            seen.append(call.name)

    chat = ScriptedChat(script(cell("double(1)"), cell("submit_final_answer('x')")))
    async with NBAgent(chat, tools=[double], pool=pool) as agent:
        await agent.run("What?", watcher=Seeing())
    assert seen == ["text", "cell", "double", "text", "cell", "submit_final_answer"]


@pytest.mark.parametrize("memory", ["soft", "hard"])
async def test_a_long_conversation_in_words_is_trimmed(pool: LocalPool, memory: str) -> None:
    looks = [cell(f"print('line {number} ' * 300)") for number in range(6)]
    turns = Turns(*looks, cell("submit_final_answer('done')"))

    def policy(messages: Sequence[Message], seed: int) -> str:
        if messages[-1].content.startswith("[What you see is nearly full."):
            return "<summary>six looks are planned</summary>"
        return turns(messages, seed)

    settings: dict[str, Any] = {"memory": memory, "max_tokens": 3_000, "response_tokens": 300}
    if memory == "soft":
        settings["summary_tokens"] = 200
    async with NBAgent(ScriptedChat(policy), pool=pool, **settings) as agent:
        episode = await agent.run("What?")
    assert (episode.status, episode.answer) == ("finished", "done")
    trimmed = [step for step in episode.steps if step.trimmed]
    assert trimmed
    for step in trimmed:
        _, user = step.prompt.new_messages
        assert step.prompt.keep == 0
        assert user.content.startswith("What?\n[earlier steps were dropped")
        assert ("six looks are planned" in user.content) == (memory == "soft")
    assert any(step.kind == "summarise" for step in episode.steps) == (memory == "soft")


async def test_a_window_smaller_than_said_is_met_by_a_trim(pool: LocalPool) -> None:
    turns = Turns(cell("print('x' * 3000)"), cell("print('y' * 3000)"), cell("submit_final_answer('done')"))

    class Small(ScriptedChat):
        async def reply(self, messages: Sequence[Message], sampling: Sampling, **others: Any) -> Completion:
            if sum(len(message.content) for message in messages[1:]) > 5_000:
                raise ContextOverflow("the prompt is longer than the model's window")
            return await super().reply(messages, sampling, **others)

    async with NBAgent(Small(turns), pool=pool, memory="hard") as agent:
        episode = await agent.run("What?")
    assert (episode.answer, [step.trimmed for step in episode.steps]) == ("done", [False, False, True])
    turns.shown.clear()
    async with NBAgent(Small(turns), pool=pool, memory="none") as agent:
        assert (await agent.run("What?")).status == "out_of_tokens"


async def test_what_breaks_ends_it_as_failed_with_the_steps_so_far(pool: LocalPool) -> None:
    @tool
    def broken() -> str:
        """Never works."""
        raise ToolError("the service is down", fault="tool")

    def gone(messages: Sequence[Message], seed: int) -> str:
        if len(messages) > 2:
            raise EngineError("http://localhost:1 does not answer")
        return cell("print(1)")

    async with NBAgent(ScriptedChat(gone), pool=pool) as agent:
        episode = await agent.run("What?")
    assert episode.failure is not None
    assert (episode.failure.kind, len(episode.steps)) == ("engine", 1)
    async with NBAgent(ScriptedChat(script(cell("broken()"))), tools=[broken], pool=pool) as agent:
        episode = await agent.run("What?")
    assert episode.failure is not None
    assert (episode.failure.kind, episode.failure.what) == ("tool", "the service is down")


async def test_an_endpoint_that_took_the_reply_for_a_thought_is_understood(pool: LocalPool) -> None:
    class Thinking(ScriptedChat):
        async def reply(self, messages: Sequence[Message], sampling: Sampling, **others: Any) -> Completion:
            return Completion(
                token_ids=(),
                logprobs=(),
                text="",
                reasoning=cell("submit_final_answer('y')"),
                stop_reason="eos",
                versions=(),
            )

    async with NBAgent(Thinking(script("")), pool=pool) as agent:
        assert (await agent.run("What?")).answer == "y"


async def test_files_are_given_and_the_prompt_speaks_of_them(pool: LocalPool, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Kato")
    chat = ScriptedChat(script(cell("submit_final_answer(open('a.txt').read())")))
    async with NBAgent(chat, pool=pool) as agent:
        episode = await agent.run("Who?", files=[tmp_path / "a.txt"])
    assert episode.answer == "Kato"
    assert "In the working directory: a.txt." in episode.steps[0].prompt.new_messages[0].content


async def test_files_that_cannot_be_given_are_told_before_the_model_is_asked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        make_task("Who?", ["none.txt"])
    odd = tmp_path / os.fsdecode(b"a\xff.txt")
    odd.touch()
    with pytest.raises(DataError, match="its name is not UTF-8"):
        make_task("Who?", [odd])
    turns = Turns(cell("submit_final_answer('x')"))
    with (tmp_path / "large").open("wb") as large:
        large.truncate(2**20 + 1)
    async with NBAgent(ScriptedChat(turns), config=Config(repl=ReplConfig(file_mb=1))) as agent:
        with pytest.raises(DataError, match="its 1,048,577 bytes exceed the limit of 1,048,576"):
            await agent.run("Who?", files=[tmp_path / "large"])
    assert not turns.shown


async def test_characters_that_are_none_can_be_saved(pool: LocalPool, tmp_path: Path) -> None:
    chat = ScriptedChat(
        script("<think>Cut apart: \ud83d\ude00, alone: \ud83d.</think>\n<code>\nsubmit_final_answer(1)\n</code>")
    )
    async with NBAgent(chat, pool=pool) as agent:
        task = make_task("Wh\udcff?")
        episode = await agent.run(task)
    save_run(tmp_path, SavedEpisode(task=task, episode=episode, model="m"))
    saved = read_saved(tmp_path)
    assert saved.episode.steps[0].parsed.think == "Cut apart: \U0001f600, alone: \ufffd."
    assert saved.task.question == "Wh\ufffd?"


async def test_what_is_left_of_a_run_tells_what_broke_it_off_and_keeps_its_answer(pool: LocalPool) -> None:
    class Breaking(Watcher):
        async def on_end(self, repl: EpisodeRepl) -> None:
            raise RuntimeError("with a key in it")

    chat = ScriptedChat(script(cell("submit_final_answer('x')")))
    async with NBAgent(chat, pool=pool, temperature=0.25) as agent:
        with pytest.raises(RuntimeError):
            await agent.run("What?", watcher=Breaking())
    left = agent.episode
    assert left is not None
    assert left.failure is not None
    assert (left.answer, left.failure.what, left.sampling.temperature) == ("x", "an unexpected RuntimeError", 0.25)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_steps": 0}, "max_steps"),
        ({"memory": "some"}, "memory"),
        ({"max_step": 5}, r"'agent.max_step'; did you mean 'agent.max_steps'\?"),
        ({"tools": ["web_serach"]}, 'did you mean "web_search"'),
        ({"tools": ["no_such_module:shout"]}, "tools: cannot import 'no_such_module'"),
        ({"prompt": "none.jinja"}, "nor a readable file"),
        ({"template": "raw"}, "has no effect with an endpoint"),
        ({"config": Config(model=ModelConfig(dtype="bfloat16"))}, "model.dtype has no effect with an endpoint"),
        ({"tools": [double, double]}, "the name 'double', and so has another function"),
        ({"tools": [len]}, "is not a tool: it has no .*put @tool"),
    ],
)
async def test_what_cannot_work_is_told_before_it_starts(pool: LocalPool, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        async with NBAgent(ScriptedChat(script("")), pool=pool, **settings) as agent:
            await agent.run("What?")


async def test_an_agent_takes_its_model_from_its_configuration_or_asks_for_one() -> None:
    with pytest.raises(ConfigError, match="no model: name it"):
        NBAgent(config=Config(repl=ReplConfig(file_mb=1)))
    scripted = make_config({"engine": {"kind": "scripted", "policy": "expert"}})
    assert NBAgent(config=scripted).settings.max_tokens == 32_000


async def test_no_model_is_told_with_the_address_and_what_to_try() -> None:
    agent = NBAgent("any", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9"):
        await agent.run("What?")


async def test_a_directory_is_the_name_of_a_model_where_there_is_an_endpoint(pool: LocalPool, tmp_path: Path) -> None:
    reply = streams(*text(cell("submit_final_answer('Kato')")), ended())
    async with (
        ChatServer(reply, models=JSONResponse({"data": [{"id": str(tmp_path)}]})) as server,
        NBAgent(str(tmp_path), base_url=server.url, pool=pool) as agent,
    ):
        assert (await agent.run("Who?")).answer == "Kato"
    assert [body["model"] for body in server.bodies] == [str(tmp_path)]


async def test_a_run_of_many_questions_keeps_no_session(pool: LocalPool) -> None:
    chat = ScriptedChat(script(cell("submit_final_answer('x')")))
    async with NBAgent(chat, pool=pool) as agent:
        episodes = await asyncio.gather(*(agent.run(f"{number}?") for number in range(20)))
    assert {episode.answer for episode in episodes} == {"x"}
    assert pool.stats()["open"] == 0


async def test_an_agent_with_servers_can_be_asked_again(pool: LocalPool) -> None:
    pytest.importorskip("mcp")
    server = f"stdio:{sys.executable} {Path(__file__).parents[1] / 'support' / 'mcp_server.py'}"
    agent = NBAgent(ScriptedChat(script(cell("submit_final_answer('x')"))), mcp=[server], pool=pool)
    first = await agent.run("What?")
    names = [tool.name for tool in agent.tools]
    assert (await agent.run("And?")).answer == first.answer == "x"
    assert [tool.name for tool in agent.tools] == names


@pytest.mark.parametrize("memory", ["soft", "hard"])
async def test_a_small_window_is_shared_out(pool: LocalPool, memory: str) -> None:
    turns = Turns(*[cell(f"print('line {number} ' * 3000)") for number in range(4)], cell("submit_final_answer('x')"))

    def policy(messages: Sequence[Message], seed: int) -> str:
        if messages[-1].content.startswith("[What you see is nearly full."):
            raise ContextOverflow("the summary does not fit")
        return turns(messages, seed)

    async with NBAgent(ScriptedChat(policy), pool=pool, memory=memory, max_tokens=3_000) as agent:
        episode = await agent.run("What?")
    assert (episode.status, episode.answer) == ("finished", "x")


async def test_an_endpoint_that_counts_nothing_is_not_believed(pool: LocalPool) -> None:
    class Cached(ScriptedChat):
        async def reply(self, messages: Sequence[Message], sampling: Sampling, **others: Any) -> Completion:
            said = await super().reply(messages, sampling, **others)
            return msgspec.structs.replace(said, usage=Usage(prompt_tokens=0, completion_tokens=5))

    looks = Turns(*[cell("print('word ' * 1500)")] * 8)
    async with NBAgent(Cached(looks), pool=pool, memory="hard", max_tokens=8_000, max_steps=8) as agent:
        await agent.run("What?")
    longest = max(sum(len(message.content) for message in messages) for messages in looks.shown)
    assert longest <= 3 * 8_000


async def test_what_a_tool_raises_by_itself_is_never_taken_for_the_end_of_its_session(pool: LocalPool) -> None:
    """These are what a session raises that is gone."""

    @tool
    def fails(how: str) -> str:
        """Fails as sockets and clients do."""
        raise {"late": TimeoutError("the directory hung up"), "reset": ConnectionResetError("by its peer")}[how]

    for how, told in (("late", "TimeoutError: the directory hung up"), ("reset", "ConnectionResetError: by its peer")):
        chat = ScriptedChat(script(cell(f"try:\n    fails('{how}')\nexcept ToolError as error:\n    print(error)")))
        async with NBAgent(chat, tools=[fails], pool=pool) as agent:
            episode = await agent.run("What?")
        assert episode.failure is not None
        assert (episode.failure.kind, episode.failure.what) == ("tool", f"fails raised {told}")
        (step,) = episode.steps
        assert step.execution is not None
        assert step.execution.status == "ok"


async def test_an_address_in_the_configuration_is_that_of_the_named_model() -> None:
    config = load_config(
        None, ["engine.kind=chat", "engine.model=a", "engine.url=http://127.0.0.1:9/v1", "engine.key="]
    )
    with pytest.raises(EngineError, match=r"cannot reach http://127\.0\.0\.1:9/v1"):
        await NBAgent("b", config=config).__aenter__()
    with pytest.raises(ConfigError, match="base_url = 'http://x' has no effect without the name of a model"):
        NBAgent(None, base_url="http://x", config=config)
