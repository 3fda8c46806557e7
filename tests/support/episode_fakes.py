"""Fakes for episodes: scripted replies, and sessions that execute nothing, but do what a test defines for each code."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from lzero.agent.conversation import TokenModel
from lzero.agent.cutoff import Cutoff
from lzero.agent.episode import run_episode
from lzero.agent.renderer import Renderer
from lzero.agent.setting import Setting, Ticket
from lzero.config import AgentConfig
from lzero.engine.scripted.engine import ScriptedEngine
from lzero.errors import ToolError
from lzero.models import build_tokenizer
from lzero.protocols import OnCall, Repl, Tool, ToolContext, ToolSpec
from lzero.types import Completion, Episode, Error, Execution, Json, Sampling, Stream, Task, WorkspaceFile

TOKENIZER = build_tokenizer()
RENDERER = Renderer(TOKENIZER)
TASK = Task(id="t1", question="Who is the rival of Liri?", answers=("Kato",))
AGENT = AgentConfig(max_steps=4, max_tokens=4000, response_tokens=400)

Cell = Callable[[OnCall], Awaitable[Execution]]
"""The effect of a cell with a given code."""


class FakeRepl:
    def __init__(self, cells: Mapping[str, Cell], on_call: OnCall) -> None:
        self.cells, self.on_call, self.closed = cells, on_call, False
        self.stored: dict[str, bytes] = {}
        self.deadlines: list[float] = []

    async def run(self, code: str, *, deadline_s: float) -> Execution:
        assert not self.closed
        self.deadlines.append(deadline_s)
        return await self.cells[code](self.on_call)

    async def put(self, path: str, data: bytes) -> None:
        self.stored[path] = data

    async def get(self, path: str) -> bytes:
        return self.stored[path]

    async def files(self) -> tuple[WorkspaceFile, ...]:
        return tuple(WorkspaceFile(path=path, size=len(data)) for path, data in self.stored.items())

    async def fork(self, on_call: OnCall, *, seed: int) -> "FakeRepl":
        return FakeRepl(self.cells, on_call)

    async def close(self) -> None:
        self.closed = True


class AnyCode(dict[str, "Cell"]):
    """A mapping with a cell for every code."""

    def __init__(self, cell: "Cell") -> None:
        super().__init__()
        self.cell = cell

    def __missing__(self, code: str) -> "Cell":
        return self.cell


class FakePool:
    """Runs no code: each code string that a test expects has a coroutine for its effect."""

    def __init__(self, cells: Mapping[str, Cell]) -> None:
        self.cells, self.opened, self.seeds = cells, list[FakeRepl](), list[int]()
        self.tools: tuple[str, ...] = ()

    async def open(self, tools: Sequence[ToolSpec], on_call: OnCall, *, seed: int) -> Repl:
        self.tools = tuple(tool.name for tool in tools)
        self.seeds.append(seed)
        self.opened.append(FakeRepl(self.cells, on_call))
        return self.opened[-1]

    async def close(self) -> None: ...

    def stats(self) -> Mapping[str, float]:
        return {}

    def facts(self) -> Mapping[str, Json]:
        return {}


class Echo:
    """A tool that repeats its text, fails or hangs on request."""

    name = "echo"
    parameters = ("text",)
    description = "echo(text: str) -> str\nRepeats."

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        assert context.task is TASK
        if arguments["text"] == "break":
            raise ToolError("the index is gone", fault="tool")
        if arguments["text"] == "hang":
            await asyncio.Event().wait()
        if arguments["text"] == "refuse":
            raise ToolError("not like this", fault="agent")
        return arguments["text"]


def reply(code: str) -> str:
    return f"<think>A thought of some length.</think>\n<code>\n{code}\n</code>"


def cell(text: str) -> Cell:
    async def run(on_call: OnCall) -> Execution:
        return Execution(outputs=(Stream(name="stdout", text=text),), status="ok", duration_s=0.0)

    return run


def nested(depth: int) -> Json:
    value: Json = "deep"
    for _ in range(depth):
        value = [value]
    return value


def calling(name: str, **arguments: Json) -> Cell:
    """Return a cell that calls a tool and prints its result; a ToolError ends it like an exception in a kernel."""

    async def run(on_call: OnCall) -> Execution:
        try:
            result = await on_call(name, arguments)
        except ToolError as error:
            outputs = (Error(ename="ToolError", evalue=str(error), traceback=()),)
            return Execution(outputs=outputs, status="error", duration_s=0.0)
        return Execution(outputs=(Stream(name="stdout", text=f"{result}\n"),), status="ok", duration_s=0.0)

    return run


def raising(error: Exception) -> Cell:
    async def run(on_call: OnCall) -> Execution:
        raise error

    return run


async def killed(on_call: OnCall) -> Execution:
    return Execution(outputs=(), status="killed", duration_s=1.0, reason="exit code 3")


async def hanging(on_call: OnCall) -> Execution:
    await asyncio.Event().wait()
    raise AssertionError


SUBMIT = {"submit": calling("submit_final_answer", answer="Kato")}


class Replies:
    """A policy that gives its replies in turn, and repeats the last; it keeps the transcripts it saw."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.transcripts, self.seeds = replies, list[str](), list[int]()

    def __call__(self, transcript: str, seed: int) -> str:
        self.transcripts.append(transcript)
        self.seeds.append(seed)
        return self.replies[min(len(self.transcripts), len(self.replies)) - 1]


class StuckEngine(ScriptedEngine):
    """Answers `answers` requests; signals the next one, and never answers it."""

    def __init__(self, policy: Replies, *, answers: int, on_stuck: Callable[[], None] = lambda: None) -> None:
        super().__init__(policy, TOKENIZER)
        self._answers, self._on_stuck = answers, on_stuck

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion:
        if self._answers == 0:
            self._on_stuck()
            await asyncio.Event().wait()
        self._answers -= 1
        return await super().sample(ids, sampling, request_id=request_id, affinity=affinity, deadline_s=deadline_s)


async def attempt(
    policy: Replies | ScriptedEngine,
    pool: FakePool,
    *,
    agent: AgentConfig = AGENT,
    tools: Sequence[Tool] = (),
    deadline_s: float = 20.0,
    cutoff: Cutoff | None = None,
) -> Episode:
    engine = policy if isinstance(policy, ScriptedEngine) else ScriptedEngine(policy, TOKENIZER)
    setting = Setting(agent=agent, model=TokenModel(engine, RENDERER, 5.0), pool=pool, deadline_s=deadline_s)
    ticket = Ticket(id="e1", index=2, seed=7, sampling=Sampling(temperature=0.7, top_p=0.9), cutoff=cutoff)
    return await run_episode(TASK, ticket, setting, tools=tools)


def sequences(episode: Episode) -> list[tuple[int, ...]]:
    """Return each step's whole prompt."""
    prompts: list[tuple[int, ...]] = []
    last: tuple[int, ...] = ()
    for step in episode.steps:
        prompts.append((*last[: step.prompt.keep], *step.prompt.new_ids))
        last = (*prompts[-1], *step.completion.token_ids)
    return prompts
