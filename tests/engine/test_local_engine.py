"""The in-process engine on a tiny random model: what it gives is what a plain forward pass gives, whoever else is there."""

import asyncio
import threading
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from tiny_engine import (
    TOKENIZER,
    VOCABULARY,
    add_to_logits,
    ask,
    plain_logprobs,
    prompt,
    requests,
    running,
    tell,
    tiny_model,
)

from lzero.engine.local import engine as local
from lzero.engine.local.cache import fitting_slots
from lzero.engine.local.engine import LocalEngine
from lzero.engine.local.sampling import draw
from lzero.errors import EngineError
from lzero.threads import computing_alone
from lzero.types import Completion

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
async def test_logprobs_are_those_of_a_plain_forward_pass_under_the_temperature(temperature: float) -> None:
    model = tiny_model()
    async with running(model) as engine:
        ids = prompt(30)
        completion = await ask(engine, ids, temperature=temperature, top_p=0.9)
        assert completion.logprobs == pytest.approx(plain_logprobs(model, ids, completion, temperature), abs=1e-4)
        assert completion.stop_reason == "length"
        assert completion.versions == ((0, 12),)


async def test_greedy_takes_the_likeliest_token() -> None:
    model = tiny_model()
    async with running(model) as engine:
        ids = prompt(20)
        completion = await ask(engine, ids, temperature=0.0)
    with torch.inference_mode():
        logits = model(torch.tensor([[*ids, *completion.token_ids]])).logits[0]
    assert list(completion.token_ids) == logits.argmax(dim=-1)[len(ids) - 1 : -1].tolist()


async def test_a_seed_gives_the_same_tokens_alone_and_in_company() -> None:
    async with running() as engine:
        together = await requests(engine, 24)
    for index, completion in together.items():
        async with running(num_slots=1) as engine:
            alone = await ask(engine, prompt(5 + 7 * index % 60, index), seed=index, max_tokens=3 + index % 20)
        assert alone.token_ids == completion.token_ids
        assert alone.logprobs == pytest.approx(completion.logprobs, abs=1e-4)


async def test_another_seed_gives_other_tokens() -> None:
    async with running() as engine:
        assert (await ask(engine, prompt(9), seed=1)).token_ids != (await ask(engine, prompt(9), seed=2)).token_ids


async def test_tokens_are_drawn_as_often_as_the_model_says() -> None:
    model = tiny_model()
    ids = prompt(6)
    async with running(model, num_slots=64) as engine:
        drawn = await asyncio.gather(*(ask(engine, ids, name=str(i), seed=i, max_tokens=1) for i in range(600)))
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0, -1].softmax(dim=-1)
    likeliest = expected.argmax().item()
    share = sum(completion.token_ids[0] == likeliest for completion in drawn) / len(drawn)
    assert share == pytest.approx(expected[likeliest].item(), abs=0.05)


def test_a_neighbours_top_p_leaves_the_other_draws_alone() -> None:
    logits = 3 * torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0))
    likeliest_last = logits.sort(dim=-1).values  # what a cut tail would shift first
    noise = np.array([1e-9])
    alone, _ = draw(likeliest_last, np.ones(1), np.ones(1), noise)
    beside, _ = draw(likeliest_last.expand(2, -1), np.ones(2), np.array([1.0, 0.5]), noise.repeat(2))
    assert beside[0] == alone[0]


async def test_top_p_draws_only_from_the_nucleus() -> None:
    model = tiny_model()
    ids = prompt(6)
    with torch.inference_mode():
        probabilities = model(torch.tensor([ids])).logits[0, -1].softmax(dim=-1)
    ordered = probabilities.sort(descending=True)
    size = int((ordered.values.cumsum(0) < 0.3).sum()) + 1
    async with running(model, num_slots=64) as engine:
        drawn = await asyncio.gather(
            *(ask(engine, ids, name=str(i), seed=i, max_tokens=1, top_p=0.3) for i in range(300))
        )
    assert {completion.token_ids[0] for completion in drawn} <= set(ordered.indices[:size].tolist())


def spelling(*pieces: str) -> list[int]:
    return [token for piece in pieces for token in TOKENIZER.encode(piece, split_special_tokens=True)]


async def scripted(tokens: list[int], **knobs: Any) -> Completion:
    """Return the completion of a model that is made to produce `tokens` in turn, then `x`."""
    model = tiny_model()
    left = iter(tokens)

    def hook(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(logits, -1e9)
        forced[..., next(left, spelling("x")[0])] = 0.0
        return forced

    async with running(model) as engine:
        model.lm_head.register_forward_hook(hook)
        return await ask(engine, prompt(5), **knobs)


@pytest.mark.parametrize(
    "pieces", [("</code>",), ("</", "code", ">"), ("</", "co", "de>"), ("<", "/", "c", "o", "d", "e", ">")]
)
async def test_a_stop_string_ends_a_completion_across_any_token_borders(pieces: tuple[str, ...]) -> None:
    tokens = spelling("a>b", *pieces)
    completion = await scripted(tokens, stop=("</code>",), max_tokens=40)
    assert completion.stop_reason == "stop"
    assert completion.token_ids == tuple(tokens)
    assert completion.text == "a>b</code>"


async def test_a_stop_string_of_several_bytes_a_character_is_found() -> None:
    tokens = spelling("京北京")
    completion = await scripted([*tokens, *spelling("rest")], stop=("北京",), max_tokens=40)
    assert (completion.text, completion.stop_reason) == ("京北京", "stop")


async def test_text_of_several_bytes_a_character_comes_out_whole() -> None:
    completion = await scripted(spelling("né 🙂"), max_tokens=len(spelling("né 🙂")))
    assert (completion.text, completion.stop_reason) == ("né 🙂", "length")


async def test_the_end_of_turn_ends_a_completion_and_is_kept_in_its_ids_only() -> None:
    completion = await scripted([*spelling("ab"), TOKENIZER.eos_token_id])
    assert completion.token_ids[-1] == TOKENIZER.eos_token_id
    assert (completion.text, completion.stop_reason) == ("ab", "eos")


async def test_an_eos_id_of_the_generation_settings_ends_a_completion_too() -> None:
    model = tiny_model()
    completion_ids = spelling("q")
    model.generation_config.eos_token_id = [TOKENIZER.eos_token_id, completion_ids[0]]
    async with running(model) as engine:
        model.lm_head.register_forward_hook(add_to_logits({completion_ids[0]: 1e6}))
        completion = await ask(engine, prompt(5))
    assert (completion.token_ids, completion.stop_reason) == (tuple(completion_ids), "eos")


async def test_score_gives_every_token_its_logprob() -> None:
    model = tiny_model()
    ids = prompt(25)
    async with running(model) as engine:
        scores = await engine.score(ids)
    with torch.inference_mode():
        table = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
    assert scores[0] == 0.0
    assert scores[1:] == pytest.approx([table[i, token].item() for i, token in enumerate(ids[1:])], abs=1e-5)


async def test_new_weights_are_used_and_nothing_of_the_old_ones_is_kept() -> None:
    model, other = tiny_model(0), tiny_model(1)
    async with running(model) as engine:
        first = await ask(engine, prompt(40))
        await engine.load({name: weights.clone() for name, weights in other.state_dict().items()}, 7)
        assert engine.version == 7
        following = [*prompt(40), *first.token_ids, *prompt(5, 1)]
        second = await ask(engine, following)
    assert second.versions == ((7, 12),)
    assert second.logprobs == pytest.approx(plain_logprobs(other, following, second, 1.0), abs=1e-4)


async def test_a_request_under_way_goes_on_under_new_weights() -> None:
    model, old, new = tiny_model(0), tiny_model(0), tiny_model(1)
    drawn = asyncio.Event()
    async with running(model) as engine:
        handle = model.register_forward_hook(tell(drawn))
        task = asyncio.create_task(ask(engine, prompt(20), max_tokens=120))
        await drawn.wait()
        await engine.load(new.state_dict(), 3)
        handle.remove()
        completion = await task
    assert [version for version, _ in completion.versions] == [0, 3]
    before = completion.versions[0][1]
    assert completion.logprobs[:before] == pytest.approx(
        plain_logprobs(old, prompt(20), completion, 1.0)[:before], abs=1e-4
    )
    assert completion.logprobs[before:] == pytest.approx(
        plain_logprobs(new, prompt(20), completion, 1.0)[before:], abs=1e-4
    )


async def test_weights_that_do_not_fit_are_refused_and_change_nothing() -> None:
    model = tiny_model()
    async with running(model) as engine:
        before = await ask(engine, prompt(10))
        state = tiny_model(1).state_dict()
        with pytest.raises(EngineError, match=r"model\.norm\.weight"):
            await engine.load({**state, "model.norm.weight": torch.ones(3)}, 1)
        with pytest.raises(EngineError, match="missing"):
            await engine.load({"model.norm.weight": torch.ones(32)}, 1)
        assert engine.version == 0
        assert (await ask(engine, prompt(10))).token_ids == before.token_ids


async def test_a_missed_deadline_is_an_error_and_frees_the_slot() -> None:
    async with running(num_slots=1) as engine:
        with pytest.raises(EngineError, match=r"request a: no answer within 0\.001 s"):
            await ask(engine, prompt(10), max_tokens=140, deadline_s=0.001)
        assert len((await ask(engine, prompt(10), name="b")).token_ids) == 12


async def test_a_stuck_engine_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "COMMAND_S", 0.1)
    model, go_on = tiny_model(), threading.Event()
    async with running(model) as engine:
        hook = model.register_forward_pre_hook(lambda *_: go_on.wait(20.0) and None)
        stuck = asyncio.create_task(ask(engine, prompt(10)))
        try:
            with pytest.raises(EngineError, match="score: no answer"):
                await engine.score(prompt(5))
            with pytest.raises(EngineError, match="version 1: no answer"):
                await engine.load(model.state_dict(), 1)
        finally:
            hook.remove()
            go_on.set()
        await stuck


async def test_a_cancelled_request_makes_room_for_the_next() -> None:
    model = tiny_model()
    started = asyncio.Event()
    async with running(model, num_slots=1, max_tokens=4000) as engine:
        model.register_forward_hook(tell(started))
        endless = asyncio.create_task(ask(engine, prompt(10), max_tokens=3900))
        queued = asyncio.create_task(ask(engine, prompt(11), name="b", max_tokens=3900))
        await started.wait()
        endless.cancel()
        queued.cancel()
        assert len((await ask(engine, prompt(12), name="c")).token_ids) == 12
        for task in (endless, queued):
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.mark.parametrize(
    ("ids", "knobs", "reason"),
    [
        ([], {}, "no ids"),
        ([VOCABULARY], {}, "vocabulary"),
        (prompt(100), {"max_tokens": 61}, r"100 ids \+ 61 new ones do not fit into the engine's 160"),
        (prompt(3), {"temperature": -1.0}, "impossible"),
        (prompt(3), {"top_p": 0.0}, "impossible"),
        (prompt(3), {"max_tokens": 0}, "impossible"),
    ],
)
async def test_a_request_that_cannot_be_answered_is_refused(ids: list[int], knobs: dict[str, Any], reason: str) -> None:
    async with running() as engine:
        with pytest.raises(EngineError, match=reason):
            await ask(engine, ids, **knobs)
        assert len((await ask(engine, prompt(100), max_tokens=60)).token_ids) == 60


async def test_a_failing_forward_pass_fails_every_caller_and_later_ones() -> None:
    model = tiny_model()

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    async with running(model, num_slots=2) as engine:
        model.register_forward_hook(fail)
        results = await asyncio.gather(
            *(ask(engine, prompt(10), name=str(i)) for i in range(5)), engine.score([1, 2]), return_exceptions=True
        )
        assert all(isinstance(result, EngineError) and "out of memory" in str(result) for result in results)
        with pytest.raises(EngineError, match="out of memory"):
            await ask(engine, prompt(10))


async def test_logits_that_are_not_finite_are_an_error() -> None:
    model = tiny_model()
    async with running(model) as engine:
        model.lm_head.register_forward_hook(add_to_logits({5: float("nan")}))
        with pytest.raises(EngineError, match="not finite"):
            await ask(engine, prompt(10))


async def test_what_is_computed_in_the_engines_thread_has_gradients_and_its_own_errors() -> None:
    weight = torch.ones(3, requires_grad=True)

    def learn() -> str:
        torch.autograd.backward((weight * 2.0).sum())
        return threading.current_thread().name

    def fail() -> None:
        raise KeyError("mine")

    async with running() as engine:
        assert await engine.compute(learn) == "lzero-engine"
        assert weight.grad is not None
        assert weight.grad.tolist() == [2.0, 2.0, 2.0]
        with pytest.raises(KeyError, match="mine"):
            await engine.compute(fail)
        assert len((await ask(engine, prompt(5))).token_ids) == 12
    with pytest.raises(EngineError, match="closed"):
        await engine.compute(learn)


@pytest.mark.usefixtures("two_threads")
async def test_the_engine_computes_with_several_threads_where_its_maker_computes_alone() -> None:
    with computing_alone():
        assert torch.get_num_threads() == 1
        async with running() as engine:
            assert await engine.compute(torch.get_num_threads) == 2
    assert torch.get_num_threads() == 2


async def test_close_fails_what_is_waiting() -> None:
    async with running(max_tokens=4000) as engine:
        task = asyncio.create_task(ask(engine, prompt(10), max_tokens=3900))
        await asyncio.sleep(0)
        await engine.close()
        with pytest.raises(EngineError, match="closed"):
            await task
        with pytest.raises(EngineError, match="closed"):
            await ask(engine, prompt(10))


async def test_a_cache_beyond_the_machine_is_refused_with_the_sum() -> None:
    with pytest.raises(EngineError, match=r"1000000 slots × 100000 tokens × 256 bytes needs 25600\.3 GB"):
        LocalEngine(tiny_model(), TOKENIZER, max_tokens=100_000, num_slots=1_000_000)


def test_as_many_slots_as_fit_into_memory() -> None:
    model = tiny_model()
    assert fitting_slots(model, num_slots=128, max_tokens=64) == 128
    fewer = fitting_slots(model, num_slots=1_000_000, max_tokens=100_000)
    assert 1 <= fewer < 1_000_000
    assert fitting_slots(model, num_slots=8, max_tokens=10**12) == 1


def test_slots_leave_memory_for_passes_and_training() -> None:
    tenth = psutil.virtual_memory().available // 10 // 256
    assert 1 <= fitting_slots(tiny_model(), num_slots=8, max_tokens=tenth) <= 6
