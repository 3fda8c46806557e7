"""vLLM on GPUs, against the trainer's full forward pass: `LZERO_VLLM=/opt/vllm/bin/vllm make test-gpu ARGS=-s` prints the figures.

Each test starts a server of its own, because its settings are what the test is about.
"""

import asyncio
import importlib.util
import statistics
import time
from collections.abc import Sequence
from typing import Any, cast

import httpx2
import pytest
import torch
from vllm_servers import PROGRAM, Running, running

from lzero.config import load_config
from lzero.engine.vllm import kind
from lzero.engine.vllm.engine import VLLMEngine
from lzero.models import load_model, load_tokenizer, resolve
from lzero.train.publish import Publisher
from lzero.train.transfer.file import FileTransfer
from lzero.train.transfer.nccl import NCCLTransfer
from lzero.types import Completion, Sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(not PROGRAM.exists(), reason="needs vLLM: name its command in LZERO_VLLM"),
]
NANO = resolve("nano")
TOKENIZER = load_tokenizer(NANO)
PROMPT = TOKENIZER.encode("I need the founder of Liri. ", add_special_tokens=False)
MAX_TOKENS = 640


def moved(model: Any) -> Any:
    """Return the model after an update: every weight has moved."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def trained(*, dtype: str = "float32", device: str = "cuda:0") -> Any:
    return load_model(NANO, dtype=dtype, device=device)


async def ask(engine: VLLMEngine, *, seed: int = 5, max_tokens: int = 64) -> Completion:
    sampling = Sampling(max_tokens=max_tokens, seed=seed)
    return await engine.sample(PROMPT, sampling, request_id=f"a{seed}", affinity=f"a{seed}", deadline_s=120.0)


async def crowd(engine: VLLMEngine, size: int) -> list[Completion]:
    return list(await asyncio.gather(*(ask(engine, seed=seed) for seed in range(size))))


def gaps(model: Any, completions: Sequence[Completion]) -> list[float]:
    """Return the differences between the completions' log-probabilities and those of full forward passes, in nats."""
    found: list[float] = []
    for completion in completions:
        ids = torch.tensor([[*PROMPT, *completion.token_ids]], device=model.device)
        with torch.no_grad():
            logits = model(ids).logits[0, len(PROMPT) - 1 : -1].float()
        own = logits.log_softmax(-1).gather(1, ids[0, len(PROMPT) :, None])[:, 0].cpu()
        found += (own - torch.tensor(completion.logprobs)).abs().tolist()
    return found


def told(name: str, values: Sequence[float]) -> None:
    """Print the figures that the docs would record."""
    p99 = statistics.quantiles(values, n=100)[-1]
    print(f"\n{name}: mean {statistics.fmean(values):.2g}, p99 {p99:.2g}, largest {max(values):.2g} nats")


async def compute(function: Any) -> Any:
    return function()


def publisher(model: Any, engine: VLLMEngine, transfer: FileTransfer | NCCLTransfer) -> Publisher:
    return Publisher(model, engine, transfer, max_tokens=MAX_TOKENS, compute=compute)


async def post(server: Running, route: str) -> None:
    transport = httpx2.AsyncHTTPTransport(uds=str(server.socket))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=120.0) as client:
        (await client.post(route)).raise_for_status()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: one for the trainer, one for the server")
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM in the trainer's environment")
def test_weights_are_broadcast_by_nccl_again_and_again() -> None:
    async def run(server: Running) -> None:
        engine = await server.engine(TOKENIZER)
        transfer, model = NCCLTransfer(engine), trained(device="cuda:1")
        sync = publisher(model, engine, transfer)
        for version in (1, 2, 3):
            moved(model)
            report = await sync.publish(version=version)
            print(f"\nNCCL, version {version}: {report['time/transfer_s']:.2f} s, gap {report['train/probe_gap']:.2g}")
            assert max(gaps(model, await crowd(engine, 8))) < 1e-2
        await transfer.close()
        await engine.close()

    with running(NANO, max_tokens=MAX_TOKENS, settings=["engine.transfer=nccl"]) as server:
        asyncio.run(run(server))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: one for the trainer, one for the server")
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM in the trainer's environment")
def test_a_restarted_server_joins_a_new_nccl_group() -> None:
    async def run() -> None:
        engine = cast(VLLMEngine, (await kind.open_engine(config, TOKENIZER)).engine)
        transfer, model = NCCLTransfer(engine), trained(device="cuda:1")
        sync = publisher(moved(model), engine, transfer)
        await sync.publish(version=1)
        engine.restart("is asked to")
        await engine.lacks_weights()
        report = await sync.publish(version=1)
        print(f"\nNCCL, after a restart: {report['time/transfer_s']:.2f} s, gap {report['train/probe_gap']:.2g}")
        assert max(gaps(model, await crowd(engine, 8))) < 1e-2
        await transfer.close()
        await engine.close()

    own = ("engine.kind=vllm", f"engine.program={PROGRAM}", "engine.transfer=nccl", f"agent.max_tokens={MAX_TOKENS}")
    config = load_config(None, [*own, "agent.response_tokens=64", f"model.path={NANO}", "model.device=cuda:1"])
    asyncio.run(run())


@pytest.mark.parametrize("level", [1, 2])
def test_a_server_that_slept_serves_the_weights_that_it_gets_when_it_wakes(level: int) -> None:
    async def run(server: Running) -> None:
        engine, model = await server.engine(TOKENIZER), moved(trained())
        await ask(engine)
        free, _ = torch.cuda.mem_get_info()
        await post(server, f"/sleep?level={level}")
        print(f"\nsleep, level {level}, freed {(torch.cuda.mem_get_info()[0] - free) / 1e9:.1f} GB")
        started = time.perf_counter()
        await post(server, "/wake_up?tags=weights")
        await FileTransfer(engine).send(model.state_dict().items(), version=1)
        await post(server, "/wake_up?tags=kv_cache")
        print(f"awake with new weights after {time.perf_counter() - started:.2f} s")
        found = await crowd(engine, 8)
        assert {version for each in found for version, _ in each.versions} == {1}
        assert max(gaps(model, found)) < 1e-2
        await engine.close()

    with running(NANO, max_tokens=MAX_TOKENS, settings=['engine.arguments=["--enable-sleep-mode"]']) as server:
        asyncio.run(run(server))


def test_cuda_graphs_of_every_size_use_the_new_weights() -> None:
    async def run(server: Running) -> None:
        engine, model = await server.engine(TOKENIZER), trained()
        for size in (1, 8, 64):  # captured under the old weights, and used
            await crowd(engine, size)
        await publisher(moved(model), engine, FileTransfer(engine)).publish(version=1)
        for size in (1, 8, 64):
            found = gaps(model, await crowd(engine, size))
            told(f"CUDA graphs after a transfer, {size} requests at once", found)
            assert max(found) < 1e-2
        await engine.close()

    with running(NANO, max_tokens=MAX_TOKENS) as server:
        asyncio.run(run(server))


def test_the_gap_in_bfloat16_is_told_and_its_mean_is_small() -> None:
    async def run(server: Running) -> None:
        engine, model = await server.engine(TOKENIZER), trained(dtype="bfloat16")
        before = gaps(model, await crowd(engine, 64))
        report = await publisher(moved(model), engine, FileTransfer(engine)).publish(version=1)
        after = gaps(model, await crowd(engine, 64))
        told("bfloat16, 64 requests at once", before)
        told("bfloat16, after a transfer", after)
        print(f"probe: largest {report['train/probe_gap']:.2g} nats")
        assert max(statistics.fmean(before), statistics.fmean(after)) < 0.05
        await engine.close()

    with running(NANO, max_tokens=MAX_TOKENS, settings=["model.dtype=bfloat16"]) as server:
        asyncio.run(run(server))


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="vLLM's batch-invariant mode needs a GPU of compute capability 8.0",
)
def test_a_batch_invariant_server_gives_the_same_bits_alone_and_in_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")

    async def run(server: Running) -> None:
        engine = await server.engine(TOKENIZER)
        alone = await ask(engine, seed=3)
        started = time.perf_counter()
        together = await crowd(engine, 64)
        print(f"\nbatch-invariant: {64 * 64 / (time.perf_counter() - started):.0f} tokens/s at most")
        assert together[3].token_ids == alone.token_ids
        assert together[3].logprobs == alone.logprobs
        await engine.close()

    with running(NANO, max_tokens=MAX_TOKENS, settings=["model.dtype=bfloat16"]) as server:
        asyncio.run(run(server))
