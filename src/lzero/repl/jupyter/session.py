"""Control a live session in a plain Jupyter kernel from the host."""

import asyncio
import errno
import importlib
import json
import secrets
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Never, TypeVar

import msgspec

from lzero.config import ReplConfig
from lzero.errors import ForkRefused, ProtocolError, ReplDied, SandboxError
from lzero.protocols import OnCall, ToolSpec, stub_of
from lzero.repl import wire
from lzero.repl.cells import BROKEN, BaseRepl, Clock
from lzero.repl.files import Allowance, workspace_path
from lzero.repl.jupyter.kernel import Kernel
from lzero.repl.jupyter.wire import Message, Outputs, Prompt, ReplyStatus, is_idle
from lzero.types import Execution, WorkspaceFile

_Result = TypeVar("_Result")
# Modules for the jail import nothing of lzero, so the host can import them too.
_beneath = importlib.import_module("lzero.repl.inside.beneath")

_OPEN_TIMEOUT_S = 60.0
_LAST_OUTPUTS_S = 2.0
"""Seconds after a cell's reply within which its last outputs must arrive; they come over another channel."""
_END_OF_INPUT = "\x04"
"""The answer to `input()` of a cell. ipykernel takes it for the end of the file."""
_DEEPEST = 64
"""The deepest level of directories that a listing enters; each level takes a descriptor of the host."""
_MODULES = ("stubs", "frames", "bridge")
_INSTALL = """
def __lzero(names, payload):
    import sys, types
    for name, source in payload["modules"]:
        module = sys.modules[name] = types.ModuleType(name)
        exec(compile(source, "<" + name + ">", "exec"), module.__dict__)
    for name, _ in payload["modules"]:
        del sys.modules[name]
    module.install(names, payload["settings"])
__lzero(globals(), __import__("json").loads({payload!r}))
del __lzero
"""


class JupyterRepl(BaseRepl):
    """A session without a sandbox. `JupyterPool.open` makes it."""

    def __init__(self, kernel: Kernel, on_call: OnCall, config: ReplConfig) -> None:
        super().__init__(on_call, config)
        self._kernel = kernel
        self._allowance = Allowance(config)
        self._nonce = f"lzero {secrets.token_hex(16)} "
        self._last_call = 0

    async def become(self, tools: Sequence[ToolSpec], seed: int) -> None:
        """Seed a Python session, and give it its stubs. Raises ReplError."""
        settings = {
            "seed": seed,
            "nonce": self._nonce,
            "tools": msgspec.to_builtins([*map(stub_of, tools)]),
        }
        inside = resources.files("lzero.repl") / "inside"
        modules = [(name, (inside / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
        code = _INSTALL.format(payload=json.dumps({"modules": modules, "settings": settings}))
        try:
            execution = await self._converse(code, Clock(_OPEN_TIMEOUT_S), silent=True)
        except BROKEN as error:
            raise ReplDied(f"a Jupyter kernel did not take its tools: {await self._why_gone() or error}") from None
        if execution.status != "ok":
            raise SandboxError(f"a Jupyter kernel did not take its tools: {execution.outputs}")

    async def fork(self, on_call: OnCall, *, seed: int) -> Never:
        raise ForkRefused("a plain Jupyter kernel cannot be copied; REPLs of the sandbox can")

    async def put(self, path: str, data: bytes) -> None:
        target = workspace_path(path)
        self._allowance.admit(target, len(data))
        await self._carry(target, _put, target, data)

    async def get(self, path: str) -> bytes:
        target = workspace_path(path)
        self._allowance.admit(target, 0)
        return await self._carry(target, _get, target, self._allowance.file_bytes)

    async def files(self) -> tuple[WorkspaceFile, ...]:
        return await self._carry("the workspace", _listing)

    @property
    def host_pids(self) -> tuple[int, ...]:
        """The pid of the kernel; () after its end."""
        return (self._kernel.pid,) if self._kernel.pid else ()

    async def _carry(self, path: str, transfer: Callable[..., _Result], *arguments: object) -> _Result:
        """Transfer a file between two cells, on the host. Raises WorkspaceError, after which the session lives, or ReplDied."""
        if not self._ending.why and (gone := await self._why_gone()):
            self._ending.why = self._expired or self._verdict or f"exit: the session {gone}"
        if not self._ending.in_call:
            self._ending.check()
        try:
            return await asyncio.to_thread(transfer, self._kernel.directory, *arguments)
        except OSError as error:
            raise self._allowance.refusal(path, error.errno or errno.EIO) from None

    async def _converse(self, code: str, clock: Clock, *, silent: bool = False) -> Execution:
        always = {"store_history": True, "user_expressions": {}, "allow_stdin": True, "stop_on_error": True}
        asked = [self._kernel.ask("execute_request", {"code": code, "silent": silent} | always)]
        outputs = Outputs(self._output_chars)
        reply: ReplyStatus | None = None
        idle = False
        while reply is None or not idle:
            try:
                channel, message = await self._kernel.receive(until=clock.until())
            except TimeoutError:
                if reply is not None:
                    outputs.lost()
                    await self._kernel.listen_again()
                    break
                clock.interrupt()
                asked.append(await self._interrupt())
                continue
            if channel == "stdin" and message.kind == "input_request":
                self._kernel.reply(await self._answer_prompt(message, clock))
            elif message.parent not in asked:
                continue  # of an earlier cell
            elif channel == "iopub":
                outputs.add(message)
                idle = idle or is_idle(message)
            elif message.kind in ("execute_reply", "kernel_info_reply"):
                reply, duration_s = message.read(ReplyStatus), clock.duration_s
                clock.allow(_LAST_OUTPUTS_S)
        return clock.execution("ok" if reply.status == "ok" else "error", outputs.take(), duration_s)

    async def _interrupt(self) -> str:
        """Interrupt the cell, and send a request whose answer comes after the interrupt. Return that request's id.

        If the interrupt hit the kernel outside of the cell's code, the kernel may never answer the cell. The request also wakes an
        ipykernel that received the interrupt, but waits for its next message.
        """
        await self._kernel.interrupt()
        return self._kernel.ask("kernel_info_request", {})

    async def _answer_prompt(self, message: Message, clock: Clock) -> str:
        """Answer a tool call, or end the input for an `input()` of the cell."""
        prompt = message.read(Prompt).prompt
        if not prompt.startswith(self._nonce):
            return _END_OF_INPUT
        call = wire.decode(prompt.removeprefix(self._nonce).encode("utf-8", "replace"))
        if not isinstance(call, wire.Call) or call.id <= self._last_call:  # an interrupt may have lost some in between
            raise ProtocolError("a prompt that is no call, or one that was answered before")
        self._last_call = call.id
        return (await self._answer(call, clock))[wire.HEADER.size :].decode()

    async def _kill(self) -> None:
        """Kill the kernel, its process group and descendants, and remove its files."""
        await self._kernel.end()

    async def _why_gone(self) -> str:
        return await self._kernel.why_gone()


def _put(workspace: Path, path: str, data: bytes) -> None:
    with _beneath.written(str(workspace), path) as file:
        file.write(data)


def _get(workspace: Path, path: str, max_bytes: int) -> bytes:
    with _beneath.opened(str(workspace), path) as file:
        data: bytes = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, "too large")
    return data


def _listing(workspace: Path) -> tuple[WorkspaceFile, ...]:
    files = []
    for path, size in _beneath.regular_files(str(workspace), deepest=_DEEPEST):
        files.append(WorkspaceFile(path=path, size=size))
        if len(files) > wire.MAX_LISTED:
            raise OSError(errno.E2BIG, "more than a listing may hold")
    return tuple(files)
