"""Servers that end, hang, or fail commands: every request is answered by the weights that it says, and no process is left.

`support/vllm_child.py` plays vLLM, so that a server starts in a moment.
"""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal, cast

import psutil
import pytest
import torch
from broadcasts import Broadcasts
from faulty_proxy import Fault, FaultyProxy
from vllm_servers import group_of

from lzero.config import load_config
from lzero.engine.vllm import engine as engine_module
from lzero.engine.vllm import kind
from lzero.engine.vllm.engine import Delivery, VLLMEngine
from lzero.engine.vllm.program import SOCKET
from lzero.engine.vllm.server import VLLMServer
from lzero.engine.vllm.supervisor import RESTARTS, Fleet, OwnServer, until_ready
from lzero.errors import EngineError
from lzero.models import load_tokenizer, resolve
from lzero.train.transfer import HeldWeights
from lzero.train.transfer.nccl import NCCLTransfer
from lzero.types import Completion, Sampling

pytestmark = pytest.mark.integration
CHILD = Path(__file__).parents[1] / "support" / "vllm_child.py"
TOKENIZER = load_tokenizer(resolve("nano"))
DEADLINE_S = 60.0
Part = Literal["server", "worker"]


@asynccontextmanager
async def engine_of(*settings: str) -> AsyncIterator[VLLMEngine]:
    """Yield the engine of a configuration. After the block, no process of its servers may be left."""
    given = ["engine.kind=vllm", f"engine.program={CHILD}", "engine.hang_s=3", "engine.sync_s=5", *settings]
    config = load_config(None, given)
    engine = cast(VLLMEngine, (await kind.open_engine(config, TOKENIZER)).engine)
    try:
        yield engine
    finally:
        groups = [group_of(each.own) for each in engine._fleet.members]
        await engine.close()
        assert not [each for each in psutil.process_iter() if runs_in(each, groups)]


def runs_in(process: psutil.Process, groups: list[int]) -> bool:
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        return os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE
    return False


class Policy:
    """The weights of a learner: version n is the number n in a file. Restores servers as a learner does."""

    def __init__(self, engine: VLLMEngine, directory: Path) -> None:
        self.engine, self.directory = engine, directory
        self.lock = asyncio.Lock()

    async def publish(self, version: int) -> None:
        async with self.lock:
            await self._publish(version)

    async def restore(self) -> None:
        while True:
            await self.engine.lacks_weights()
            async with self.lock:
                with suppress(EngineError):
                    await self._publish(self.engine.version)

    async def _publish(self, version: int) -> None:
        file = self.directory / str(version)
        file.write_text(str(version))
        await self.engine.pause()
        await self.engine.update({"path": str(file)}, version=version)
        await self.engine.resume()
        for replica in self.engine.replicas:
            replica.admit(version)


@asynccontextmanager
async def restored(policy: Policy) -> AsyncIterator[None]:
    task = asyncio.create_task(policy.restore())
    try:
        yield
    finally:
        task.cancel()


async def ask(engine: VLLMEngine, name: str, *, tokens: int = 60, deadline_s: float = DEADLINE_S) -> Completion:
    sampling = Sampling(max_tokens=tokens)
    return await engine.sample([1, 2, 3], sampling, request_id=name, affinity=name, deadline_s=deadline_s)


def strike(engine: VLLMEngine, part: Part, by: signal.Signals, *, server: int = 0) -> None:
    own = engine._fleet.members[server].own
    assert own is not None
    (fork,) = psutil.Process(group_of(own)).children()  # of the lifeline
    (main,) = fork.children()
    (main if part == "server" else main.children()[0]).send_signal(by)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():
            await asyncio.sleep(0.01)


def assert_exact(found: list[Completion]) -> None:
    """Each token's version is that of the weights that sampled it."""
    for each in found:
        versions = [version for version, count in each.versions for _ in range(count)]
        assert [-value for value in each.logprobs] == versions


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("part", ["server", "worker"])
async def test_requests_outlive_a_server_that_ends_or_hangs(part: Part, by: signal.Signals, tmp_path: Path) -> None:
    async with engine_of() as engine:
        policy = Policy(engine, tmp_path)
        await policy.publish(1)
        async with restored(policy):
            asked = [asyncio.create_task(ask(engine, f"e{number}")) for number in range(8)]
            await until(lambda: len(engine._fleet.members[0]._running) == 8)
            strike(engine, part, by)
            found = await asyncio.gather(*asked)
        assert {version for each in found for version, _ in each.versions} == {1}
        assert_exact(found)
        assert engine.restarts


@pytest.mark.parametrize(
    ("part", "by", "moment_s"),
    [
        ("server", signal.SIGKILL, 0.0),
        ("server", signal.SIGSTOP, 0.15),
        ("worker", signal.SIGKILL, 0.15),
        ("worker", signal.SIGSTOP, 0.0),
    ],
)
async def test_a_sync_outlives_a_server_that_ends_or_hangs(
    part: Part, by: signal.Signals, moment_s: float, tmp_path: Path
) -> None:
    async with engine_of() as engine:
        policy = Policy(engine, tmp_path)
        await policy.publish(1)
        asked = [asyncio.create_task(ask(engine, f"e{number}")) for number in range(4)]
        await until(lambda: len(engine._fleet.members[0]._running) == 4)
        syncing = asyncio.create_task(policy.publish(2))
        await asyncio.sleep(moment_s)
        strike(engine, part, by)
        with suppress(EngineError):
            await syncing
        with suppress(EngineError):  # if it was struck after the first
            await policy.publish(2)
        await policy.publish(2)
        found = [*await asyncio.gather(*asked), await ask(engine, "later")]
        assert {version for version, _ in found[-1].versions} == {2}
        assert_exact(found)


async def test_episodes_of_a_lost_server_go_on_at_another_one(tmp_path: Path) -> None:
    async with engine_of("engine.replicas=2", "rollout.concurrency=4") as engine:
        await Policy(engine, tmp_path).publish(1)
        asked = [asyncio.create_task(ask(engine, f"e{number}")) for number in range(4)]
        await until(lambda: all(len(each._running) == 2 for each in engine._fleet.members))
        strike(engine, "worker", signal.SIGKILL, server=1)
        assert_exact(await asyncio.gather(*asked))
        assert {engine._router.homes[f"e{number}"].name for number in range(4)} == {"vLLM server 0"}
        await until(lambda: engine._fleet.members[1].state == "without weights")
        assert (await ask(engine, "e5")).versions == ((1, 60),)
        assert engine._router.homes["e5"].name == "vLLM server 0"


async def test_a_server_gets_no_more_requests_than_it_samples_at_once() -> None:
    async with engine_of("rollout.concurrency=2") as engine:
        asked = [asyncio.create_task(ask(engine, f"e{number}", tokens=20)) for number in range(6)]
        most = 0
        while not all(each.done() for each in asked):
            most = max(most, len(engine._fleet.members[0]._running))
            await asyncio.sleep(0.01)
        assert most == 2
        assert {(await each).versions for each in asked} == {((0, 20),)}
        assert engine.take_metrics()["engine/queue_s"] > 0.0


async def test_a_server_with_the_weights_of_its_start_serves_again_by_itself() -> None:
    async with engine_of() as engine:
        strike(engine, "server", signal.SIGKILL)
        await until(lambda: not engine._fleet.members[0].serves)
        assert (await ask(engine, "a", tokens=3)).versions == ((0, 3),)


async def test_a_server_that_ends_again_and_again_is_given_up(tmp_path: Path) -> None:
    async with engine_of() as engine:
        for number in range(1, RESTARTS + 1):
            strike(engine, "server", signal.SIGKILL)
            await until(lambda number=number: engine.restarts == number and engine._fleet.members[0].serves)  # type: ignore[misc]
        strike(engine, "server", signal.SIGKILL)
        await until(lambda: engine._fleet.members[0].state == "given up")
        with pytest.raises(
            EngineError, match=r"vLLM server 0 has ended; .*restarted it 3 times under one policy version"
        ):
            await ask(engine, "a")
        with pytest.raises(EngineError, match="restarted it 3 times"):
            await engine.pause()


async def test_restarts_of_servers_that_do_not_start_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vllm"
    program.symlink_to(CHILD)
    async with engine_of(f"engine.program={program}") as engine:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for the copies of the log
        program.unlink()
        program.write_text("#!/bin/sh\necho no memory; exit 1")
        program.chmod(0o755)
        strike(engine, "server", signal.SIGKILL)
        with pytest.raises(EngineError, match=r"did not start again: .* its log is in .*, which ends: .*no memory"):
            await ask(engine, "a")
        assert engine.restarts == RESTARTS


async def test_a_request_that_takes_long_is_no_hang() -> None:
    async with engine_of("engine.hang_s=4", "agent.max_tokens=600") as engine:
        assert (await ask(engine, "a", tokens=580)).versions == ((0, 580),)
        assert engine.restarts == 0


async def test_a_lifeline_that_is_killed_leaves_no_process() -> None:
    async with engine_of() as engine:
        own = engine._fleet.members[0].own
        assert own is not None
        before = psutil.Process(group_of(own)).children(recursive=True)
        os.kill(group_of(own), signal.SIGKILL)
        await until(lambda: engine.restarts == 1 and engine._fleet.members[0].serves)
        assert not psutil.wait_procs(before, timeout=DEADLINE_S)[1]


async def test_a_restarted_server_of_adapters_serves_again_with_the_current_one(tmp_path: Path) -> None:
    async with engine_of() as engine, asyncio.timeout(DEADLINE_S):
        await engine.load_adapter(tmp_path, version=1)
        engine.restart("is asked to")
        await engine.lacks_weights()
        await engine.load_adapter(tmp_path, version=1)
        await engine.resume()
        engine.replicas[0].admit(1)
        assert (await ask(engine, "a", tokens=3)).versions == ((1, 3),)


async def test_a_server_that_is_slow_to_unload_an_adapter_serves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "RELEASE_S", 0.0)
    async with engine_of() as engine:
        for version in (1, 2):
            await engine.load_adapter(tmp_path, version=version)
        assert engine._fleet.members[0].serves


async def test_an_engine_of_adapters_closes_while_its_server_is_lost(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S), engine_of() as engine:
        await engine.load_adapter(tmp_path, version=1)
        engine.restart("is asked to")


async def test_a_restarted_server_joins_a_new_group_of_the_trainer(tmp_path: Path) -> None:
    config = load_config(None, ["engine.kind=vllm", f"engine.program={CHILD}", "engine.transfer=nccl"])
    server, fleet = VLLMServer("the child", socket=tmp_path / SOCKET), Fleet()
    start = partial(kind.started, config, tmp_path, number=0)
    own = OwnServer(server, await start(), start, start_s=DEADLINE_S)
    fleet.add(server, own)
    delivery = Delivery(trainer_address="127.0.0.1")
    engine = VLLMEngine(fleet, TOKENIZER, stop_ids=[], vocab_size=9, max_tokens=9, delivery=delivery, on_close=own.end)
    try:
        await own.ready()
        await engine.claim()
        collective, weights = Broadcasts(), HeldWeights([("head", torch.ones(1))])
        transfer = NCCLTransfer(engine, collective)
        for version in (1, 2):
            await transfer.send(weights, version=version)
        engine.restart("is asked to")
        await engine.lacks_weights()
        await transfer.send(weights, version=2)
        assert collective.events == ["open", "broadcast", "broadcast", "destroy", "open", "broadcast"]
        await engine.resume()
        engine.replicas[0].admit(2)
        assert (await ask(engine, "a", tokens=3)).versions == ((2, 3),)
    finally:
        await engine.close()


@asynccontextmanager
async def joined(directory: Path) -> AsyncIterator[tuple[VLLMEngine, FaultyProxy]]:
    """Yield the engine of a server that somebody else has started, behind a proxy."""
    settings = ["engine.kind=vllm", f"engine.program={CHILD}", "engine.sync_s=2.5"]
    process = kind.launch(load_config(None, settings), directory, number=0)
    server, proxy = VLLMServer("the child", socket=directory / SOCKET), FaultyProxy(directory / SOCKET)
    try:
        await until_ready(server, process, start_s=DEADLINE_S)
        async with proxy.address() as url:
            config = load_config(None, [*settings[:1], *settings[2:], f'engine.urls=["{url}"]'])
            engine = cast(VLLMEngine, (await kind.open_engine(config, TOKENIZER)).engine)
            try:
                yield engine, proxy
            finally:
                await engine.close()
    finally:
        await server.close()
        await process.kill()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("delay", r"did not answer /inference/v1/generate within 1 s"),
        ("cut", "broke off /inference/v1/generate"),
        ("500", r"refused /inference/v1/generate \(HTTP 500\)"),
        ("garbage", "broke off /inference/v1/generate"),
        ("nobody", "broke off /inference/v1/generate"),
    ],
)
async def test_a_faulty_response_fails_its_request_alone(fault: Fault, said: str, tmp_path: Path) -> None:
    async with joined(tmp_path) as (engine, proxy):
        await Policy(engine, tmp_path).publish(1)
        proxy.fault, proxy.routes = fault, "generate"
        with pytest.raises(EngineError, match=rf"the vLLM server at http://127.0.0.1:\d+ {said}"):
            await ask(engine, "a", tokens=3, deadline_s=1.0)
        proxy.fault = "none"
        assert (await ask(engine, "b", tokens=3)).versions == ((1, 3),)


@pytest.mark.parametrize(
    ("route", "fault"),
    [
        ("pause", "delay"),
        ("update_weights", "cut"),
        ("update_weights", "500"),
        ("resume", "garbage"),
        ("resume", "nobody"),
    ],
)
async def test_a_transfer_with_a_faulty_response_fails_and_can_be_made_again(
    route: str, fault: Fault, tmp_path: Path
) -> None:
    async with joined(tmp_path) as (engine, proxy):
        policy = Policy(engine, tmp_path)
        proxy.fault, proxy.routes = fault, route
        with pytest.raises(EngineError, match=rf"the vLLM server at http://127.0.0.1:\d+ .*{route}"):
            await policy.publish(1)
        proxy.fault = "none"
        await policy.publish(2)
        assert_exact([found := await ask(engine, "b", tokens=3)])
        assert found.versions == ((2, 3),)


async def test_a_joined_server_that_does_not_answer_is_named_with_what_to_do(tmp_path: Path) -> None:
    async with joined(tmp_path) as (engine, proxy):
        proxy.fault = "nobody"
        for _ in range(2):
            with pytest.raises(
                EngineError,
                match=r"the vLLM server at http://127.0.0.1:\d+ does not answer: start it again as docs/training.md says",
            ):
                await ask(engine, "a", tokens=3)
        assert not engine.restart("is asked to")


async def test_a_joined_server_that_ends_between_transfers_is_named_with_what_to_do(tmp_path: Path) -> None:
    async with joined(tmp_path) as (engine, proxy):
        policy = Policy(engine, tmp_path)
        await policy.publish(1)
        proxy.fault = "nobody"
        with pytest.raises(EngineError, match=r"does not answer: start it again as docs/training\.md says, and resume"):
            await policy.publish(2)
