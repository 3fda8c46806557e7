"""The interfaces. Each implementation can be replaced without a change of its users.

Two more interfaces need torch and are not here: `Loss` in `lzero.algo.loss`, and `Learner`, which learns from groups of episodes, in
`lzero.train.learner`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

from msgspec import Meta, Struct

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
"""Handles a tool call of a kernel: (name, arguments) → value. Raises ToolError; the agent sees its message."""


OnText = Callable[[str, str], None]
"""Receives pieces of a reply while it is streamed: ("reasoning" or "text", piece). ("restart", "") voids earlier pieces when the reply
begins again after a failure."""


class Repl(Protocol):
    """A live Python session in a jail. Single use: one episode, then `close()`."""

    async def run(self, code: str, *, deadline_s: float) -> Execution:
        """Run one cell. A cell that exceeds the deadline is interrupted, then killed.

        Raises ReplDied if the REPL had already ended, or ended through no fault of the cell.
        """

    async def put(self, path: str, data: bytes) -> None:
        """Write a file of the workspace, between cells. `path` is relative to the workspace; missing directories are made.

        `put`, `get` and `files` raise WorkspaceError for a mistake of the caller (a path outside of the workspace, a file that is missing,
        not regular, or too large, too many files), and the REPL continues. They raise ReplError if the REPL has ended, or is killed for
        breaking the protocol.
        """

    async def get(self, path: str) -> bytes:
        """Read a regular file of the workspace, between cells or during a tool call. The content is agent output. Raises as `put` does."""

    async def files(self) -> tuple[WorkspaceFile, ...]:
        """Return the regular files of the workspace, without links, between cells. Raises as `put` does."""

    async def fork(self, on_call: OnCall, *, seed: int) -> "Repl":
        """Return a copy, between two cells: with variables, imports and files, its own limits, and `random` and numpy seeded anew.

        `on_call` answers its tool calls. Raises ForkRefused if it cannot be copied safely, after which it continues; ReplDied if it has
        ended.
        """

    async def close(self) -> None:
        """Kill the session and everything it started. Safe to call twice."""


class ToolSpec(Protocol):
    """The description of a tool from which a kernel makes its stub."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, in order; the stub accepts them by position or by keyword."""

    @property
    def description(self) -> str:
        """Signature and purpose, for the model and `help()`."""


@runtime_checkable
class WithKernelSource(Protocol):
    """A tool that is more than a function in a session: `kernel_source` runs there once, and binds the tool's name.

    It may use `ask(**arguments)`, which calls the tool on the host, `ToolError`, and the standard library.
    """

    @property
    def kernel_source(self) -> str: ...


MAX_PARAMETERS = 256
"""The most parameters of a tool."""


class ToolStub(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Description of a tool, as data, by which a session calls it. Sent to sessions, and saved with episodes. Implements `ToolSpec`."""

    name: str
    parameters: Annotated[tuple[str, ...], Meta(max_length=MAX_PARAMETERS)]
    description: str = ""
    kernel_source: str = ""
    """Source of the session's side of a tool (`WithKernelSource`); "" for a plain function."""


def stub_of(tool: ToolSpec) -> ToolStub:
    """Return the description of a tool as data."""
    return ToolStub(
        name=tool.name,
        parameters=tuple(tool.parameters),
        description=tool.description,
        kernel_source=tool.kernel_source if isinstance(tool, WithKernelSource) else "",
    )


@runtime_checkable
class WithRecord(Protocol):
    """A tool with answers too large for a record: `on_record` returns the recorded form of one."""

    def on_record(self, result: Json) -> Json: ...


@runtime_checkable
class Tool(ToolSpec, Protocol):
    """A tool that an agent may call. The kernel gets a stub; the host runs the tool."""

    async def call(self, arguments: dict[str, Json], context: "ToolContext") -> Json:
        """Return plain JSON data, or a value that converts to JSON (`lzero.tools.values`).

        Raises ToolError with the party at fault. Any other exception is a bug of the tool: the episode fails with its message, and its
        traceback is logged.
        """


class ToolContext(Protocol):
    """The part of an episode that a tool may see."""

    @property
    def task(self) -> Task: ...

    async def read_file(self, path: str) -> bytes:
        """Return a regular file of the session's workspace, at this moment: agent output.

        Raises ToolError, the agent's fault, for a path outside of the workspace, and for a file that is missing, not regular or too large.
        """


class ReplPool(Protocol):
    """Opens REPLs."""

    async def open(self, tools: Sequence[ToolSpec], on_call: OnCall, *, seed: int) -> Repl:
        """Open a REPL with a stub for every tool. Raises ReplError, which lzero may retry."""

    async def close(self) -> None:
        """Close every REPL and what serves them, and leave nothing behind."""

    def stats(self) -> Mapping[str, float]:
        """Return gauges and counters by name, for displays: REPLs `open` now, `opened` in all."""

    def facts(self) -> Mapping[str, Json]:
        """Return what isolates the REPLs, for the record of a run: `tier`, and its parts."""


class Engine(Protocol):
    """Samples tokens from a policy."""

    @property
    def version(self) -> int:
        """The policy version of the weights in use."""

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion:
        """Continue `ids`. Requests of one `affinity` (an episode) share a prefix that the engine may keep.

        Raises EngineError, also after `deadline_s` seconds.
        """

    async def score(self, ids: Sequence[int]) -> tuple[float, ...]:
        """Return the log-probability (temperature 1) of each token given those before it; 0.0 for the first.

        Raises EngineError, also if there is no model (a scripted policy).
        """

    async def pause(self) -> None:
        """Sample nothing until `resume`, for example to load weights; requests wait. Raises EngineError."""

    async def resume(self) -> None:
        """Continue after `pause`."""

    async def forget(self, affinity: str) -> None:
        """Drop what is kept for an episode that has ended."""

    async def close(self) -> None: ...


class ChatEngine(Protocol):
    """A model that replies to conversations in words, without visible tokens. For acting, not for training."""

    @property
    def model(self) -> str:
        """The model's name at the endpoint."""

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        request_id: str,
        deadline_s: float,
        on_text: OnText | None = None,
    ) -> Completion:
        """Return the assistant's next message: `text`, with the stop string that ended it, `reasoning`, and `usage`; no token ids.

        Raises EngineError, also after `deadline_s` seconds, and its subclasses: ContextOverflow if messages and reply exceed the model's
        context, ContentRefused if the endpoint's content filter refuses the messages.
        """

    async def close(self) -> None: ...


class Scene(Protocol):
    """The world of one episode: tools that act on it, and its state."""

    @property
    def tools(self) -> Sequence[Tool]:
        """Tools of this episode, in addition to the agent's own."""

    @property
    def observation(self) -> str:
        """Text about the world that the agent sees before its first step, after the question; "" for none."""

    async def outcome(self) -> Mapping[str, Json] | None:
        """Return the final state as plain data, for rewards and the record; None for a world without a state.

        It is called once, after the agent's session has ended.
        """


class Environment(Protocol):
    """A world to act in. A configuration names it by `environment.use`."""

    def scene(self, task: Task, *, seed: int) -> AbstractAsyncContextManager[Scene]:
        """Return the scene of one episode of `task`; it lasts as long as the episode.

        Each episode gets its own scene; the episodes of a group get the same seed. An exception fails the episode (kind environment).
        """

    async def close(self) -> None:
        """Release what its scenes share."""


@runtime_checkable
class WithFiles(Protocol):
    """An environment that reads a user's files. A resumed run must find them unchanged."""

    def reads(self) -> Mapping[str, Path]:
        """Return name → the file or directory that it reads."""


class SearchIndex(Protocol):
    """Returns ranked passages for a query."""

    def search(self, query: str, *, limit: int) -> list[Passage]: ...


class TaskSource(Protocol):
    """Tasks by position: the same seed and index give the same task, so a source can resume at any index."""

    def __len__(self) -> int:
        """Return the number of different tasks; `sys.maxsize` for an endless source."""

    def task(self, index: int) -> Task:
        """Return the task at `index`, from 0. Beyond `len`, a source for training starts over; one for evaluation raises IndexError."""


Policy = Callable[[str, int], str]
"""A scripted policy: (the whole decoded transcript, seed) → the assistant's reply."""

ChatPolicy = Callable[[Sequence[Message], int], str]
"""A scripted policy in words: (the conversation, seed) → the assistant's reply."""
