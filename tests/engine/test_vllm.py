"""vLLM itself: exact samples, new weights, faulty transfers. One server serves all tests of the module."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import torch
from vllm_servers import PROGRAM, Running, running

from lzero.engine.vllm.engine import VLLMEngine
from lzero.errors import EngineError, TrainError
from lzero.models import load_model, load_tokenizer, resolve
from lzero.train.probe import Probe
from lzero.train.publish import Publisher
from lzero.train.transfer import HeldWeights, ModelWeights, WeightSource
from lzero.train.transfer.file import FileTransfer
from lzero.types import Completion, Sampling

pytestmark = [pytest.mark.servers, pytest.mark.skipif(not PROGRAM.exists(), reason="make vllm installs vLLM")]
NANO = resolve("nano")
TOKENIZER = load_tokenizer(NANO)
PROMPT = TOKENIZER.encode("I need the founder of Liri. ", add_special_tokens=False)
MAX_TOKENS = 640


def nano() -> Any:
    return load_model(NANO, dtype="float32", device="cpu")


def moved(model: Any, by: float = 0.02) -> Any:
    """Return the model after an update: every weight has moved."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by * torch.randn_like(parameter)
    return model


def logprobs(model: Any, ids: list[int], *, temperature: float = 1.0) -> list[float]:
    """Return the log-probabilities of all ids but the first, by a full forward pass."""
    with torch.no_grad():
        found = (model(torch.tensor([ids])).logits[0] / temperature).log_softmax(-1)
    return [found[place, token].item() for place, token in enumerate(ids[1:])]


def gap(model: Any, completion: Completion, *, temperature: float = 1.0, prompt: list[int] = PROMPT) -> float:
    """Return the largest difference between the completion's log-probabilities and those of the model."""
    ours = logprobs(model, [*prompt, *completion.token_ids], temperature=temperature)[len(prompt) - 1 :]
    return max(abs(own - other) for own, other in zip(ours, completion.logprobs, strict=True))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(NANO, max_tokens=MAX_TOKENS) as server:
        yield server


@pytest_asyncio.fixture
async def engine(server: Running) -> AsyncIterator[VLLMEngine]:
    """Yield an engine on the server, and give the server its first weights back."""
    engine = await server.engine(TOKENIZER)
    yield engine
    if engine.version != 0:
        await engine.pause()
        await FileTransfer(engine).send(ModelWeights(nano()), version=0)
        await engine.resume()
    await engine.close()


async def ask(engine: VLLMEngine, *, name: str = "a", prompt: list[int] = PROMPT, **knobs: object) -> Completion:
    sampling = Sampling(**{"max_tokens": 48, "seed": 5, **knobs})  # type: ignore[arg-type]
    return await engine.sample(prompt, sampling, request_id=name, affinity=name, deadline_s=120.0)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
async def test_log_probabilities_are_those_of_a_full_forward_pass_at_the_temperature(
    engine: VLLMEngine, temperature: float
) -> None:
    found = await ask(engine, temperature=temperature)
    assert gap(nano(), found, temperature=temperature) < 1e-4


async def test_scores_are_those_of_a_full_forward_pass(engine: VLLMEngine) -> None:
    ids = [*PROMPT, *(await ask(engine)).token_ids]
    scores = await engine.score(ids)
    assert scores[0] == 0.0
    assert scores[1:] == pytest.approx(logprobs(nano(), ids), abs=1e-4)


async def test_256_requests_at_once_are_each_exact(engine: VLLMEngine) -> None:
    found = await asyncio.gather(*(ask(engine, name=f"e{number}", seed=number, max_tokens=24) for number in range(256)))
    model = nano()
    assert max(gap(model, each) for each in found[::16]) < 1e-4
    assert len({each.token_ids for each in found}) > 1


async def test_many_long_prompts_at_once_are_each_exact(engine: VLLMEngine) -> None:
    """The prompts exceed one forward pass: vLLM for CPUs crashes if it splits a prompt."""
    prompts = [[*PROMPT, *torch.randint(300, 500, (500,)).tolist()] for _ in range(64)]
    found = await asyncio.gather(
        *(ask(engine, name=f"e{number}", seed=number, prompt=prompt) for number, prompt in enumerate(prompts))
    )
    model = nano()
    assert max(gap(model, each, prompt=prompt) for each, prompt in zip(found[::8], prompts[::8], strict=True)) < 1e-4


async def test_a_request_that_is_given_up_leaves_the_server_free(engine: VLLMEngine, server: Running) -> None:
    with pytest.raises(EngineError, match=r"did not answer /inference/v1/generate within 0\.05 s"):
        await engine.sample(
            PROMPT, Sampling(max_tokens=500, temperature=2.0), request_id="a", affinity="a", deadline_s=0.05
        )
    assert (await ask(engine)).token_ids


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"max_tokens": MAX_TOKENS}, "do not fit into the engine's 640 tokens"),
        ({"temperature": 0.001}, "samples at 0 or from"),
        ({"temperature": 2.5}, "samples at 0 or from"),
        ({"max_tokens": 0}, "impossible sampling"),
    ],
)
async def test_what_vllm_would_change_without_a_word_is_refused(
    engine: VLLMEngine, knobs: dict[str, Any], said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        await ask(engine, **knobs)


async def compute(function: Any) -> Any:
    return function()


def publisher(model: Any, engine: VLLMEngine, transfer: FileTransfer | None = None) -> Publisher:
    return Publisher(model, engine, transfer or FileTransfer(engine), max_tokens=MAX_TOKENS, compute=compute)


async def test_new_weights_are_sampled_from_exactly_tied_layers_included(engine: VLLMEngine) -> None:
    model = nano()
    sync = publisher(model, engine)
    await ask(engine)  # fills the prefix cache under the old weights
    for version in (1, 2):
        moved(model)
        report = await sync.publish(version=version)
        assert report["train/probe_gap"] < 1e-4
        found = await ask(engine)
        assert found.versions == ((version, len(found.token_ids)),)
        assert gap(model, found) < 1e-4


async def test_each_token_of_a_request_in_flight_has_one_policy(engine: VLLMEngine) -> None:
    before, after = nano(), moved(nano())
    running = [
        asyncio.create_task(ask(engine, name=f"e{number}", max_tokens=600, temperature=2.0, seed=number))
        for number in range(8)
    ]
    while sum(task.done() for task in running) == 0 and not await under_way(engine):
        await asyncio.sleep(0.05)
    await publisher(after, engine).publish(version=1)
    found = await asyncio.gather(*running)
    both = [each for each in found if len(each.versions) == 2]
    assert both
    for each in both:
        (_, old), (_, new) = each.versions
        ids = [*PROMPT, *each.token_ids]
        early, late = (logprobs(model, ids, temperature=2.0)[len(PROMPT) - 1 :] for model in (before, after))
        assert list(each.logprobs[:old]) == pytest.approx(early[:old], abs=1e-4)
        assert list(each.logprobs[old:]) == pytest.approx(late[old:], abs=1e-4)
        assert new > 0


async def under_way(engine: VLLMEngine) -> bool:
    """Return whether the server is sampling."""
    return (await engine.replicas[0].server.load()).running > 0


class Wrong(FileTransfer):
    """A transfer with a fault."""

    def __init__(self, engine: VLLMEngine) -> None:
        super().__init__(engine)
        self.vllm = engine
        self.server = engine.replicas[0].server


class WithoutALayer(Wrong):
    async def send(self, weights: WeightSource, *, version: int) -> None:
        await super().send(HeldWeights(each for each in weights if "layers.1.mlp" not in each[0]), version=version)


class WithoutTheTiedLayer(Wrong):
    async def send(self, weights: WeightSource, *, version: int) -> None:
        tied = ("embed_tokens", "lm_head")
        kept = HeldWeights(each for each in weights if not any(name in each[0] for name in tied))
        await super().send(kept, version=version)


class WithoutEffect(Wrong):
    async def send(self, weights: WeightSource, *, version: int) -> None:
        await super().send(ModelWeights(nano()), version=version)


class WithStaleKeys(Wrong):
    """The keys and values of the probe's prefix are computed under the old weights, and kept."""

    async def send(self, weights: WeightSource, *, version: int) -> None:
        await self.vllm.resume()
        prefix = Probe(len(TOKENIZER), max_tokens=MAX_TOKENS).prefix
        await ask(self.vllm, name="probe", prompt=list(prefix), max_tokens=1)
        await self.server._ask("POST", "/pause", None, params={"mode": "keep", "clear_cache": "false"})
        await super().send(weights, version=version)


class WithoutAName(Wrong):
    """The server holds the right weights under its own name, as after a restart."""

    async def send(self, weights: WeightSource, *, version: int) -> None:
        await super().send(weights, version=version)
        await self.server.name_weights("default")


@pytest.mark.parametrize(
    ("transfer", "by", "said"),
    [
        (WithoutALayer, 0.02, "does not hold the trainer's weights"),
        (WithoutTheTiedLayer, 0.02, "does not hold the trainer's weights"),
        (WithoutEffect, 0.02, "does not hold the trainer's weights"),
        (WithoutEffect, 2e-6, "has not followed the trainer"),
        (WithoutAName, 0.02, "was restarted, or another program uses it"),
    ],
)
async def test_a_transfer_that_is_wrong_stops_the_run(
    engine: VLLMEngine, transfer: type[Wrong], by: float, said: str
) -> None:
    model = nano()
    sync = publisher(model, engine)
    await sync.publish(version=1)
    moved(model, by)
    sync._transfer = transfer(engine)
    with pytest.raises((TrainError, EngineError), match=said):
        await sync.publish(version=2)
    sync._transfer = FileTransfer(engine)
    assert (await sync.publish(version=3))["train/probe_gap"] < 1e-4


async def test_keys_and_values_of_old_weights_are_found_and_dropped(
    engine: VLLMEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """The second try computes them under the new weights, which the first has brought."""
    model = nano()
    sync = publisher(model, engine, WithStaleKeys(engine))
    moved(model)
    assert (await sync.publish(version=1))["train/probe_gap"] < 1e-4
    assert "does not hold the trainer's weights" in caplog.text
    assert "it is sent again" in caplog.text


async def test_a_failed_transfer_is_made_again_and_is_then_right(
    engine: VLLMEngine, caplog: pytest.LogCaptureFixture
) -> None:
    class Lost(FileTransfer):
        tries = 0

        async def send(self, weights: WeightSource, *, version: int) -> None:
            self.tries += 1
            if self.tries == 1:
                await self._engine.update({"path": "/nowhere/weights"}, version=version)
            await super().send(weights, version=version)

    model = moved(nano())
    report = await publisher(model, engine, Lost(engine)).publish(version=1)
    assert "is made again" in caplog.text
    assert report["train/probe_gap"] < 1e-4
    assert gap(model, await ask(engine)) < 1e-4


async def test_a_server_that_another_run_uses_is_refused(engine: VLLMEngine, server: Running) -> None:
    with pytest.raises(EngineError, match="serves weights that another run has loaded"):
        await server.engine(TOKENIZER)
    assert (await ask(engine)).token_ids  # the one who was refused has changed nothing
