"""The engine "vllm": spread the requests of many episodes over replicas.

All requests of an episode go to one replica, which keeps the keys and values of the episode's prefix, unless it is full (`routing.py`).
`pause`, `update` and `resume` run on all replicas, and fail if one replica fails. lzero restarts a server that it owns if it ends, hangs,
or does not answer one of these commands (`supervisor.py`). The server's episodes continue on another replica.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lzero.engine.vllm.adapters import Adapter, Adapters
from lzero.engine.vllm.codec import NAME_CHARS, Codec, weights_name
from lzero.engine.vllm.replica import Replica
from lzero.engine.vllm.routing import Router
from lzero.engine.vllm.server import VLLMServer
from lzero.engine.vllm.supervisor import Fleet, Supervisor
from lzero.errors import EngineError, NoAnswer
from lzero.text import one_line
from lzero.types import Completion, Json, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RELEASE_S = 5.0
"""Seconds that a joined server has to take its first name back."""
UNCLAIMED = "default"
"""vLLM's own name for the weights that it was started with."""
SENDS = 2
"""The most times that a request is sent: again if its server is lost."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How new weights reach the servers."""

    shared_directory: Path | None = None
    """Directory that trainer and servers see under the same path; None if they share this machine's memory."""
    trainer_address: str = ""
    """Address at which the servers reach the trainer, if it broadcasts new weights; "" if it writes a file."""
    step_s: float = 300.0
    """Seconds that each step of an update may take."""
    takes_adapters: bool = False
    """Whether the servers load LoRA adapters, and are to get nothing else."""


class VLLMEngine:
    """Engine of several servers that all serve the same weights. Implements `protocols.Engine`.

    `stop_ids`: the ids that end a turn. `max_tokens`: the most tokens of a prompt and its completion together. `on_close` runs after the
    connections are closed.
    """

    def __init__(
        self,
        fleet: Fleet,
        tokenizer: "PreTrainedTokenizerFast",
        *,
        stop_ids: Sequence[int],
        vocab_size: int,
        max_tokens: int,
        delivery: Delivery = Delivery(),
        on_close: Callable[[], Awaitable[None]],
    ) -> None:
        self._owner = secrets.token_hex(4)
        codec = Codec(
            tokenizer=tokenizer,
            stop_ids=frozenset(stop_ids),
            vocab_size=vocab_size,
            max_tokens=max_tokens,
            owner=self._owner,
        )
        self._adapters = Adapters()
        self.replicas = tuple(Replica(member, codec, self._adapters, lambda: self._version) for member in fleet.members)
        self._fleet = fleet
        self._router = Router(self.replicas, fleet)
        self.shared_directory = delivery.shared_directory
        self.trainer_address = delivery.trainer_address
        self.sync_s = delivery.step_s
        self.takes_adapters = delivery.takes_adapters
        self._on_close = on_close
        self._version = 0
        self._original = True
        """Whether the servers hold the weights that they were started with."""
        self._num_adapters = 0
        self._has_new_weights = False
        """Whether weights were sent. The weights that a server starts with are then not those of `version`."""
        self._claimed: list[VLLMServer] = []
        self._closed = False

    @property
    def version(self) -> int:
        return self._version

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion:
        """Continue `ids` on the episode's replica, or on another one if that is full or lost. Raises EngineError as `Replica.sample` does.

        The deadline begins when a replica has a place for the request, which is awaited at most as long (`Router.place`).
        """
        for number in range(1, SENDS + 1):
            async with self._router.place(affinity, deadline_s=deadline_s) as home:
                try:
                    return await home.sample(
                        ids, sampling, request_id=request_id, affinity=affinity, deadline_s=deadline_s
                    )
                except EngineError:
                    if number == SENDS or not await home.supervisor.is_lost():
                        raise
        raise AssertionError("unreachable")

    async def score(self, ids: Sequence[int]) -> tuple[float, ...]:
        """Return the log-probabilities (temperature 1) that the first replica gives to each token; 0.0 for the first."""
        return await self.replicas[0].score(ids)

    @property
    def restarts(self) -> int:
        """Number of restarts of servers."""
        return sum(each.restarts for each in self._fleet.members)

    def take_metrics(self) -> dict[str, float]:
        """Return the number of restarts, and the mean seconds that requests since the last call waited for a place."""
        return {"engine/restarts": float(self.restarts), "engine/queue_s": self._router.take_queue_s()}

    async def pause(self) -> None:
        """Stop sampling until `resume`. Requests in flight then compute their tokens so far again, under the weights of that moment."""
        await self._on_all(self._pause)

    async def resume(self) -> None:
        await self._on_all(self._resume)

    async def claim(self) -> None:
        """Name the weights that the servers were started with: they are version 0. Watch the servers from now on.

        Raises EngineError if another run uses a server.
        """
        await self._on_all(self._claim)
        self._fleet.watch(self._prepare)

    async def num_workers(self) -> list[int]:
        """Return the number of workers of each replica: its devices. Waits for servers that are being started. Raises EngineError."""
        await self._fleet.all_take_commands()
        return [await replica.server.num_workers() for replica in self.replicas]

    async def leave_group(self) -> None:
        """Let each replica leave the trainer's group, if it has joined one. Raises EngineError."""
        await self._on_all(lambda each: each.server.leave_group(deadline_s=self.sync_s))

    async def prepare_updates(self, infos: Sequence[Mapping[str, Json]]) -> None:
        """Prepare each replica for `update`, with its item of `infos`. Raises EngineError."""
        of = dict(zip((replica.server for replica in self.replicas), infos, strict=True))
        await self._on_all(lambda each: each.server.prepare_updates(of[each.server], deadline_s=self.sync_s))

    async def update(self, update: Mapping[str, Json], *, version: int) -> None:
        """Load weights on every replica, and name them `version`. The engine must be paused. Raises EngineError.

        After a failure a server may hold parts of two policies: repeat this before `resume`.
        """

        async def load(member: Supervisor) -> None:
            await member.server.update(update, name=weights_name(self._owner, version), deadline_s=self.sync_s)
            member.has_weights = True

        self._original, self._has_new_weights = False, True
        await self._on_all(load)
        self._version, self._original = version, version == 0

    async def load_adapter(self, directory: Path, *, version: int) -> list[Path]:
        """Load a LoRA adapter on every replica; new requests sample from base and adapter, as policy `version`. Raises EngineError.

        Requests in flight keep their adapter. Adapters that no request uses any more are unloaded; return their directories. `directory`
        must be new: vLLM keeps the keys and values of an adapter whose files are overwritten.
        """
        self._num_adapters += 1
        adapter = Adapter(
            name=f"{weights_name(self._owner, version)}/{self._num_adapters}", version=version, directory=directory
        )

        async def load(member: Supervisor) -> None:
            await member.server.load_adapter(adapter.name, directory, deadline_s=self.sync_s)
            member.has_weights = True

        self._has_new_weights = True
        try:
            await self._on_all(load)
        except EngineError:
            await self._unload(adapter)
            raise
        self._adapters.held.append(adapter)
        self._version = version
        unused = self._adapters.unused()
        for each in unused:
            await self._unload(each)
            self._adapters.held.remove(each)
        return [each.directory for each in unused]

    def restart(self, problem: str) -> bool:
        """Restart all servers that lzero owns, and let them serve after the next transfer. Return whether there are any.

        `problem`: why, as the rest of a sentence that begins with a server's name.
        """
        return self._fleet.restart(problem)

    async def lacks_weights(self) -> None:
        """Return as soon as a restarted server needs the weights of the current version."""
        await self._fleet.one_awaits_weights()

    def give_up(self, problem: str) -> None:
        """Let all requests fail, because servers cannot get the weights of the current version."""
        for each in self._fleet.members:
            each.give_up(problem)

    async def forget(self, affinity: str) -> None:
        self._router.forget(affinity)

    async def close(self) -> None:
        """Close the connections, and end the servers that lzero started. Safe to call twice.

        Another run can join a server that still has the weights that it was started with.
        """
        if not self._closed:
            self._closed = True
            await self._fleet.close()
            for adapter in self._adapters.held:
                await self._unload(adapter)
            for server in (replica.server for replica in self.replicas):
                if server in self._claimed and self._original:
                    with suppress(EngineError):
                        await server.name_weights(UNCLAIMED, deadline_s=RELEASE_S)
                await server.close()
        await self._on_close()

    async def _claim(self, member: Supervisor) -> None:
        server = member.server
        await check_unclaimed(server)
        await server.name_weights(weights_name(self._owner, 0))
        self._claimed.append(server)

    async def _pause(self, member: Supervisor) -> None:
        member.paused = True
        await member.server.pause(deadline_s=self.sync_s)

    async def _resume(self, member: Supervisor) -> None:
        await member.server.resume(deadline_s=self.sync_s)
        member.paused = False

    async def _prepare(self, member: Supervisor) -> None:
        """Let a restarted server serve, or pause it until it gets the weights of `version`."""
        if not self.trainer_address:  # a group is joined when the trainer opens it
            await member.server.prepare_updates({})
        if self._original:
            await member.server.name_weights(weights_name(self._owner, 0))
        if self._has_new_weights:
            await self._pause(member)
            member.await_weights()
        else:
            member.paused, member.has_weights = False, True
            member.admit(is_new_version=False)

    async def _unload(self, adapter: Adapter) -> None:
        """Unload an adapter from the servers that have it; one that does not answer keeps it, and nothing asks for it again."""

        async def unload(server: VLLMServer) -> None:
            with suppress(EngineError):
                await server.unload_adapter(adapter.name, deadline_s=RELEASE_S)

        await asyncio.gather(*(unload(replica.server) for replica in self.replicas))

    async def _on_all(self, action: Callable[[Supervisor], Awaitable[None]]) -> None:
        """Wait until all servers take commands, and run `action` on all at once. Raises the first error when it has ended on all."""
        await self._fleet.all_take_commands()
        outcomes = await asyncio.gather(
            *(self._command(each, action) for each in self._fleet.members), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _command(self, member: Supervisor, action: Callable[[Supervisor], Awaitable[None]]) -> None:
        try:
            await action(member)
        except EngineError as error:
            if member.own is not None and isinstance(error, NoAnswer):
                member.lose("did not answer a command")
            if await member.is_lost() and member.own is None:
                raise member.complaint() from error
            raise


async def check_unclaimed(server: VLLMServer) -> None:
    """Raise EngineError if a run has replaced the server's weights."""
    name = await server.weights_name()
    if name != UNCLAIMED:
        raise EngineError(
            f"{server.name} serves weights that another run has loaded ({one_line(name[:NAME_CHARS])}): stop that run, and restart the "
            "server"
        )
