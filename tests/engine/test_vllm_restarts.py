"""vLLM itself, killed and stopped: test_vllm_faults.py does the same, more often, to a program that plays vLLM's part."""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import torch
from vllm_servers import PROGRAM, group_of
from whole_runs import metrics

from lzero.config import load_config
from lzero.engine.vllm import kind
from lzero.engine.vllm.engine import VLLMEngine
from lzero.models import load_model, load_tokenizer, resolve
from lzero.train.publish import Publisher
from lzero.train.transfer.file import FileTransfer
from lzero.types import Completion, Sampling

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not PROGRAM.exists(), reason="make vllm installs vLLM"),
]
NANO = resolve("nano")
TOKENIZER = load_tokenizer(NANO)
PROMPT = TOKENIZER.encode("I need the founder of Liri. ", add_special_tokens=False)
DEADLINE_S = 1200.0
RUN = (
    *("engine.kind=vllm", f"engine.program={PROGRAM}", "rollout.tasks_per_update=4", "rollout.episodes_per_task=4"),
    *("eval.num_tasks=8", "train.updates=3"),
)


def shared(directory: Path) -> set[Path]:
    """Return the shared memory of the processes that work beneath a directory."""
    found = set()
    for process in processes(directory):
        with suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text("utf-8")
            found |= {Path(path) for path in re.findall(r"/dev/shm/\w\S+$", maps, re.MULTILINE)}  # noqa: S108
    return found


def processes(directory: Path) -> list[psutil.Process]:
    """Return the processes that work in a folder beneath a directory."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd().startswith(f"{directory}/"):
                found.append(process)
    return found


def wait_until(is_so: Callable[[], bool], process: "subprocess.Popen[bytes] | None" = None) -> None:
    """Wait, as long as the process runs."""
    ends_at = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < ends_at
        assert process is None or process.poll() is None
        time.sleep(0.1)


@asynccontextmanager
async def synced(model: Any) -> AsyncIterator[tuple[VLLMEngine, Publisher]]:
    """Yield the engine of a server that lzero owns, whose weights are sent again after each restart."""
    config = load_config(
        None,
        [
            *("engine.kind=vllm", f"engine.program={PROGRAM}", f"model.path={NANO}"),
            *("agent.max_tokens=640", "agent.response_tokens=64", "engine.hang_s=20", "engine.sync_s=30"),
        ],
    )
    engine = cast(VLLMEngine, (await kind.open_engine(config, TOKENIZER)).engine)
    publisher = Publisher(model, engine, FileTransfer(engine), max_tokens=640, compute=computed)
    try:
        await publisher.publish(version=1)
        yield engine, publisher
    finally:
        await engine.close()


async def computed(function: Any) -> Any:
    return function()


async def ask(engine: VLLMEngine, name: str) -> Completion:
    sampling = Sampling(max_tokens=300, temperature=2.0, seed=len(name))
    return await engine.sample(PROMPT, sampling, request_id=name, affinity=name, deadline_s=DEADLINE_S)


def gap(model: Any, found: Completion) -> float:
    ids = [*PROMPT, *found.token_ids]
    with torch.no_grad():
        scores = (model(torch.tensor([ids])).logits[0] / 2.0).log_softmax(-1)
    ours = [scores[place, token].item() for place, token in enumerate(ids[1:])][len(PROMPT) - 1 :]
    return float(max(abs(own - other) for own, other in zip(ours, found.logprobs, strict=True)))


def strike(engine: VLLMEngine, part: str, by: signal.Signals) -> None:
    """Send a signal to the API server, or to the process that samples."""
    own = engine._fleet.members[0].own
    assert own is not None
    (fork,) = psutil.Process(group_of(own)).children()  # of the lifeline
    (server,) = fork.children()
    heaviest = max(server.children(recursive=True), key=lambda each: each.memory_info().rss)
    (server if part == "server" else heaviest).send_signal(by)


async def test_requests_and_syncs_outlive_servers_that_end_or_hang() -> None:
    model = load_model(NANO, dtype="float32", device="cpu")
    strikes = [("server", signal.SIGKILL), ("worker", signal.SIGSTOP), ("worker", signal.SIGKILL)]
    async with synced(model) as (engine, publisher):
        for version, (part, by) in enumerate(strikes, 2):
            asked = [asyncio.create_task(ask(engine, f"e{number}")) for number in range(8)]
            async with asyncio.timeout(DEADLINE_S):
                while (await engine.replicas[0].server.load()).running < 8:
                    await asyncio.sleep(0.05)
            if part == "worker" and by == signal.SIGKILL:  # amid a transfer
                syncing = asyncio.create_task(publisher.publish(version=version))
                await asyncio.sleep(0.1)
                strike(engine, part, by)
                await syncing
            else:
                strike(engine, part, by)
                await engine.lacks_weights()
                await publisher.publish(version=engine.version)
            found = await asyncio.gather(*asked)
            assert max(gap(model, each) for each in found) < 1e-4
            assert engine.restarts == version - 1
            await publisher.publish(version=version)
            assert (await ask(engine, "later")).versions[0][0] == version


def train(directory: Path) -> "subprocess.Popen[bytes]":
    """Start a small training run, whose temporary files are in `directory`."""
    (directory / "tmp").mkdir(parents=True)
    program = "from lzero.cli import main; main()"
    with (directory / "out").open("wb") as out:
        return subprocess.Popen(
            (sys.executable, "-c", program, "train", *RUN, f"run.dir={directory / 'run'}"),
            env={**os.environ, "TMPDIR": str(directory / "tmp")},
            stdout=out,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.sandbox
def test_a_training_run_outlives_its_server(short_path: Path) -> None:
    with train(short_path) as process:
        lines = short_path / "run" / "metrics.jsonl"
        wait_until(lambda: lines.exists() and '"train"' in lines.read_text("utf-8"), process)
        (server,) = [each for each in processes(short_path / "tmp") if "serve" in each.cmdline()[2:4]]
        memory = shared(short_path / "tmp")
        server.kill()
        assert process.wait(DEADLINE_S) == 0, (short_path / "out").read_text("utf-8")[-2_000:]
    found = [line for line in metrics(short_path / "run") if line["phase"] == "train"]
    assert [line["update"] for line in found] == [0, 1, 2]
    assert found[-1]["engine/restarts"] == 1
    assert max(line["train/logprob_gap_max"] for line in found) < 1e-3
    assert not any(line.get("failures/engine") for line in found)
    assert not processes(short_path / "tmp")
    assert not [path for path in memory if path.exists()]


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.timeout(7200)
def test_nothing_is_left_of_runs_that_are_killed(short_path: Path) -> None:
    dice = random.Random(0)
    for number in range(10):
        directory = short_path / str(number)
        with train(directory) as process:
            if number % 2:  # amid a transfer or an update; else during the start
                wait_until((directory / "run" / "metrics.jsonl").exists, process)
            time.sleep(dice.uniform(0.0, 20.0))
            memory = shared(directory / "tmp")
            process.kill()
        wait_until(lambda directory=directory: not processes(directory / "tmp"))  # type: ignore[misc]
        assert not list((directory / "tmp").glob("lzero-vllm-*"))
        assert not [path for path in memory if path.exists()]
