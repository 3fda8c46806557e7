"""The agent and model servers that others wrote: `make test-servers` installs them, starts them and runs this.

`make test` meets servers only as tests/support/chat_servers.py plays them. Here the words, the streams and the failures are those of the
programs themselves, with the bundled nano model, which solves questions of one hop. What else the agent speaks to is met for
real in `make test`: MCP servers (tests/tools/test_mcp.py), pages over HTTP on loopback (test_web.py, test_read_page.py)
and Jupyter, which runs a saved notebook (test_saved_runs.py).
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from commands import succeed
from model_servers import PROGRAMS, ModelServer, is_installed, served
from set_files import make_set, tasks_of

from lzero.agent import NBAgent
from lzero.agent.parser import parse
from lzero.agent.prompt import task_turn
from lzero.agent.renderer import Renderer
from lzero.config import AgentConfig
from lzero.data.manifest import read_manifest
from lzero.data.world import WorldSource
from lzero.engine.chat.engine import OpenAIChat
from lzero.errors import EngineError
from lzero.models import load_tokenizer, resolve
from lzero.store import read_saved
from lzero.types import Message, Sampling, Task

pytestmark = [pytest.mark.servers, pytest.mark.sandbox, pytest.mark.timeout(600)]

AGENT = AgentConfig(past_thoughts="text")
"""The nano's: how it was trained, with its thoughts in view, which `transformers serve` tells apart and vLLM does not."""
TASKS = [WorldSource(0, "servers", hops=(1,)).task(index) for index in range(3)]
GREEDY = Sampling(temperature=0.0, max_tokens=AGENT.response_tokens, stop=("</code>",))
COMMAND = (sys.executable, "-c", "from lzero.cli import main; main()", "run")


@pytest.fixture(scope="module", params=PROGRAMS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    name = request.param
    if not is_installed(name):
        pytest.skip(f"make test-servers SERVERS={name} installs it")
    with served(name, tmp_path_factory.mktemp(name)) as server:
        yield server


def asked(task: Task) -> list[Message]:
    return [Message(role="user", content=task_turn(AGENT, task.question))]


async def test_a_reply_streams_ends_with_its_stop_string_and_is_counted(server: ModelServer) -> None:
    told: list[tuple[str, str]] = []
    chat = OpenAIChat(server.model, base_url=server.url)
    try:
        await chat.check()
        completion = await chat.reply(
            asked(TASKS[0]),
            GREEDY,
            request_id="a",
            deadline_s=60.0,
            on_text=lambda kind, piece: told.append((kind, piece)),
        )
    finally:
        await chat.close()
    start = TASKS[0].question.removeprefix("Starting from ").partition(",")[0]
    assert parse(completion.text).code == f'print(search("{start}"))'
    assert completion.text.endswith("</code>")
    assert completion.stop_reason == "stop"
    assert len(told) > 1
    for kind, whole in (("text", completion.text), ("reasoning", completion.reasoning)):
        assert "".join(piece for name, piece in told if name == kind) == whole
    assert completion.usage is not None
    prompt = Renderer(load_tokenizer(resolve("nano"))).start(None, asked(TASKS[0])[0].content)
    assert completion.usage.prompt_tokens == len(prompt), "the words become the tokens that it was trained on"
    assert 0 < completion.usage.completion_tokens < GREEDY.max_tokens


async def test_a_reply_ends_for_its_length(server: ModelServer) -> None:
    chat = OpenAIChat(server.model, base_url=server.url)
    try:
        short, longer = [
            await chat.reply(
                asked(TASKS[0]),
                Sampling(temperature=0.0, max_tokens=max_tokens),
                request_id=f"{max_tokens} tokens",
                deadline_s=60.0,
            )
            for max_tokens in (3, 12)
        ]
    finally:
        await chat.close()
    for completion, num_tokens in ((short, 3), (longer, 12)):
        assert completion.stop_reason == "length"
        assert completion.usage is not None
        assert completion.usage.completion_tokens == num_tokens
    assert longer.text.startswith(short.text)


async def test_replies_at_once_do_not_mix(server: ModelServer) -> None:
    chat = OpenAIChat(server.model, base_url=server.url)
    try:
        alone = [await chat.reply(asked(task), GREEDY, request_id=task.id, deadline_s=60.0) for task in TASKS]
        together = await asyncio.gather(
            *(chat.reply(asked(task), GREEDY, request_id=task.id, deadline_s=60.0) for task in TASKS)
        )
    finally:
        await chat.close()
    assert together == alone
    assert len({completion.text for completion in together}) == len(TASKS)


async def test_the_agent_solves_what_its_model_can(server: ModelServer) -> None:
    for task in TASKS:
        settings = AGENT.model_dump(
            include={"past_thoughts", "prompt", "notepad", "memory", "max_steps", "max_tokens", "response_tokens"}
        )
        async with NBAgent(server.model, base_url=server.url, temperature=0.0, seed=0, **settings) as agent:
            episode = await agent.run(task)
        assert (episode.status, (episode.answer,)) == ("finished", task.answers), episode
        assert [step.parsed.problem for step in episode.steps] == [""] * len(episode.steps)
        assert all(step.completion.usage is not None for step in episode.steps)


def test_lzero_run_answers_in_the_terminal_and_keeps_the_run(server: ModelServer, tmp_path: Path) -> None:
    task = TASKS[0]
    corpus = tmp_path / "passages.jsonl"
    corpus.write_bytes(msgspec.json.Encoder().encode_lines(task.passages))
    answers = []
    for seed in range(5):  # it samples at temperature 1, as most servers do, so that the nano does not always get there
        out = tmp_path / f"run-{seed}"
        ending = lzero_run(task, server, corpus, out, seed=seed)
        saved = read_saved(out)
        assert saved.model == server.model
        assert {file.name for file in out.iterdir()} >= {"episode.jsonl", "notebook.ipynb"}
        assert (saved.episode.answer or "no answer was submitted") in ending
        answers.append(saved.episode.answer)
        if saved.episode.answer in task.answers:
            break
    assert answers[-1] in task.answers, answers


def lzero_run(task: Task, server: ModelServer, corpus: Path, out: Path, *, seed: int) -> str:
    """Return the output of the command below its last step."""
    changes = (
        *(
            f"agent.response_tokens={AGENT.response_tokens}",
            "agent.prompt=brief",
            "agent.notepad=false",
            "agent.past_thoughts=text",
        ),
        *("environment.options.results=1", f"run.seed={seed}"),
    )
    done = subprocess.run(
        (
            *(*COMMAND, task.question, "--model", server.model, "--base-url", server.url, "--corpus", str(corpus)),
            *("--memory", "none", "--max-steps", str(AGENT.max_steps), "--max-tokens", str(AGENT.max_tokens)),
            *(part for change in changes for part in ("--set", change)),
            *("--out", str(out)),
        ),
        env={**os.environ, "XDG_CACHE_HOME": str(out.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("──")[2]


def test_a_judge_that_knows_no_ratings_gives_none(server: ModelServer, tmp_path: Path) -> None:
    made = make_set(tmp_path / "made", *TASKS)
    judge = (f"judge.model={server.model}", f"judge.url={server.url}", "judge.key=", "judge.max_tokens=32")
    succeed("data", "assess", made, *judge, "--tries", "2", "--out", str(tmp_path / "rated"))
    manifest = read_manifest(tmp_path / "rated")
    assert manifest.counts == {"rated": 0, "malformed": len(TASKS), "unanswered": 0}
    assert [task.metadata for task in tasks_of(tmp_path / "rated")] == [task.metadata for task in TASKS]


async def test_a_model_that_it_does_not_have_is_told(server: ModelServer) -> None:
    chat = OpenAIChat("nobody/nothing", base_url=server.url)
    try:
        with pytest.raises(EngineError, match="nobody/nothing"):
            await chat.check()
    finally:
        await chat.close()


async def test_an_address_that_is_not_its_own_is_told(server: ModelServer) -> None:
    wrong = server.url.removesuffix("/v1")
    chat = OpenAIChat(server.model, base_url=wrong)
    try:
        with pytest.raises(EngineError, match="check that the address ends in /v1"):
            await chat.check()
    finally:
        await chat.close()
