"""The in-process engine gives the same bits in any order and any row, if it is asked to."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_engine import (
    TINY,
    TOKENIZER,
    add_to_logits,
    ask,
    prompt,
    requests,
    running,
    tiny_model,
)

from lzero.engine.local.cache import Forward
from lzero.engine.local.probe import rows_are_independent
from lzero.models import new_model

pytestmark = pytest.mark.integration


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("independent", [True, False])
async def test_deterministic_results_are_identical_to_the_bit_in_any_order_of_arrival(
    independent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both of its ways: 32 rows at once, and one after the other where the machine's kernels tell rows apart."""
    if not independent:
        monkeypatch.setattr("lzero.engine.local.engine.rows_are_independent", lambda *_: False)
    model, count = tiny_model(), 48 if independent else 12
    results = []
    for seed, num_slots in enumerate((1, 8, 64)):
        order = list(range(count))
        random.Random(seed).shuffle(order)
        async with running(model, deterministic=True, num_slots=num_slots) as engine:
            results.append(await requests(engine, count, order))
    assert results[0] == results[1] == results[2]


async def test_deterministic_results_do_not_depend_on_what_was_remembered() -> None:
    model, following = tiny_model(), [*prompt(40), *prompt(9, 1)]
    async with running(model, deterministic=True) as engine:
        await ask(engine, prompt(40))
        warm = await ask(engine, following)
    async with running(model, deterministic=True) as engine:
        await asyncio.gather(*(ask(engine, prompt(20, index), name=str(index)) for index in range(40)))
        cold = await ask(engine, following)
    assert warm == cold


@pytest.mark.usefixtures("two_threads")
async def test_deterministic_results_are_identical_to_the_bit_in_every_row() -> None:
    """With the nano's heads and as many keys: attention that sums few of them hides that it rounds otherwise in another thread."""
    model = new_model(replace(TINY, num_heads=3, num_kv_heads=3, head_dim=32), TOKENIZER, seed=0)
    model.lm_head.register_forward_hook(add_to_logits({TOKENIZER.eos_token_id: -1e4}))
    async with running(model, deterministic=True, max_tokens=384) as engine:
        several = await asyncio.gather(*(ask(engine, prompt(300), name=f"{n}", max_tokens=4) for n in range(18)))
    assert set(several) == {several[0]}


@pytest.mark.parametrize(("edge", "of_the_sequence"), [(1e-6, 0), (1e-6, 40), (0.0, 0)])
def test_rows_that_differ_in_the_last_bits_are_noticed(edge: float, of_the_sequence: int) -> None:
    model = tiny_model()
    forward = Forward(model, num_slots=8, max_tokens=64)
    position = 0

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal position
        position = int(kwargs["position_ids"].max())

    def differ(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits * (1 + edge * (position >= of_the_sequence) * (torch.arange(8) == 7)[:, None, None])

    model.register_forward_pre_hook(look, with_kwargs=True)
    model.lm_head.register_forward_hook(differ)
    assert rows_are_independent(forward, 8) == (edge == 0.0)
