"""The in-process engine on a tiny random model, and requests to it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import torch

from lzero.engine.local.engine import LocalEngine
from lzero.models import Qwen3Sizes, build_tokenizer, new_model
from lzero.types import Completion, Sampling

TINY = Qwen3Sizes(hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, mlp_size=48, init_std=0.2)
TOKENIZER = build_tokenizer(["<code>", "</code>", "</", "code", "de>"])
VOCABULARY = len(TOKENIZER)


def tiny_model(seed: int = 0, *, eos_bias: float = -1e4) -> Any:
    """Return a model with random weights; by default it never ends a turn."""
    model = new_model(TINY, TOKENIZER, seed=seed)
    model.lm_head.register_forward_hook(add_to_logits({TOKENIZER.eos_token_id: eos_bias}))
    return model


def add_to_logits(bias: dict[int, float]) -> Callable[..., torch.Tensor]:
    def hook(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        added = torch.zeros(logits.shape[-1])
        added[list(bias)] = torch.tensor(list(bias.values()))
        return logits + added

    return hook


@asynccontextmanager
async def running(
    model: Any = None, *, num_slots: int = 8, max_tokens: int = 160, deterministic: bool = False
) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(
        tiny_model() if model is None else model,
        TOKENIZER,
        max_tokens=max_tokens,
        num_slots=num_slots,
        deterministic=deterministic,
    )
    try:
        yield engine
    finally:
        await engine.close()


def prompt(length: int, seed: int = 0) -> list[int]:
    return [random.Random(f"{seed}/{index}").randrange(3, VOCABULARY) for index in range(length)]


async def ask(
    engine: LocalEngine, ids: list[int], *, name: str = "a", deadline_s: float = 120.0, **knobs: Any
) -> Completion:
    sampling = Sampling(**{"max_tokens": 12, "seed": 5, **knobs})
    return await engine.sample(ids, sampling, request_id=name, affinity=name, deadline_s=deadline_s)


def plain_logprobs(model: Any, ids: list[int], completion: Completion, temperature: float) -> list[float]:
    with torch.inference_mode():
        logits = model(torch.tensor([[*ids, *completion.token_ids]])).logits[0] / temperature
    table = torch.log_softmax(logits, dim=-1)
    return [table[len(ids) - 1 + place, token].item() for place, token in enumerate(completion.token_ids)]


def tell(event: asyncio.Event) -> Callable[..., None]:
    """Return a hook for the engine's thread that sets an event of this one."""
    loop = asyncio.get_running_loop()

    def hook(*_: Any) -> None:
        loop.call_soon_threadsafe(event.set)

    return hook


async def requests(engine: LocalEngine, count: int, order: list[int] | None = None) -> dict[int, Completion]:
    """Ragged requests, sent in the given order with a turn of the event loop between any two."""
    answers: dict[int, Completion] = {}

    async def one(index: int) -> None:
        answers[index] = await ask(
            engine, prompt(5 + 7 * index % 60, index), name=f"r{index}", seed=index, max_tokens=3 + index % 20
        )

    async with asyncio.TaskGroup() as group:
        for index in order or range(count):
            group.create_task(one(index))
            for _ in range(index % 4):
                await asyncio.sleep(0)
    return answers
