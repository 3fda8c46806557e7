"""The promises of every engine that samples tokens: the same tests for each kind."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from vllm_servers import Running, running

from lzero.engine.local.engine import LocalEngine
from lzero.engine.scripted.engine import ScriptedEngine
from lzero.errors import EngineError
from lzero.models import Qwen3Sizes, build_tokenizer, new_model, save_model
from lzero.protocols import Engine
from lzero.types import Completion, Sampling

pytestmark = pytest.mark.integration
TOKENIZER = build_tokenizer(["<code>", "</code>"])
TINY = Qwen3Sizes(hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32, mlp_size=48, init_std=0.2)
PROMPT = TOKENIZER.encode("Who founded Liri?", add_special_tokens=False)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Serve the model by vLLM, for all tests of the module."""
    directory = tmp_path_factory.mktemp("model") / "tiny"
    save_model(new_model(TINY, TOKENIZER, seed=0), TOKENIZER, directory)
    with running(directory, max_tokens=160) as server:
        yield server


@pytest_asyncio.fixture(params=["local", "scripted", pytest.param("vllm", marks=pytest.mark.servers)])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    made: Engine
    if request.param == "vllm":
        server: Running = request.getfixturevalue("vllm")
        made = await server.engine(TOKENIZER)
        yield made
        await made.close()
        return
    if request.param == "scripted":
        made = ScriptedEngine(lambda transcript, seed: "<code>\nsearch('Liri')\n</code> and more", TOKENIZER)
    else:
        made = LocalEngine(new_model(TINY, TOKENIZER, seed=0), TOKENIZER, max_tokens=160, num_slots=4)
    yield made
    await made.close()


async def ask(engine: Engine, *, name: str = "a", deadline_s: float = 120.0, **knobs: object) -> Completion:
    sampling = Sampling(**{"max_tokens": 24, "seed": 5, **knobs})  # type: ignore[arg-type]
    return await engine.sample(PROMPT, sampling, request_id=name, affinity=name, deadline_s=deadline_s)


async def test_a_completion_tells_tokens_text_versions_and_why_it_ended(engine: Engine) -> None:
    found = await ask(engine)
    assert 0 < len(found.token_ids) == len(found.logprobs) <= 24
    assert sum(count for _, count in found.versions) == len(found.token_ids)
    assert {version for version, _ in found.versions} == {engine.version}
    assert all(value <= 0.0 for value in found.logprobs)
    ids = found.token_ids[:-1] if found.stop_reason == "eos" else found.token_ids
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == found.text


async def test_a_reply_is_no_longer_than_asked_for_and_ends_with_a_stop_string(engine: Engine) -> None:
    short = await ask(engine, max_tokens=3)
    assert (len(short.token_ids), short.stop_reason) == (3, "length")
    whole = await ask(engine)
    part = whole.text[2:4]
    stopped = await ask(engine, stop=(part,))
    assert stopped.stop_reason == "stop"
    assert stopped.text == whole.text[: whole.text.index(part) + len(part)]


async def test_a_seed_gives_the_same_reply_beside_others_too(engine: Engine) -> None:
    alone = await ask(engine)
    together = await asyncio.gather(*(ask(engine, name=f"e{number}", seed=5 + number % 2) for number in range(6)))
    assert {found.token_ids for found in together[::2]} == {alone.token_ids}


async def test_what_a_paused_engine_is_asked_is_answered_when_it_goes_on(engine: Engine) -> None:
    await ask(engine)
    await engine.pause()
    waiting = asyncio.create_task(ask(engine, name="b"))
    await asyncio.sleep(0)
    await engine.resume()
    assert (await waiting).token_ids


async def test_an_engine_forgets_what_it_never_knew_and_may_be_closed_twice(engine: Engine) -> None:
    await engine.forget("nobody")
    await ask(engine)
    await engine.forget("a")
    await engine.close()
    await engine.close()


async def test_scores_are_of_each_token_or_an_error_that_says_why_not(engine: Engine) -> None:
    if isinstance(engine, ScriptedEngine):
        with pytest.raises(EngineError, match="a model can"):
            await engine.score(PROMPT)
        return
    scores = await engine.score(PROMPT)
    assert len(scores) == len(PROMPT)
    assert scores[0] == 0.0
    assert all(value < 0.0 for value in scores[1:])


async def test_a_paused_local_engine_keeps_its_deadlines_and_obeys_commands() -> None:
    model = new_model(TINY, TOKENIZER, seed=0)
    engine = LocalEngine(model, TOKENIZER, max_tokens=160, num_slots=4)
    try:
        await engine.pause()
        with pytest.raises(EngineError, match="no answer within"):
            await ask(engine, deadline_s=0.05)
        assert len(await engine.score(PROMPT)) == len(PROMPT)
        await engine.load(model.state_dict(), 7)
        await engine.resume()
        assert (await ask(engine)).versions == ((7, 24),)
    finally:
        await engine.close()
