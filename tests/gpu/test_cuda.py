"""The engine and the trainer on a GPU, against the CPU. `make test-gpu` runs these, on a machine that has one."""

import pytest
import torch

from lzero.engine.local import LocalEngine
from lzero.models import load_model, load_tokenizer, resolve
from lzero.train.transfer import transfer
from lzero.types import Sampling

pytestmark = pytest.mark.gpu
NANO = resolve("nano")


async def test_the_engine_samples_on_a_gpu_what_a_plain_forward_pass_on_the_cpu_scores() -> None:
    tokenizer = load_tokenizer(NANO)
    engine = LocalEngine(load_model(NANO, dtype="float32", device="cuda"), tokenizer, max_tokens=128, num_slots=4)
    prompt = tokenizer.encode("Starting from Liri, who does the path founder lead to?", add_special_tokens=False)
    try:
        completion = await engine.sample(
            prompt, Sampling(max_tokens=32, seed=3), request_id="a", affinity="a", deadline_s=60.0
        )
    finally:
        await engine.close()
    ids = torch.tensor([[*prompt, *completion.token_ids]])
    with torch.inference_mode():
        logits = load_model(NANO, dtype="float32", device="cpu")(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    plain = torch.log_softmax(logits, dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
    assert torch.allclose(torch.tensor(completion.logprobs), plain, atol=1e-3)


async def test_weights_reach_an_engine_on_a_gpu() -> None:
    trained = load_model(NANO, dtype="float32", device="cuda")
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.01)
    engine = LocalEngine(
        load_model(NANO, dtype="float32", device="cuda"), load_tokenizer(NANO), max_tokens=128, num_slots=4
    )
    try:
        assert await transfer(trained, engine, version=1) < 1e-3
        assert engine.version == 1
    finally:
        await engine.close()
