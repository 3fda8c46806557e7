"""LoRA adapters on vLLM itself: exact samples, pinned versions, unloading, and directories that are no adapters."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
import torch
from torch import Tensor
from vllm_servers import PROGRAM, Running, running

from lzero.engine.vllm.engine import VLLMEngine
from lzero.errors import EngineError
from lzero.models import load_model, load_tokenizer, resolve
from lzero.train.publish import Publisher
from lzero.train.transfer import HeldWeights, WeightSource
from lzero.train.transfer.adapter import AdapterTransfer
from lzero.types import Completion, Json, Sampling

pytestmark = [pytest.mark.servers, pytest.mark.skipif(not PROGRAM.exists(), reason="make vllm installs vLLM")]
NANO = resolve("nano")
TOKENIZER = load_tokenizer(NANO)
PROMPT = TOKENIZER.encode("I need the founder of Liri. ", add_special_tokens=False)
MAX_TOKENS = 640
RANK, ALPHA = 4, 8
LAYERS = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
CONFIG: dict[str, Json] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": RANK,
    "lora_alpha": ALPHA,
    "bias": "none",
    "target_modules": [layer.rpartition(".")[2] for layer in LAYERS],
}


def adapted(seed: int) -> tuple[Any, HeldWeights]:
    """Return the nano with a random adapter merged into it, and the adapter's tensors."""
    generator = torch.Generator().manual_seed(seed)
    model = load_model(NANO, dtype="float32", device="cpu")
    tensors: list[tuple[str, Tensor]] = []
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith(LAYERS):
                down = torch.randn(RANK, module.in_features, generator=generator) * 0.1
                up = torch.randn(module.out_features, RANK, generator=generator) * 0.1
                module.weight += ALPHA / RANK * (up @ down)
                tensors += [
                    (f"base_model.model.{name}.lora_A.weight", down),
                    (f"base_model.model.{name}.lora_B.weight", up),
                ]
    return model, HeldWeights(tensors)


def gap(model: Any, completion: Completion, *, temperature: float = 1.0) -> float:
    """Return the largest difference between the completion's log-probabilities and those of a full forward pass."""
    ids = torch.tensor([[*PROMPT, *completion.token_ids]])
    with torch.no_grad():
        found = (model(ids).logits[0, len(PROMPT) - 1 : -1] / temperature).log_softmax(-1)
    own = found.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
    return float((own - torch.tensor(completion.logprobs)).abs().max())


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    arguments = ["--enforce-eager", "--enable-lora", "--max-loras", "3", "--max-lora-rank", "8"]
    with running(NANO, max_tokens=MAX_TOKENS, settings=[f"engine.arguments={json.dumps(arguments)}"]) as server:
        yield server


@pytest_asyncio.fixture
async def engine(server: Running) -> AsyncIterator[VLLMEngine]:
    engine = await server.engine(TOKENIZER)
    yield engine
    await engine.close()


@pytest_asyncio.fixture
async def transfer(engine: VLLMEngine) -> AsyncIterator[AdapterTransfer]:
    transfer = AdapterTransfer(engine, CONFIG)
    yield transfer
    await transfer.close()


async def ask(engine: VLLMEngine, *, name: str = "a", **knobs: object) -> Completion:
    sampling = Sampling(**{"max_tokens": 48, "seed": 5, **knobs})  # type: ignore[arg-type]
    return await engine.sample(PROMPT, sampling, request_id=name, affinity=name, deadline_s=120.0)


async def adapters_on(server: Running) -> set[str]:
    """Return the names of the adapters that the server knows."""
    async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=str(server.socket))) as client:
        models = (await client.get("http://localhost/v1/models")).json()["data"]
    return {model["id"] for model in models} - {"policy"}


async def test_the_engine_samples_from_base_and_adapter_exactly_and_from_each_next_version(
    engine: VLLMEngine, transfer: AdapterTransfer, server: Running
) -> None:
    base = await ask(engine)
    for version in (1, 2, 3, 4):
        model, tensors = adapted(seed=version)
        await transfer.send(tensors, version=version)
        for temperature in (1.0, 0.7):
            found = await ask(engine, temperature=temperature)
            assert found.versions == ((version, len(found.token_ids)),)
            assert found.token_ids != base.token_ids
            assert gap(model, found, temperature=temperature) < 1e-4
        assert len(await adapters_on(server)) == 1


async def test_a_probe_accepts_the_right_adapter_and_no_other(engine: VLLMEngine) -> None:
    class Sent(AdapterTransfer):
        tensors: HeldWeights

        async def send(self, weights: WeightSource, *, version: int) -> None:
            await super().send(self.tensors, version=version)

    async def compute(function: Any) -> Any:
        return function()

    model, tensors = adapted(seed=1)
    transfer = Sent(engine, CONFIG)
    transfer.tensors = tensors
    publisher = Publisher(model, engine, transfer, max_tokens=MAX_TOKENS, compute=compute)
    assert (await publisher.publish(version=1))["train/probe_gap"] < 1e-4
    transfer.tensors = adapted(seed=2)[1]
    with pytest.raises(Exception, match="does not hold the trainer's weights"):
        await publisher.publish(version=2)
    await transfer.close()


async def test_a_request_in_flight_keeps_its_adapter_which_is_unloaded_after_it(
    engine: VLLMEngine, transfer: AdapterTransfer, server: Running
) -> None:
    first, tensors = adapted(seed=1)
    await transfer.send(tensors, version=1)
    early = asyncio.create_task(ask(engine, max_tokens=600, temperature=2.0))
    while not early.done() and (await engine.replicas[0].server.load()).running == 0:
        await asyncio.sleep(0.01)
    second, tensors = adapted(seed=2)
    await transfer.send(tensors, version=2)
    assert not early.done()
    assert len(await adapters_on(server)) == 2
    late = await ask(engine)
    assert late.versions == ((2, len(late.token_ids)),)
    assert gap(second, late) < 1e-4
    found = await early
    assert found.versions == ((1, len(found.token_ids)),)
    assert gap(first, found, temperature=2.0) < 1e-4
    await transfer.send(tensors, version=3)
    assert len(await adapters_on(server)) == 1


async def test_the_directory_of_an_adapter_is_removed_one_transfer_after_it_was_unloaded(
    engine: VLLMEngine, transfer: AdapterTransfer
) -> None:
    homes = []
    for version in (1, 2, 3):
        await transfer.send(adapted(seed=version)[1], version=version)
        homes.append(engine._adapters.held[-1].directory)
    assert [home.exists() for home in homes] == [False, True, True]
    await transfer.close()
    assert not any(home.exists() for home in homes)


async def test_a_directory_that_is_no_adapter_is_an_error_and_changes_nothing(
    engine: VLLMEngine, transfer: AdapterTransfer, server: Running, tmp_path: Path
) -> None:
    model, tensors = adapted(seed=1)
    await transfer.send(tensors, version=1)
    with pytest.raises(EngineError, match="refused /v1/load_lora_adapter"):
        await engine.load_adapter(tmp_path / "missing", version=2)
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(EngineError, match="refused /v1/load_lora_adapter"):
        await engine.load_adapter(tmp_path, version=2)
    too_large = AdapterTransfer(engine, {**CONFIG, "r": 16})  # more than --max-lora-rank
    with pytest.raises(EngineError, match="refused /v1/load_lora_adapter"):
        await too_large.send(tensors, version=2)
    await too_large.close()
    found = await ask(engine)
    assert found.versions == ((1, len(found.token_ids)),)
    assert gap(model, found) < 1e-4
    assert len(await adapters_on(server)) == 1


async def test_an_engine_leaves_no_adapter_behind_and_its_server_is_free(server: Running) -> None:
    engine = await server.engine(TOKENIZER)
    transfer = AdapterTransfer(engine, CONFIG)
    await transfer.send(adapted(seed=1)[1], version=1)
    await engine.close()
    await transfer.close()
    assert not await adapters_on(server)
    await (await server.engine(TOKENIZER)).close()
