"""Open REPLs on this machine: a jail for each warm zygote, a fork for each REPL."""

import asyncio
import logging
import os
import platform
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict

from lzero.closing import Service, closed_on_error
from lzero.config import ReplConfig
from lzero.errors import ConfigError, ReplDied, ReplError, SandboxError
from lzero.protocols import OnCall, ToolSpec, stub_of
from lzero.repl import cgroups, environment, jail, processes, programs, watchdog
from lzero.repl.cgroups import Groups
from lzero.repl.connection import Connection
from lzero.repl.environment import Environment
from lzero.repl.jail import Limits
from lzero.repl.keys import SANDBOXED, check_acting
from lzero.repl.session import LocalRepl
from lzero.repl.supervisor import Supervisor
from lzero.repl.unbounded import unbounded
from lzero.repl.zygote_handle import ZygoteHandle
from lzero.types import Error, Execution, Json

logger = logging.getLogger(__name__)
_OPENING_AT_ONCE = 4
"""REPLs that one zygote opens at once: it forks one, while some others become sessions."""
_PROBE = """
import os
status = {line.partition(":")[0]: line.partition(":")[2].strip() for line in open("/proc/self/status")}
assert os.getpid() == 2 and [name for name in os.listdir("/proc") if name.isdigit()] == ["2"], "pids of others are visible"
assert os.getuid() != 0 and int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, "capabilities are left"
assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", "system calls are not filtered"
assert open("/proc/sys/user/max_user_namespaces").read().strip() == "0", "a further user namespace could be made"
assert len(open("/proc/net/dev").read().splitlines()) == 3, "there is a network device beside loopback"
"""


class LocalPool(Service):
    """Pool of REPLs on this machine; implements `ReplPool`.

        async with LocalPool(config.repl) as pool:
            repl = await pool.open(tools, on_call, seed=7)

    The pool awaits `on_call(name, arguments)` on the host for every tool call of that REPL.
    """

    def __init__(
        self, config: ReplConfig | None = None, *, limits: Limits | None = None, without: Collection[str] = ()
    ) -> None:
        """`without`: defences to leave out ("seccomp", "network", "nesting"), for tests that show what each is good for. No configuration
        sets it. Raises ConfigError for a key without effect."""
        self._without = tuple(without)
        self._config = config or ReplConfig()
        if self._config.tier == "unsandboxed":
            raise ConfigError(
                "repl.tier = 'unsandboxed' is a plain Jupyter kernel, and this pool runs sandboxed REPLs only"
            )
        check_acting(self._config, SANDBOXED, "only repl.tier = 'unsandboxed' runs one")
        self._limits = limits or Limits.of(self._config)
        self._environment: Environment | None = None
        self._groups: Groups | None = None
        most = self._config.zygotes or len(os.sched_getaffinity(0))
        self._zygotes = Supervisor(self._start_zygote, most=most, forks=self._config.forks_per_zygote)
        self._opening = asyncio.Semaphore(most * _OPENING_AT_ONCE)
        self._repls: set[LocalRepl] = set()
        self._opened = 0
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the jail and check in a first REPL that it isolates. Raises SandboxError.

        Makes the kernel environment if it is missing, which takes half a minute once; the log says so.
        """
        async with closed_on_error(self.close):
            try:
                repl = await self.open((), no_tools, seed=0)
                bounds = watchdog.Bounds.of(self._config, self._limits.memory_bytes, alone=self._groups is None)
                proof = await repl.run(_PROBE, deadline_s=30.0)
                if proof.status != "killed" and not processes.memory_of(repl.host_pids, enough=0):
                    raise SandboxError(
                        "the host cannot read what memory a REPL holds (/proc/<pid>/smaps_rollup), so lzero cannot limit it"
                    )
                if objection := proof.reason or await asyncio.to_thread(watchdog.objection, repl.host_pids, bounds):
                    raise SandboxError(
                        f"the first test cell ended its REPL: {objection}; check whether a limit of [repl] is too small"
                    )
                if proof.status != "ok" and not self._without:
                    raise SandboxError(f"the sandbox does not isolate: {_complaint_of(proof)}")
                await repl.close()
                self._watching = self._watching or asyncio.create_task(watchdog.watch(lambda: self._repls, bounds))
            except ReplDied as error:
                raise SandboxError(f"the sandbox does not work: {error}") from None

    async def open(self, tools: Sequence[ToolSpec], on_call: OnCall, *, seed: int) -> LocalRepl:
        """Open a REPL, with a stub for every tool and `random` and numpy seeded. Replaces a dead zygote. Raises ReplError."""
        stubs = tuple(map(stub_of, tools))
        async with self._opening, self._zygotes.lend() as zygote:
            if self._groups is not None:
                self._groups.announce()
            repl = await self._fork(zygote, on_call)
            async with closed_on_error(repl.close), cgroups.holding(repl):
                await repl.become(stubs, seed)
        self._opened += 1
        return repl

    async def close(self) -> None:
        """Close every REPL and the jail, and leave nothing behind."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._zygotes.close()
        for repl in list(self._repls):
            await repl.close()
        if self._groups is not None:
            await self._groups.close()

    def stats(self) -> Mapping[str, float]:
        """Return the number of REPLs `open` now and `opened` in all, and of `zygotes` started in all."""
        return {"open": len(self._repls), "opened": self._opened, "zygotes": self._zygotes.started}

    def facts(self) -> Mapping[str, Json]:
        """Return what isolates the REPLs, for the record: tier, kernel, programs, user, control groups, limits, and what is unbounded."""
        return {
            "tier": self._config.tier,
            "kernel": platform.release(),
            "machine": platform.machine(),
            "bubblewrap": programs.bubblewrap_version(),
            "user": jail.user(),
            "control_groups": f"{self._groups.kind}: {', '.join(self._groups.places)}" if self._groups else "none",
            "unbounded": [each.part for each in unbounded(groups=self._groups is not None)],
            "limits": {**asdict(self._limits), "cores": self._config.cores},
        }

    async def _fork(self, zygote: ZygoteHandle, on_call: OnCall) -> LocalRepl:
        watchdog.require(self._watching)
        with _socket_pair() as (ours, theirs):
            child = await zygote.fork(theirs)
        return await self._admit(LocalRepl(zygote, child, Connection(ours), on_call, self._config))

    async def _admit(self, repl: LocalRepl) -> LocalRepl:
        """Register a new REPL, and make its control group."""
        self._repls.add(repl)
        repl.on_close = lambda: self._gone(repl)
        repl.on_fork = lambda on_call: self._copy(repl, on_call)
        try:
            repl.group = self._groups.make(self._limits) if self._groups else None
        except SandboxError:
            await repl.close()
            raise
        return repl

    async def _copy(self, original: LocalRepl, on_call: OnCall) -> LocalRepl:
        """Return a copy of a REPL, which stays silent until it is renewed."""
        watchdog.require(self._watching)
        async with self._groups.announcing() if self._groups else nullcontext():
            with _socket_pair() as (ours, theirs):
                zygote, child = await original.copy_into(theirs)
            copy = await self._admit(LocalRepl(zygote, child, Connection(ours), on_call, self._config))
            async with closed_on_error(copy.close):
                await cgroups.add_session(copy)
        self._opened += 1
        return copy

    def _gone(self, repl: LocalRepl) -> None:
        self._repls.discard(repl)
        if self._groups is not None and repl.group is not None:
            self._groups.remove(repl.group)
        self._zygotes.sweep()

    async def _start_zygote(self) -> ZygoteHandle:
        if self._environment is None:
            self._environment = await asyncio.to_thread(environment.build, self._config, say=logger.warning)
            self._groups = await asyncio.to_thread(cgroups.open_groups, self._config)
        return await ZygoteHandle.start(self._environment, self._limits, self._without)


@contextmanager
def _socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the host's end and the REPL's end of a socket pair. At the end, close the REPL's; close the host's only if the block fails."""
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise ReplError(f"cannot open a REPL: {error}; raise the limit on open files (ulimit -n)") from None
    try:
        yield ours, theirs
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()


def _complaint_of(proof: Execution) -> str:
    errors = [f"{output.ename}: {output.evalue}" for output in proof.outputs if isinstance(output, Error)]
    return "; ".join(errors) or proof.reason


async def no_tools(name: str, arguments: object) -> None:
    """Refuse a tool call: the host's side of a REPL without tools."""
    raise AssertionError(f"{name}({arguments}) in a REPL without tools")
