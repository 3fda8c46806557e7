"""What several prompts share, and what an episode's last prompt left, is computed once and changes nothing."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tiny_engine import (
    ask,
    plain_logprobs,
    prompt,
    running,
    tiny_model,
)

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("change", ["extends", "diverges"])
async def test_a_remembered_prefix_changes_nothing(change: str) -> None:
    model = tiny_model()
    async with running(model) as engine:
        first = await ask(engine, prompt(40))
        history = [*prompt(40), *first.token_ids]
        following = [*history, *prompt(9, 1)] if change == "extends" else [*history[:33], *prompt(25, 2)]
        warm = await ask(engine, following, seed=6)
    async with running(model) as engine:
        cold = await ask(engine, following, seed=6)
    assert warm.token_ids == cold.token_ids
    assert warm.logprobs == pytest.approx(cold.logprobs, abs=1e-4)


async def test_only_new_ids_are_fed() -> None:
    model = tiny_model()
    fed: list[int] = []
    async with running(model) as engine:
        first = await ask(engine, prompt(40))
        handle = model.register_forward_pre_hook(
            lambda module, args, kwargs: fed.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        await ask(engine, [*prompt(40), *first.token_ids, *prompt(9, 1)])
        handle.remove()
    assert fed[0] == 10  # the last sampled token, and the nine that are new
    assert set(fed[1:]) == {1}


@contextmanager
def ids_fed(model: Any) -> Iterator[list[int]]:
    """Record the number of ids that each pass feeds, padding included."""
    fed: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    yield fed
    handle.remove()


@pytest.mark.parametrize("already", [True, False], ids=["one was before", "all come together"])
async def test_a_prompt_that_several_ask_is_fed_once(already: bool) -> None:
    model = tiny_model()
    async with running(model) as engine:
        with ids_fed(model) as fed:
            if already:
                await ask(engine, prompt(80), name="before")
            several = await asyncio.gather(*(ask(engine, prompt(80), name=f"{n}", seed=n) for n in range(6)))
    assert sum(count >= 80 for count in fed) == 1
    assert sum(fed) < 80 + 7 * 8 * 12
    for completion in several:
        assert completion.logprobs == pytest.approx(plain_logprobs(model, prompt(80), completion, 1.0), abs=1e-4)
    assert len({completion.token_ids for completion in several}) == 6


async def test_a_long_beginning_that_prompts_share_is_fed_once() -> None:
    model = tiny_model()
    system, short = prompt(100), prompt(40)
    prompts = [*([*system, *prompt(9 + n, n)] for n in range(4)), [*short, *prompt(9, 1)], [*short, *prompt(9, 2)]]
    async with running(model) as engine:
        with ids_fed(model) as fed:
            several = await asyncio.gather(*(ask(engine, ids, name=f"{n}") for n, ids in enumerate(prompts)))
    assert sum(count >= 100 for count in fed) == 1
    for ids, completion in zip(prompts, several, strict=True):
        assert completion.logprobs == pytest.approx(plain_logprobs(model, ids, completion, 1.0), abs=1e-4)


async def test_what_some_prompts_share_beyond_what_all_do_is_fed_once() -> None:
    model = tiny_model()
    tasks = [[*prompt(100), *prompt(100, number)] for number in (1, 2)]
    asked = [task for task in tasks for _ in range(3)]
    async with running(model, max_tokens=250) as engine:
        with ids_fed(model) as fed:
            several = await asyncio.gather(*(ask(engine, ids, name=f"{n}", seed=n) for n, ids in enumerate(asked)))
    assert sum(count for count in fed if count >= 100) == 300
    for ids, completion in zip(asked, several, strict=True):
        assert completion.logprobs == pytest.approx(plain_logprobs(model, ids, completion, 1.0), abs=1e-4)


async def test_a_prompt_does_not_wait_for_tokens_that_another_row_has_still_to_draw() -> None:
    async with running() as engine:
        drawn = await ask(engine, prompt(64), name="before", temperature=0.0, max_tokens=60)
    ended: list[str] = []

    async def one(name: str, ids: list[int], max_tokens: int) -> None:
        await ask(engine, ids, name=name, temperature=0.0, max_tokens=max_tokens)
        ended.append(name)

    async with running() as engine:
        await asyncio.gather(
            one("draws", prompt(64), 60), one("has them in its prompt", [*prompt(64), *drawn.token_ids[:50]], 20)
        )
    assert ended == ["has them in its prompt", "draws"]


async def test_a_beginning_is_kept_in_a_slot_that_another_affinity_takes() -> None:
    model = tiny_model()
    async with running(model, num_slots=1) as engine:
        await ask(engine, [*prompt(80), *prompt(9, 1)], name="one")
        with ids_fed(model) as fed:
            other = await ask(engine, [*prompt(80), *prompt(9, 2)], name="other")
    assert fed[0] == 9
    expected = plain_logprobs(model, [*prompt(80), *prompt(9, 2)], other, 1.0)
    assert other.logprobs == pytest.approx(expected, abs=1e-4)


async def test_a_beginning_is_copied_by_a_row_that_remembers_less_of_it() -> None:
    model = tiny_model()
    async with running(model) as engine:
        await ask(engine, prompt(100), name="knows")
        await ask(engine, prompt(10), name="knows little")
        with ids_fed(model) as fed:
            await ask(engine, prompt(110), name="knows little")
    assert fed[0] == 10


async def test_a_row_that_others_wait_for_may_leave() -> None:
    model = tiny_model()
    started, go_on = asyncio.Event(), threading.Event()
    async with running(model, max_tokens=2000) as engine:
        loop = asyncio.get_running_loop()

        def hook(*_: Any) -> None:
            loop.call_soon_threadsafe(started.set)
            go_on.wait(30)

        handle = model.register_forward_pre_hook(hook)
        leaving = asyncio.create_task(ask(engine, prompt(1200), name="leaves"))
        await started.wait()
        staying = [asyncio.create_task(ask(engine, prompt(1200), name=f"{n}", seed=n)) for n in range(3)]
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        handle.remove()
        go_on.set()
        several = await asyncio.gather(*staying)
    for completion in several:
        assert completion.logprobs == pytest.approx(plain_logprobs(model, prompt(1200), completion, 1.0), abs=1e-4)


async def test_nothing_of_old_weights_is_copied() -> None:
    model, other = tiny_model(0), tiny_model(1)
    async with running(model) as engine:
        await ask(engine, prompt(80), name="old")
        await engine.load({name: weights.clone() for name, weights in other.state_dict().items()}, 1)
        new = await ask(engine, prompt(80), name="new")
    assert new.logprobs == pytest.approx(plain_logprobs(other, prompt(80), new, 1.0), abs=1e-4)


async def test_more_episodes_than_slots_all_get_their_answers() -> None:
    model = tiny_model()
    async with running(model, num_slots=3) as engine:

        async def episode(index: int) -> None:
            ids = prompt(10 + index, index)
            for step in range(3):
                completion = await ask(engine, ids, name=f"e{index}", seed=step, max_tokens=4 + index)
                expected = plain_logprobs(model, ids, completion, 1.0)
                assert completion.logprobs == pytest.approx(expected, abs=1e-4)
                ids = [*ids, *completion.token_ids, *prompt(5, step)]
            await engine.forget(f"e{index}")

        await asyncio.gather(*(episode(index) for index in range(10)))


async def test_two_requests_of_one_affinity_may_run_at_once() -> None:
    model = tiny_model()
    async with running(model) as engine:
        one, other = await asyncio.gather(ask(engine, prompt(20), seed=1), ask(engine, prompt(20), seed=2))
    for completion in (one, other):
        assert completion.logprobs == pytest.approx(plain_logprobs(model, prompt(20), completion, 1.0), abs=1e-4)


async def test_a_long_prompt_is_fed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lzero.engine.local.worker.PREFILL_CHUNK", 16)
    model = tiny_model()
    async with running(model) as engine:
        completions = await asyncio.gather(*(ask(engine, prompt(n), name=str(n)) for n in (100, 33, 16, 17)))
    for length, completion in zip((100, 33, 16, 17), completions, strict=True):
        assert completion.logprobs == pytest.approx(plain_logprobs(model, prompt(length), completion, 1.0), abs=1e-4)
