"""The seams. Everything behind one of these can be replaced without touching what is in front of it.

Two more interfaces need torch and are not here: `Loss` in `lzero.algo.loss`, and `Learner`, which learns from groups of episodes, in
`lzero.train.learner`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from lzero.types import (
    Completion,
    Execution,
    Json,
    Message,
    Passage,
    Sampling,
    Task,
    WorkspaceFile,
)

OnCall = Callable[[str, dict[str, Json]], Awaitable[Json]]
"""How a tool call leaves a kernel: (name, arguments) → value. Raises ToolError; its message is what the agent sees."""


OnText = Callable[[str, str], None]
"""Told of pieces of a reply as they come: ("reasoning" or "text", piece), and ("restart", "") when the reply is begun anew after a
failure, so that what was told of it is void."""


class Repl(Protocol):
    """A live Python session in a jail. Single use: one episode, then `close()`."""

    async def run(self, code: str, *, deadline_s: float) -> Execution:
        """Run one cell. What ignores the deadline is interrupted, then killed. Raises ReplDied if the REPL was already
        gone, or went without the cell's doing."""

    async def put(self, path: str, data: bytes) -> None:
        """Write a file of the workspace, between cells; `path` is relative to it, and its directories are made.

        This, `get` and `files` raise WorkspaceError for what the asker did wrong (a path that leaves the workspace, a file
        that is not there, not regular, too large, too many), and the REPL lives on; ReplError where the REPL is gone, or
        breaks the protocol and is killed for it."""

    async def get(self, path: str) -> bytes:
        """Read a regular file of the workspace, between cells or while a tool call is answered. What comes is agent output. Raises as
        `put` does."""

    async def files(self) -> tuple[WorkspaceFile, ...]:
        """The regular files of the workspace, between cells; no links. Raises as `put` does."""

    async def fork(self, on_call: OnCall, *, seed: int) -> "Repl":
        """A copy, between two cells: variables, imports and files included, with limits of its own, `random` and numpy seeded
        anew, tool calls answered by `on_call`. Raises ForkRefused where it cannot be copied safely, and goes on; ReplDied where it
        is gone."""

    async def close(self) -> None:
        """Kill the session and everything it started. Safe to call twice."""


class ToolSpec(Protocol):
    """What a kernel needs to know of a tool to make its stub."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, in order; the stub accepts them by position or by keyword."""

    @property
    def description(self) -> str:
        """Signature and purpose, as the model and `help()` read them."""


@runtime_checkable
class WithKernelSource(Protocol):
    """A tool that is more than a function to a session: `kernel_source` is run there, once, and binds the tool's name.

    It finds `ask(**arguments)`, which calls the tool on the host, and `ToolError`; the standard library is there to import."""

    @property
    def kernel_source(self) -> str: ...


@runtime_checkable
class WithRecord(Protocol):
    """A tool whose answers may be more than a record should hold: `on_record` gives what is written down of one."""

    def on_record(self, result: Json) -> Json: ...


@runtime_checkable
class Tool(ToolSpec, Protocol):
    """What an agent may call. The kernel gets a stub; the host runs it."""

    async def call(self, arguments: dict[str, Json], context: "ToolContext") -> Json:
        """Return plain JSON data, or what becomes JSON (`lzero.tools.values`). Raises ToolError, with whose fault it is. Any other
        exception is a bug of the tool: the episode fails with its words, and its traceback is logged."""


class ToolContext(Protocol):
    """What a tool may know of the episode that calls it."""

    @property
    def task(self) -> Task: ...

    async def read_file(self, path: str) -> bytes:
        """A regular file of the session's workspace, as it is at this moment: agent output. Raises ToolError, the agent's fault, for
        a path that leaves the workspace, and for a file that is not there, not regular or too large."""


class ReplPool(Protocol):
    """Hands out REPLs."""

    async def open(self, tools: Sequence[ToolSpec], on_call: OnCall, *, seed: int) -> Repl:
        """A fresh REPL with a stub for every tool. Raises ReplError (ours to retry)."""

    async def close(self) -> None:
        """Close every REPL and what serves them; nothing is left behind."""

    def stats(self) -> Mapping[str, float]:
        """Gauges and counters by name, for whoever looks on: REPLs `open` now, `opened` in all."""

    def facts(self) -> Mapping[str, Json]:
        """What shuts the REPLs in, for the record of a run: `tier`, and what it is made of."""


class Engine(Protocol):
    """Samples tokens from a policy."""

    @property
    def version(self) -> int:
        """The policy version whose weights are in use."""

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion:
        """Continue `ids`. Requests of one `affinity` (an episode) share a prefix that the engine may keep.
        Raises EngineError, also when `deadline_s` seconds have passed."""

    async def score(self, ids: Sequence[int]) -> tuple[float, ...]:
        """Log-probability (temperature 1) of each token given those before it; 0.0 for the first. Raises EngineError, also
        when there is no model that could tell (a scripted policy)."""

    async def pause(self) -> None:
        """Sample nothing until `resume`, as for new weights; requests wait. Raises EngineError."""

    async def resume(self) -> None:
        """Go on after `pause`."""

    def stats(self) -> Mapping[str, float]:
        """Gauges by name, for whoever looks on: requests `running` and `waiting` now."""

    async def forget(self, affinity: str) -> None:
        """The episode is over: what was kept for it may go."""

    async def close(self) -> None: ...


class ChatEngine(Protocol):
    """Answers conversations in words: a model whose tokens are nobody's business here. Good for acting, not for training."""

    @property
    def model(self) -> str:
        """Its name, as the endpoint knows it."""

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        request_id: str,
        deadline_s: float,
        on_text: OnText | None = None,
    ) -> Completion:
        """The assistant's next message: `text`, ending with the stop string that ended it, `reasoning`, and `usage`; no token ids.
        Raises EngineError, also when `deadline_s` seconds have passed; ContextOverflow, which is one, where the messages and the reply
        do not fit into the model's context."""

    async def close(self) -> None: ...


class Scene(Protocol):
    """The world of one episode: tools that act on it, and its state."""

    @property
    def tools(self) -> Sequence[Tool]:
        """Tools of this episode, in addition to the agent's own."""

    @property
    def observation(self) -> str:
        """What the agent sees of the world before its first step, after the question; "" for nothing."""

    async def outcome(self) -> Mapping[str, Json] | None:
        """The state at the end, for rewards: plain data, recorded with the episode; None for a world without a state. Asked for once,
        when the agent's session is over."""


class Environment(Protocol):
    """A world to act in. A configuration names it by `environment.use`."""

    def scene(self, task: Task, *, seed: int) -> AbstractAsyncContextManager[Scene]:
        """Return the scene of one episode of `task`; it lasts as long as the episode. The episodes of a group get the same seed, and
        each gets a scene of its own. An exception fails the episode (kind environment)."""

    async def close(self) -> None:
        """Let go of what its scenes share."""


@runtime_checkable
class WithFiles(Protocol):
    """An environment that reads files of the user's. A resumed run must find them unchanged."""

    def reads(self) -> Mapping[str, Path]:
        """Return name → the file or directory that it reads."""


class SearchIndex(Protocol):
    """Ranked passages for a query."""

    def search(self, query: str, *, limit: int) -> list[Passage]: ...


class TaskSource(Protocol):
    """Tasks by position: the same seed and index give the same task, so that a source resumes at any index."""

    def __len__(self) -> int:
        """Number of different tasks; `sys.maxsize` where no end is in sight."""

    def task(self, index: int) -> Task:
        """The task at `index`, from 0. Beyond `len` a source for training goes round again; one for evaluation raises
        IndexError."""


Policy = Callable[[str, int], str]
"""A scripted policy: (the whole decoded transcript, seed) → the assistant's reply."""

ChatPolicy = Callable[[Sequence[Message], int], str]
"""A scripted policy in words: (the conversation, seed) → the assistant's reply."""
