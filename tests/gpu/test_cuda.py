"""The engine and the trainer on a GPU, against the CPU: `make test-gpu`.

These need pytest and lzero's own requirements, and no plugin of pytest: a GPU machine often has no package registry.
"""

import asyncio
from typing import Any

import pytest
import torch

from lzero.engine.local.engine import LocalEngine
from lzero.models import load_model, load_tokenizer, resolve
from lzero.train.publish import Publisher
from lzero.train.transfer.in_process import InProcessTransfer
from lzero.types import Completion, Sampling

pytestmark = pytest.mark.gpu
NANO = resolve("nano")


async def sampled(prompt: list[int]) -> Completion:
    model, tokenizer = load_model(NANO, dtype="float32", device="cuda"), load_tokenizer(NANO)
    engine = LocalEngine(model, tokenizer, max_tokens=128, num_slots=4)
    try:
        sampling = Sampling(max_tokens=32, seed=3)
        return await engine.sample(prompt, sampling, request_id="a", affinity="a", deadline_s=60.0)
    finally:
        await engine.close()


def test_the_engine_samples_on_a_gpu_what_a_plain_forward_pass_on_the_cpu_scores() -> None:
    question = "Starting from Liri, who does the path founder lead to?"
    prompt = load_tokenizer(NANO).encode(question, add_special_tokens=False)
    completion = asyncio.run(sampled(prompt))
    ids = torch.tensor([[*prompt, *completion.token_ids]])
    with torch.inference_mode():
        logits = load_model(NANO, dtype="float32", device="cpu")(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    plain = torch.log_softmax(logits, dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
    assert torch.allclose(torch.tensor(completion.logprobs), plain, atol=1e-3)


async def transferred(trained: Any) -> tuple[float, int]:
    """Return the gap of the probe, and the version that the engine serves."""
    model = load_model(NANO, dtype="float32", device="cuda")
    engine = LocalEngine(model, load_tokenizer(NANO), max_tokens=128, num_slots=4)
    try:
        publisher = Publisher(trained, engine, InProcessTransfer(engine), max_tokens=128, compute=engine.compute)
        return (await publisher.publish(version=1))["train/probe_gap"], engine.version
    finally:
        await engine.close()


def test_weights_reach_an_engine_on_a_gpu() -> None:
    trained = load_model(NANO, dtype="float32", device="cuda")
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.01)
    gap, version = asyncio.run(transferred(trained))
    assert gap < 1e-3
    assert version == 1
