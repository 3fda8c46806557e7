"""Start programs on the nodes of a Ray cluster (extra `ray`).

    node with lzero_pool ◀── one actor a program ──▶ LocalProcess: `lzero pool serve`, a vLLM server, a rank
                                │ says how the program ended; Ray says whether its node lives

Ray places programs and notices lost nodes, nothing more: tokens, tensors and cells travel over lzero's own connections. A program with
GPUs takes Ray's GPUs; any other takes 1 of the resource `lzero_<role>` of its node. Ray itself runs what anybody sends to its ports, so a
cluster belongs on a trusted network.
"""

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from lzero.blocking import in_thread
from lzero.closing import Service
from lzero.errors import LaunchError
from lzero.extras import need
from lzero.launch.protocol import Node, Program, Role
from lzero.launch.ray_node import ProgramOfNode
from lzero.text import counted

logger = logging.getLogger(__name__)
CONNECT_S = 60.0
"""Seconds in which a cluster must answer."""
START_S = 300.0
"""Seconds in which a node must start a program."""
ASK_S = 20.0
"""Seconds in which a node must answer a question about a program."""
LOST_S = 30.0
"""Seconds without an answer after which a node counts as lost, whatever Ray says."""
END_S = 60.0
"""Seconds in which a node must end a program."""
HEAD_S = 30.0
"""Seconds without an answer of the cluster's head after which the programs count as lost."""
RECONNECT_S = 600
"""Seconds for which Ray tries to reach the head again (its default: 60). Ray then kills this process."""
_REACH_S = 5.0
_PAUSE_S = 1.0


class RayProgram:
    """A program on a node of the cluster; implements `Running`."""

    def __init__(self, actor: Any, program: Program, node: Node, port: int) -> None:
        self.host = node.host
        self.port = port
        self._actor = actor
        self._name = program.name
        self._node = node
        self._cause = ""
        self._tail = ""
        self.watching = asyncio.create_task(self._watch())

    def end_cause(self) -> str:
        """Return how the program ended; "" while it runs. Safe in any thread."""
        return self._cause

    async def ended(self) -> str:
        """Wait until the program has ended; return how."""
        await asyncio.wait([self.watching])
        if not self.watching.cancelled():
            self.watching.result()
        return self._cause

    async def tail(self) -> str:
        """Return the end of its log; "" if its node was lost."""
        if not self._cause:
            try:
                async with asyncio.timeout(ASK_S):
                    return str(await self._actor.tail.remote())
            except _unanswered():
                return ""
        return self._tail

    async def read(self, name: str) -> bytes:
        """Return a file of the program's directory; nothing if there is none, or the node was lost."""
        try:
            async with asyncio.timeout(ASK_S):
                return bytes(await self._actor.read.remote(name))
        except _unanswered():
            return b""

    async def end(self) -> None:
        """End the program; return when it is gone, or its node is. Safe to call twice."""
        await self._finish("end")

    async def kill(self) -> None:
        """Kill the program; return when it is gone, or its node is. Safe to call twice."""
        await self._finish("kill")

    async def _finish(self, how: str) -> None:
        if not self.watching.done():
            try:
                async with asyncio.timeout(END_S):
                    await getattr(self._actor, how).remote()
                    await asyncio.wait([self.watching])
            except _unanswered():
                self._cause = self._cause or f"did not end within {END_S:g} s, and was left to Ray"
        self.watching.cancel()
        await asyncio.gather(self.watching, return_exceptions=True)
        await _kill(self._actor)

    async def _watch(self) -> None:
        """Wait for the end of the program, or of its node. A node that does not answer for a moment is asked again."""
        import ray

        loop = asyncio.get_running_loop()
        silent_since: float | None = None
        while not self._cause:
            asked = loop.time()
            try:
                self._cause, self._tail = await self._actor.ended.remote()
            except ray.exceptions.ActorUnavailableError:
                answered = loop.time() - asked > LOST_S  # the question was with the node for so long
                silent_since = loop.time() if answered or silent_since is None else silent_since
                if loop.time() - silent_since > LOST_S:
                    self._cause = self._loss_message(f"did not answer for {LOST_S:g} s")
                await asyncio.sleep(_PAUSE_S)
            except ray.exceptions.RayError as error:
                self._cause = self._loss_message(type(error).__name__)

    def _loss_message(self, why: str) -> str:
        return f"was lost with its node {self._node.host} ({why})"

    def mark_lost(self, why: str) -> None:
        """Count the program as lost, and leave its end to Ray."""
        self._cause = self._cause or self._loss_message(why)
        self.watching.cancel()


class RayLauncher(Service):
    """Starts programs on a Ray cluster; implements `Launcher`. One process uses one cluster."""

    def __init__(self, address: str) -> None:
        """`address`: "host:port" of the cluster's head node, or "auto" for the one that this machine belongs to."""
        self._address = address
        self._started: list[RayProgram] = []
        self._claimed: Counter[str] = Counter()
        """Amounts of resources that the programs of this launcher take."""
        self.host = "127.0.0.1"
        self._head = self._head_failure = ""
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to the cluster. Raises LaunchError if it does not answer in time, or runs other versions."""
        need("ray", what=f'launch.ray = "{self._address}"')
        await asyncio.to_thread(check_reachable, self._address)
        try:
            async with asyncio.timeout(CONNECT_S):
                self.host, self._head = await in_thread(_connect, self._address)
        except TimeoutError:
            raise LaunchError(
                f"the Ray cluster at {self._address} did not answer within {CONNECT_S:g} s: `ray status --address {self._address}` "
                "shows whether it runs"
            ) from None
        self._watching = asyncio.create_task(self._watch_head())

    async def nodes(self, role: Role) -> tuple[Node, ...]:
        """Return the living nodes with the resource of a role."""
        return tuple(node for node, resources in await self._alive() if resources.get(_resource(role), 0) >= 1)

    async def check(self, programs: Sequence[Program]) -> None:
        """Raise LaunchError if the cluster could not run all of these programs at once, even if nobody else used it."""
        found, claimed = [resources for _, resources in await self._alive()], self._claimed.copy()
        for program in programs:
            self._check_room(program, found, claimed)
            claimed.update(_wanted(program))

    async def launch(self, program: Program, *, node: str = "") -> RayProgram:
        """Start a program, on a node with this id if one is named. Raises LaunchError if the cluster lacks what it needs."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        await self.check([program])
        wanted = _wanted(program)
        options: dict[str, Any] = {"num_cpus": 0, "num_gpus": program.gpus, "max_restarts": 0}
        if not program.gpus:
            options["resources"] = wanted
        if node:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        actor = ray.remote(ProgramOfNode).options(**options).remote()
        try:
            place, host, port = await self._answer(actor.start.remote(_plain(program)))
        except TimeoutError:
            await _kill(actor)
            raise LaunchError(
                f"no node of the Ray cluster at {self._address} started {program.name} within {START_S:g} s: {_listed(wanted)} may be "
                "in use by others (`ray status` shows it)"
            ) from None
        except ray.exceptions.RayTaskError as error:
            await _kill(actor)
            raise LaunchError(f"{program.name}: {_first_line(error)}") from None
        except (LaunchError, asyncio.CancelledError):
            await _kill(actor)
            raise
        except ray.exceptions.RayError as error:
            raise LaunchError(f"{program.name} did not start: its node was lost ({type(error).__name__})") from None
        running = RayProgram(actor, program, Node(id=place, host=host), port)
        self._started.append(running)
        self._claimed.update(wanted)
        running.watching.add_done_callback(lambda _: self._claimed.subtract(wanted))
        return running

    async def _answer(self, asked: Any) -> Any:
        """Return the answer of a node. Raises TimeoutError after START_S seconds, and LaunchError when the head is lost."""
        assert self._watching is not None
        answer = asyncio.ensure_future(asked)
        try:
            await asyncio.wait([answer, self._watching], timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
        finally:
            answer.cancel()
        self._check_head()
        raise TimeoutError

    def _check_head(self) -> None:
        if self._head_failure:
            raise LaunchError(f"{self._head_failure}: `ray status` shows whether the cluster runs")

    async def close(self) -> None:
        """End every program. The connection to Ray stays until this process ends. Safe to call twice."""
        if self._watching is not None:
            self._watching.cancel()
        started, self._started = self._started, []
        await asyncio.gather(*(each.end() for each in started))

    async def _watch_head(self) -> None:
        """Wait until the head has not answered for HEAD_S seconds; every program then counts as lost, because Ray ends its nodes soon."""
        loop = asyncio.get_running_loop()
        silent_since: float | None = None  # not the last answer: what holds the event loop up asks nothing meanwhile
        while silent_since is None or loop.time() - silent_since < HEAD_S:
            try:
                await asyncio.to_thread(check_reachable, self._head)
                silent_since = None
            except LaunchError:
                silent_since = silent_since or loop.time()
                logger.debug("the head of the Ray cluster does not answer at %s", self._head)
            await asyncio.sleep(_PAUSE_S)
        self._head_failure = f"the head of the Ray cluster at {self._head} has not answered for {HEAD_S:g} s"
        for program in self._started:
            program.mark_lost(self._head_failure)

    def _check_room(self, program: Program, found: Sequence[Mapping[str, float]], claimed: Mapping[str, int]) -> None:
        """Raise LaunchError if a program has no room on nodes with the resources `found`, of which this run claims some."""
        for resource, amount in _wanted(program).items():
            total = sum(each.get(resource, 0) for each in found)
            most = max((each.get(resource, 0) for each in found), default=0)
            if most < amount or claimed[resource] + amount > total:
                taken = f"; this run already takes {claimed[resource]:g}" if claimed[resource] else ""
                raise LaunchError(
                    f"{program.name} needs {amount:g} {resource} of one node, and the Ray cluster at {self._address} has {total:g} on "
                    f"{counted(len(found), 'node')}, at most {most:g} on one{taken}. {_remedy(resource, self._address)}"
                )

    async def _alive(self) -> list[tuple[Node, Mapping[str, float]]]:
        import ray

        self._check_head()
        try:
            async with asyncio.timeout(ASK_S):
                found = await in_thread(ray.nodes)
        except _unanswered() as error:
            raise LaunchError(
                f"the Ray cluster at {self._address} does not answer: {error or 'no answer in time'}"
            ) from None
        return [
            (Node(id=each["NodeID"], host=each["NodeManagerAddress"]), each["Resources"])
            for each in found
            if each["Alive"]
        ]


def check_reachable(address: str) -> None:
    """Raise LaunchError if `address` is no address of a cluster, or if nobody listens there. Ray itself would retry for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise LaunchError(
            f'launch.ray = "{address}" is no address of a Ray cluster: give "host:port" of its head node, or "auto". A driver outside '
            "of the cluster (ray://) cannot be used: `ray start --address=host:port` makes this machine a node of it"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except (OSError, OverflowError) as error:
        raise LaunchError(f"no Ray cluster answers at {address}: {error}") from None


def _connect(address: str) -> tuple[str, str]:
    """Connect this process to the cluster; return its address there, and the head's. Raises LaunchError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(RECONNECT_S))
    import ray

    try:
        if not ray.is_initialized():
            ray.init(
                address=address, namespace="lzero", log_to_driver=False, configure_logging=False, logging_level="ERROR"
            )
        return str(ray.util.get_node_ip_address()), str(ray.get_runtime_context().gcs_address)
    except (ConnectionError, ValueError, RuntimeError, AssertionError, ray.exceptions.RayError) as error:
        raise LaunchError(f"cannot use the Ray cluster at {address}: {_first_line(error)}") from None


async def _kill(actor: Any) -> None:
    """Let Ray end an actor, without a wait for a head that is gone: its nodes then end by themselves."""
    import ray

    with suppress(*_unanswered()):
        async with asyncio.timeout(ASK_S):
            await in_thread(partial(ray.kill, actor))


def _unanswered() -> tuple[type[Exception], ...]:
    """Return the errors of a question that a node does not answer."""
    import ray

    return (TimeoutError, ray.exceptions.RayError)


def _resource(role: str) -> str:
    return f"lzero_{role}"


def _wanted(program: Program) -> dict[str, int]:
    """Return the amounts of resources that a program takes."""
    return {"GPU": program.gpus} if program.gpus else {_resource(program.role): 1}


def _plain(program: Program) -> dict[str, Any]:
    """Return a program as plain values."""
    from lzero import __version__

    return {
        "name": program.name,
        "role": program.role,
        "command": list(program.command),
        "variables": dict(program.variables),
        "directory": str(program.directory) if program.directory else "",
        "version": __version__,
    }


def _listed(wanted: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {resource}" for resource, amount in wanted.items())


def _remedy(resource: str, address: str) -> str:
    if resource == "GPU":
        return "Add nodes with GPUs, or lower train.ranks, engine.replicas or engine.devices_per_replica"
    head = "HOST:PORT" if address == "auto" else address
    return f"Start a node with `ray start --address={head} --resources='{{\"{resource}\": 1}}'`"


def _first_line(error: BaseException) -> str:
    """Return the message of an error; of one of a node, the message of its cause."""
    cause = getattr(error, "cause", None) or error
    return str(cause).strip().partition("\n")[0][:500]
