"""A publish: the weights arrive and are probed, or the run stops with both numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pytest
import torch
from builders import make_nano, make_sample
from torch import Tensor

from lzero.algo.layout import Layout
from lzero.engine.local.engine import LocalEngine
from lzero.errors import EngineError, TrainError
from lzero.models import build_tokenizer
from lzero.train.probe import sample_after
from lzero.train.publish import Publisher
from lzero.train.score import sample_logprobs
from lzero.train.transfer.in_process import InProcessTransfer
from lzero.types import Completion, Sampling

pytestmark = pytest.mark.integration
Answer = TypeVar("Answer")


class StubbornEngine:
    """Answers "loaded", but keeps its weights."""

    def __init__(self, model: Any, *, takes: int | None = None) -> None:
        """`takes`: the number of the load that it executes, from 1."""
        self.model = model
        self.takes = takes
        self.version = 0
        self.events: list[str] = []

    async def load(self, state_dict: Mapping[str, Tensor], version: int) -> None:
        self.events.append("load")
        self.version = version
        if self.events.count("load") == self.takes:
            self.model.load_state_dict(state_dict, strict=False)  # tied weights come once

    async def pause(self) -> None:
        self.events.append("pause")

    async def resume(self) -> None:
        self.events.append("resume")

    async def score(self, ids: Sequence[int]) -> tuple[float, ...]:
        sample = make_sample((-1, *[0] * (len(ids) - 1)), token_ids=ids)
        return sample_logprobs(self.model, [sample], Layout(max_tokens=100))[0]

    async def sample(self, ids: Sequence[int], sampling: Sampling, **others: object) -> Completion:
        """Draw the likeliest tokens, and tell their log-probabilities at the temperature."""
        drawn: list[int] = []
        for _ in range(sampling.max_tokens):
            drawn.append(int(self.model(torch.tensor([[*ids, *drawn]])).logits[0, -1].argmax()))
        scored = sample_logprobs(self.model, [sample_after(tuple(ids), drawn)], Layout(max_tokens=100))[0]
        return Completion(
            token_ids=tuple(drawn),
            logprobs=scored[len(ids) :],
            text="",
            stop_reason="length",
            versions=((self.version, len(drawn)),),
        )

    async def compute(self, function: Callable[[], Answer]) -> Answer:
        return function()


def publisher(model: Any, engine: Any) -> Publisher:
    return Publisher(model, engine, InProcessTransfer(engine), max_tokens=48, compute=engine.compute)


async def sync(model: Any, engine: Any, *, version: int) -> float:
    """Return the largest gap of the probe."""
    return (await publisher(model, engine).publish(version=version))["train/probe_gap"]


async def test_a_transfer_that_did_not_happen_stops_the_run_with_both_numbers() -> None:
    engine = StubbornEngine(make_nano())
    assert await sync(make_nano(), engine, version=1) < 1e-6
    with pytest.raises(
        TrainError, match=r"version 2 token \d+ .* -\d+\.\d+ in the trainer and -\d+\.\d+ in the engine"
    ):
        await sync(make_nano(seed=1), engine, version=2)
    assert engine.events == ["pause", "load", "resume"] * 3, "once, and twice for what does not arrive"


async def test_a_transfer_that_was_lost_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    engine = StubbornEngine(make_nano(), takes=2)
    metrics = await publisher(make_nano(seed=1), engine).publish(version=3)
    assert 0 <= metrics["train/probe_gap_mean"] <= metrics["train/probe_gap_p99"]
    assert metrics["train/probe_gap"] < 1e-6
    assert "it is sent again" in caplog.text


async def test_weights_are_not_sent_again_to_servers_that_went_on(caplog: pytest.LogCaptureFixture) -> None:
    class HalfResumed(StubbornEngine):
        async def resume(self) -> None:
            await super().resume()
            if self.events.count("resume") == 1:
                raise EngineError("one of two servers did not answer")

    engine = HalfResumed(make_nano())
    await sync(make_nano(), engine, version=1)
    assert engine.events == ["pause", "load", "resume"] * 2
    assert "one of two servers did not answer" in caplog.text


async def test_an_engine_that_answers_no_number_stops_the_run() -> None:
    model = make_nano()
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(TrainError, match="nan in the engine"):
        await sync(make_nano(), StubbornEngine(model), version=1)


async def test_the_local_engine_takes_over_the_trainers_weights_and_version() -> None:
    engine = LocalEngine(make_nano(), build_tokenizer(), max_tokens=64, num_slots=2)
    try:
        trained = make_nano(seed=1)
        assert await sync(trained, engine, version=3) < 1e-4
        assert engine.version == 3
        with torch.no_grad():
            trained.get_output_embeddings().weight.mul_(2.0)
        assert await sync(trained, engine, version=4) < 1e-4
    finally:
        await engine.close()
