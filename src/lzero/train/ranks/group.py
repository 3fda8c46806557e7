"""Join the ranks of a run, and find those that end, hang, or differ.

A rank finds the others through torchrun's variables: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT. All ranks share a store, which
holds a few small texts: what each rank runs, orders and replies, and the first failure. Tensors move through a process group: gloo on CPUs,
NCCL on GPUs.

The store has no token: anyone who reaches its port can write to it. So the ranks sign their texts with the run's secret (`Place.key`),
each for its run and its place (`signing`). A text without a valid signature is an error. Signs of life are not signed.

`watch` finds failures meanwhile. A rank that sees one ends, or raises RankError from whatever it waits for.
"""

import importlib.metadata
import json
import platform
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Self

import msgspec
import torch
import torch.distributed as dist
from msgspec import Struct
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from lzero.errors import ConfigError, RankError
from lzero.train.ranks.place import Place
from lzero.train.ranks.signing import Signing, new_nonce
from lzero.train.ranks.sockets import Sockets
from lzero.train.ranks.watch import BEAT_S, DEAD_S, FAILED, Ended, Watch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

JOIN_S = 300.0
"""Least seconds for which a rank tries to reach rank 0. Rank 0 then sends the time for which it waits for the others."""
SLOWEST_LOOK_S = 0.05
LIBRARIES = ("lzero", "torch", "transformers")


class Start(Struct, frozen=True, kw_only=True):
    """Message of rank 0 to the others before anything is loaded."""

    config: str = "{}"
    """The configuration, as JSON."""
    checkpoint: str | None = None
    directory: str = ""
    """Directory in which relative paths of the configuration begin."""
    timeout_s: float = JOIN_S
    device: str = "auto"


def versions() -> dict[str, str]:
    """Return the versions that all ranks must share: Python's, and those of the libraries that compute."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


class Group:
    """The ranks of a run, as one of them sees them. `join` makes one."""

    def __init__(self, place: Place, store: Store) -> None:
        self.rank, self.size = place.rank, place.size
        self.device = torch.device("cpu")
        self.start = Start()
        self._signing = Signing(place.key)
        self._store = store
        self._watch = Watch(self, store)
        self._sockets = Sockets(place.interface())
        self._mesh: DeviceMesh | None = None
        self._neighbours: dist.ProcessGroup | None = None

    @classmethod
    def join(
        cls,
        place: Place,
        *,
        start: Start | None = None,
        config: str = "",
        timeout_s: float = JOIN_S,
        store: Store | None = None,
        ended: Ended = dict,
    ) -> Self:
        """Meet the other ranks, compare versions and configurations, and open the process group. Blocks.

        `start`: given by rank 0. `config`: the configuration that this rank has read itself, as JSON; "" if it has none. `timeout_s`: how
        long a rank tries to reach rank 0; at least JOIN_S. `store`: where the ranks meet, if this process has opened it. Raises RankError
        if a rank does not come in time, or differs.
        """
        timeout_s = max(JOIN_S, start.timeout_s if start else timeout_s)
        group = cls(place, PrefixStore("lzero", store or _meet(place, timeout_s)))
        group.start = group.compare(start, config, ended, timeout_s=timeout_s)
        group._watch.start(ended)
        try:
            group.device = _own_device(group.start.device, place)
        except ConfigError as error:
            group.fail(str(error))
            raise
        group._open()
        return group

    def _open(self) -> None:
        """Open the process group. Raises RankError.

        A thread does it: gloo waits for a rank that has ended until the group's timeout, and nothing can end its wait.
        """
        problems: list[RuntimeError] = []

        def opens() -> None:
            try:
                with self._sockets.opened():
                    dist.init_process_group(
                        "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo",
                        store=PrefixStore("group", self._store),
                        rank=self.rank,
                        world_size=self.size,
                        timeout=timedelta(seconds=self.start.timeout_s),
                    )
            except RuntimeError as error:
                problems.append(error)

        thread = threading.Thread(target=opens, name="lzero-group", daemon=True)
        thread.start()
        while thread.is_alive() and not self.failure:
            thread.join(SLOWEST_LOOK_S)
        if problems:
            self.fail(f"rank {self.rank} cannot open the process group: {problems[0]}")
        if self.failure:
            raise RankError(self.failure)

    @property
    def mesh(self) -> "DeviceMesh":
        """All ranks in a row, for FSDP."""
        if self._mesh is None:
            from torch.distributed.device_mesh import init_device_mesh

            with self._sockets.opened():
                self._mesh = init_device_mesh(self.device.type, (self.size,), mesh_dim_names=("ranks",))
        return self._mesh

    def neighbours(self, number: int) -> dist.ProcessGroup:
        """Return the group of the ranks that share rows with this one: `number` in a row, the same in each call. Collective."""
        if self._neighbours is None:
            limit = timedelta(seconds=self.start.timeout_s)
            with self._sockets.opened():
                self._neighbours, _ = dist.new_subgroups(number, timeout=limit)  # type: ignore[no-untyped-call]
        return self._neighbours

    def break_off(self) -> None:
        """End collectives under way: they wait for a rank that will not come.

        NCCL is aborted. gloo cannot be; it gives up when its connections end.
        """
        self._sockets.shut()
        for members in filter(None, (dist.group.WORLD, self._neighbours)):
            for kind in {"cpu", self.device.type}:
                with suppress(RuntimeError):
                    members._get_backend(torch.device(kind)).abort()

    @property
    def failure(self) -> str:
        """The first failure of a rank; "" if there is none."""
        return self._watch.failure

    def on_failure(self, tell: Callable[[str], object]) -> None:
        """Call `tell` with the first failure of a rank when it becomes known, in another thread."""
        self._watch.on_failure.append(tell)

    def stop_watching(self) -> None:
        """Expect the ranks to end from now on."""
        self._watch.expect_ends()

    def fail(self, problem: str) -> str:
        """Tell all ranks that the run cannot continue, and why. Return the reason that came first, which may be another rank's."""
        problem = problem.encode(errors="backslashreplace").decode()  # it may name a file whose name is no UTF-8
        with suppress(RuntimeError):  # the store has ended with rank 0
            problem = self.first_failure(self._store.compare_set(FAILED, "", self._signing.signed(FAILED, problem)))
        self._watch.failure = self._watch.failure or problem  # the watch finds it a moment later
        return problem

    def first_failure(self, found: bytes) -> str:
        """Return the failure that the store has; "" if it has none."""
        try:
            return self._signing.read(FAILED, found) if found else ""
        except RankError as error:
            return str(error)

    def lost(self, error: Exception) -> RankError:
        """Return the error for a wait that ended because another rank has failed; its cause may become known a moment later."""
        end = time.monotonic() + DEAD_S + 3 * BEAT_S
        while self._watch.is_running and not self.failure and time.monotonic() < end:
            time.sleep(SLOWEST_LOOK_S)
        return RankError(self.failure or f"rank {self.rank} lost the other ranks: {error}")

    def put(self, key: str, text: str, *, answers: str | None = None) -> None:
        self._store.set(key, self._signing.signed(key, text, answers=answers))

    def get(self, key: str, *, timeout_s: float = float("inf"), answers: str | None = None) -> str:
        """Wait for a text, and remove it. Raises RankError if a rank fails meanwhile, it does not come in time, or no rank wrote it for
        this run, or as the answer to `answers`.
        """
        start = time.monotonic()
        while True:
            if self.failure:
                raise RankError(self.failure)
            try:
                if self._store.check([key]):
                    found = self._store.get(key)
                    self._store.delete_key(key)
                    return self._signing.read(key, found, answers=answers)
            except RuntimeError as error:
                raise self.lost(error) from None
            waited = time.monotonic() - start
            if waited > timeout_s:
                raise RankError(f"rank {self.rank} waited {timeout_s:g} s for {key}, which did not come")
            time.sleep(min(SLOWEST_LOOK_S, waited / 20 + 0.0005))  # the store's own wait logs each timeout

    def largest(self, number: int) -> int:
        """Return the largest of the ranks' numbers. Collective."""
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def sum(self, number: float) -> float:
        """Return the sum of the ranks' numbers. Collective."""
        value = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(value)
        return float(value)

    def send(self, data: Tensor, rank: int) -> None:
        if len(data):
            dist.send(data, rank)

    def receive(self, num_bytes: int, rank: int) -> Tensor:
        data = torch.empty(num_bytes, dtype=torch.uint8)
        if num_bytes:
            dist.recv(data, rank)
        return data

    def close(self) -> None:
        """Leave. Ranks that wait for this one get an error."""
        self._watch.stop()
        if dist.is_initialized():
            with suppress(RuntimeError):  # it was broken off
                dist.destroy_process_group()

    def compare(self, start: Start | None, config: str, ended: Ended = dict, *, timeout_s: float = JOIN_S) -> Start:
        """Compare versions and configurations on rank 0, and wait for the result on the others. Raises RankError.

        `timeout_s`: how long the others wait until rank 0 says how long it waits for all of them.
        """
        own = _Hello(versions=versions(), config=config, host=socket.gethostname(), nonce=new_nonce())
        if start is None:
            self.put(f"hello/{self.rank}", msgspec.json.encode(own).decode())
            patience_s = float(self.get(f"patience/{self.rank}", timeout_s=timeout_s))
            text = self.get(f"welcome/{self.rank}", timeout_s=patience_s, answers=own.nonce)
            welcome = msgspec.json.decode(text, type=_Welcome)
            if welcome.problem:
                raise RankError(welcome.problem)
            self._signing.run = welcome.run
            return welcome.start
        own = msgspec.structs.replace(own, config=start.config)
        end = time.monotonic() + start.timeout_s
        for rank in range(1, self.size):
            self.put(f"patience/{rank}", str(start.timeout_s + DEAD_S))
        met, problem = dict[int, _Hello](), ""
        for rank in range(1, self.size):
            try:
                its = self._met(rank, ended, start.timeout_s, end=0.0 if problem else end)
            except (RankError, msgspec.MsgspecError) as error:
                its = f"rank {rank}: {error}"
            if isinstance(its, _Hello):
                met[rank], its = its, _difference(rank, own, its)
            problem = problem or its
        welcome = _Welcome(start=start, problem=problem, run=own.nonce)
        for rank, its in met.items():
            self.put(f"welcome/{rank}", msgspec.json.encode(welcome).decode(), answers=its.nonce)
        if welcome.problem:
            raise RankError(welcome.problem)
        self._signing.run = welcome.run
        return start

    def _met(self, rank: int, ended: Ended, timeout_s: float, *, end: float) -> "_Hello | str":
        """Wait for a rank until `end`; return what it says of itself, or why it did not come."""
        while not self._store.check([f"hello/{rank}"]):
            if how := ended().get(rank):
                return f"rank {rank} {how} before it joined the others"
            if time.monotonic() > end:
                return f"rank {rank} of {self.size} did not join within {timeout_s:g} s (train.rank_timeout_s)"
            time.sleep(SLOWEST_LOOK_S)
        return msgspec.json.decode(self.get(f"hello/{rank}"), type=_Hello)


class _Hello(Struct, frozen=True, kw_only=True):
    versions: dict[str, str]
    config: str
    host: str
    nonce: str
    """Random text; that of rank 0 names the run."""


class _Welcome(Struct, frozen=True, kw_only=True):
    start: Start
    problem: str
    run: str


def _meet(place: Place, timeout_s: float) -> Store:
    """Return the store of all ranks, which rank 0 or torchrun opens. Raises RankError if it cannot be reached."""
    from torch.distributed.rendezvous import rendezvous

    where = f"{place.host}:{place.port}"
    try:
        store, _, _ = next(rendezvous(f"tcp://{where}", place.rank, place.size, timeout=timedelta(seconds=timeout_s)))
    except (RuntimeError, ValueError, OSError) as error:
        raise RankError(f"rank {place.rank} cannot meet the other ranks at {where}: {error}") from None
    found: Store = store
    return found


def _own_device(device: str, place: Place) -> torch.device:
    """Return the device of a rank, and make it torch's current one. Raises ConfigError if its machine has too few GPUs."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    number = place.local_rank if count > 1 else 0  # a scheduler may show each rank a GPU of its own
    if number >= count:
        raise ConfigError(
            f"rank {place.rank} is number {place.local_rank} on its machine, which has {count} GPUs: start fewer ranks there"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _difference(rank: int, own: _Hello, its: _Hello) -> str:
    """Return in what a rank differs from this one; "" for nothing."""
    differences = [
        f"{name} {its.versions.get(name, 'none')} instead of {own.versions.get(name, 'none')}"
        for name in sorted(own.versions.keys() | its.versions.keys())
        if own.versions.get(name) != its.versions.get(name)
    ]
    if its.config and its.config != own.config:
        differences.append(_difference_of_configs(own.config, its.config))
    return f"rank {rank} on {its.host} has {'; '.join(differences)}" if differences else ""


def _difference_of_configs(here: str, there: str) -> str:
    own, its = _flat(json.loads(here)), _flat(json.loads(there))
    keys = sorted(key for key in own.keys() | its.keys() if own.get(key) != its.get(key))
    shown = ", ".join(f"{key} = {its.get(key)} instead of {own.get(key)}" for key in keys[:3])
    return f"another configuration than rank 0: {shown}" + (", …" if len(keys) > 3 else "")


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
