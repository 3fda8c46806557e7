"""One live session in a plain Jupyter kernel, from the host."""

import asyncio
import errno
import json
import secrets
import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Never, TypeVar

import msgspec

from lzero.config import ReplConfig
from lzero.errors import ForkRefused, ProtocolError, ReplDied, SandboxError, ToolError
from lzero.protocols import OnCall, ToolSpec
from lzero.repl import wire
from lzero.repl.clock import Clock
from lzero.repl.files import Allowance, FileLimits, workspace_path
from lzero.repl.jupyter import files as jupyter_files
from lzero.repl.jupyter.kernel import Kernel
from lzero.repl.jupyter.wire import Answer, Message, Outputs, Prompt, is_idle
from lzero.repl.session import GRACE_S
from lzero.types import Execution, WorkspaceFile

_Answer = TypeVar("_Answer")

_OPEN_TIMEOUT_S = 60.0
_LAST_OUTPUTS_S = 2.0
"""How long after a cell's reply the end of its outputs, which come another way, may take."""
_END_OF_INPUT = "\x04"
"""What `input()` of a cell is told: for ipykernel it is the end of the file."""
_MODULES = ("stubs", "bridge")
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


class JupyterRepl:
    """A session without a sandbox. Made by `JupyterPool.open`."""

    def __init__(self, kernel: Kernel, on_call: OnCall, config: ReplConfig) -> None:
        self._kernel = kernel
        self._on_call = on_call
        self._allowance = Allowance(FileLimits.of(config))
        self._max_calls = config.tool_calls
        self._output_chars = 1000 * config.output_kb
        self._nonce = f"lzero {secrets.token_hex(16)} "
        self._loop = asyncio.get_running_loop()
        self._calls = 0
        self._ended = ""
        self._verdict = ""
        self._expired = ""
        self.opened = time.monotonic()
        self.on_close: Callable[[], None] = lambda: None

    async def become(self, tools: Sequence[ToolSpec], seed: int) -> None:
        """Seed a session of Python and give it its stubs. Raises ReplError."""
        settings = {
            "seed": seed,
            "nonce": self._nonce,
            "max_bytes": wire.MAX_FRAME,
            "tools": [
                {"name": tool.name, "parameters": list(tool.parameters), "description": tool.description}
                for tool in tools
            ],
        }
        inside = resources.files("lzero.repl") / "inside"
        modules = [(name, (inside / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
        code = _INSTALL.format(payload=json.dumps({"modules": modules, "settings": settings}))
        try:
            clock = Clock(self._loop.time())
            execution = await self._converse({"code": code, "silent": True}, clock, _OPEN_TIMEOUT_S)
        except (TimeoutError, ConnectionError, ProtocolError) as error:
            raise ReplDied(f"a Jupyter kernel did not take its tools: {await self._why_gone(error)}") from None
        if execution.status != "ok":
            raise SandboxError(f"a Jupyter kernel did not take its tools: {execution.outputs}")

    async def run(self, code: str, *, deadline_s: float) -> Execution:
        """Run one cell. The time that the host's tools take counts neither against `deadline_s` nor in the duration.

        Raises ReplDied if the REPL was already gone, or went without the cell's doing.
        """
        if self._ended:
            raise ReplDied(f"this REPL has ended: {self._ended}")
        self._ended = "its last cell was abandoned"  # unless this one comes to an end
        clock = Clock(self._loop.time())
        request = {"code": code.encode("utf-8", "replace").decode(), "silent": False}
        try:
            execution = await self._converse(request, clock, deadline_s)
        except TimeoutError:
            reason = f"time: the cell ignored its deadline of {deadline_s:g} s and the interrupt"
        except ProtocolError as error:
            reason = f"protocol: {error}"
        except ConnectionError as error:
            if self._expired:
                self._ended = self._expired
                raise ReplDied(f"this REPL has ended: {self._ended}") from None
            reason = self._verdict or f"exit: the session {await self._why_gone(error)}"
        else:
            self._ended = ""
            return execution
        self._ended = reason
        await self._kernel.end()
        return Execution(outputs=(), status="killed", reason=reason, duration_s=clock.duration(self._loop.time()))

    async def fork(self, on_call: OnCall, *, seed: int) -> Never:
        raise ForkRefused("a plain Jupyter kernel cannot be copied; REPLs of the sandbox can")

    async def put(self, path: str, data: bytes) -> None:
        target = workspace_path(path)
        self._allowance.admit(target, len(data))
        await self._carry(target, jupyter_files.put, target, data)

    async def get(self, path: str) -> bytes:
        target = workspace_path(path)
        self._allowance.admit(target, 0)
        return await self._carry(target, jupyter_files.get, target, self._allowance.limits.file_bytes)

    async def files(self) -> tuple[WorkspaceFile, ...]:
        return await self._carry("the workspace", jupyter_files.listing)

    @property
    def host_pids(self) -> tuple[int, ...]:
        """Of the kernel; none once it is gone."""
        return (self._kernel.pid,) if self._kernel.pid else ()

    def objection(self) -> str:
        """No control group holds it."""
        return ""

    async def kill(self, reason: str) -> None:
        """End the session for what it did; its cell, or the next one, answers `killed` with this reason."""
        self._verdict = self._verdict or reason
        await self._kernel.end()

    async def expire(self, reason: str) -> None:
        """End the session for no fault of its own: its cell, or the next one, raises ReplDied with this reason."""
        self._expired = self._expired or reason
        await self._kernel.end()

    async def close(self) -> None:
        """Kill the kernel, its process group and descendants, and remove its files. Safe to call twice."""
        self._ended = self._ended or "it was closed"
        try:
            await self._kernel.end()
        finally:
            self.on_close()

    async def _carry(self, path: str, transfer: Callable[..., _Answer], *arguments: object) -> _Answer:
        """A transfer between two cells, by the host itself. Raises WorkspaceError, and the session lives; ReplDied."""
        if not self._ended and (gone := await self._kernel.why_gone()):
            self._ended = self._expired or self._verdict or f"exit: the session {gone}"
        if self._ended:
            raise ReplDied(f"this REPL has ended: {self._ended}")
        try:
            return await asyncio.to_thread(transfer, self._kernel.directory, *arguments)
        except OSError as error:
            raise self._allowance.refusal(path, error.errno or errno.EIO) from None

    async def _converse(self, request: dict[str, object], clock: Clock, deadline_s: float) -> Execution:
        """Send the cell, answer its calls, return when it is done. Past the deadline it is interrupted, once."""
        asked = self._kernel.ask(
            "execute_request",
            request | {"store_history": True, "user_expressions": {}, "allow_stdin": True, "stop_on_error": True},
        )
        outputs = Outputs(self._output_chars)
        allowed, interrupted = deadline_s, ""
        reply: Answer | None = None
        idle = False
        while reply is None or not idle:
            try:
                clock.check(self._loop.time(), allowed)
                channel, message = await self._kernel.receive(until=clock.until(allowed))
            except TimeoutError:
                if reply is not None:
                    outputs.lost()
                    await self._kernel.listen_again()
                    break
                if interrupted:
                    raise
                allowed = clock.duration(self._loop.time()) + GRACE_S
                interrupted = await self._interrupt()
                continue
            if channel == "stdin" and message.kind == "input_request":
                await self._answer(message, clock)
            elif message.parent not in (asked, interrupted):
                continue  # of an earlier cell
            elif channel == "iopub":
                outputs.add(message)
                idle = idle or is_idle(message)
            elif message.kind in ("execute_reply", "kernel_info_reply"):
                reply, duration_s = message.read(Answer), clock.duration(self._loop.time())
                allowed = duration_s + _LAST_OUTPUTS_S
        return Execution(
            outputs=outputs.take(),
            status="timed_out" if interrupted else "ok" if reply.status == "ok" else "error",
            duration_s=duration_s,
            reason=f"interrupted after {deadline_s:g} s" if interrupted else "",
        )

    async def _interrupt(self) -> str:
        """Interrupt the cell, and ask a question whose answer comes after it: the id of that.

        A kernel that the interrupt met outside of the cell's own code may never answer the cell; and the question wakes an
        ipykernel that has heard of the interrupt, but waits for something to do.
        """
        await self._kernel.interrupt()
        return self._kernel.ask("kernel_info_request", {})

    async def _answer(self, message: Message, clock: Clock) -> None:
        """A call of a tool; or `input()` of a cell, which is at its end."""
        prompt = message.read(Prompt).prompt
        if not prompt.startswith(self._nonce):
            self._kernel.reply(_END_OF_INPUT)
            return
        call = wire.decode(prompt.removeprefix(self._nonce).encode("utf-8", "replace"))
        if not isinstance(call, wire.Call) or call.id <= self._calls:
            raise ProtocolError("a prompt that is no call, or one that was answered before")
        self._calls = call.id
        asked = self._loop.time()
        try:
            if call.id > self._max_calls:
                raise ToolError(f"a session may make {self._max_calls:,} tool calls, no more", fault="agent")
            reply = wire.Reply(value=await self._on_call(call.name, wire.arguments_of(call)))
        except ToolError as error:
            reply = wire.Reply(error=str(error))
        clock.waited += self._loop.time() - asked
        self._kernel.reply(_encoded(reply))

    async def _why_gone(self, error: Exception) -> str:
        return await self._kernel.why_gone() or str(error)


def _encoded(reply: wire.Reply) -> str:
    try:
        return wire.encode(reply)[wire.HEADER.size :].decode()
    except (ProtocolError, TypeError, OverflowError, UnicodeEncodeError, msgspec.EncodeError) as error:
        return _encoded(wire.Reply(error=f"the answer cannot be sent: {error}"))
