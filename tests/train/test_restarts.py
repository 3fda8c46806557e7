"""A restarted server of the engine gets the weights of the current version, and no others."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from builders import make_completion, make_episode, make_run, make_step, save_tiny
from torch import Tensor

from lzero.config import load_config
from lzero.engine.local.engine import LocalEngine
from lzero.errors import EngineError, TrainError
from lzero.models import load_model, load_tokenizer
from lzero.train.learner.local import LocalLearner
from lzero.train.trainer import Trainer
from lzero.types import Group, Reward, Task

pytestmark = pytest.mark.integration
DEADLINE_S = 60.0


class Servers(LocalEngine):
    """An engine whose server can be restarted. It then lacks weights until the next load."""

    restarts = 0
    failures = 0
    """Loads that fail from now on."""
    failure: Exception = EngineError("the server refused the weights")
    given_up = ""
    is_owned = True

    def __init__(self, directory: Path) -> None:
        model = load_model(str(directory), dtype="float32", device="cpu")
        super().__init__(model, load_tokenizer(str(directory)), max_tokens=64, num_slots=2)
        self.lost = asyncio.Event()
        self.loaded: list[int] = []

    async def lacks_weights(self) -> None:
        await self.lost.wait()

    def restart(self, problem: str) -> bool:
        self.restarts += 1
        return self.is_owned

    def take_metrics(self) -> dict[str, float]:
        return {"engine/restarts": float(self.restarts)}

    def give_up(self, problem: str) -> None:
        self.given_up = problem
        self.lost.clear()

    async def load(self, state_dict: Mapping[str, Tensor], version: int) -> None:
        if self.failures:
            self.failures -= 1
            raise self.failure
        self.lost.clear()
        self.loaded.append(version)
        await super().load(state_dict, version)


@asynccontextmanager
async def learning(directory: Path) -> AsyncIterator[tuple[LocalLearner, Servers]]:
    model = save_tiny(directory / "model")
    config = load_config(overrides=[f"model.path={model}", "agent.max_tokens=64", "model.device=cpu"])
    engine = Servers(model)
    learner = LocalLearner(Trainer.build(config)[0], engine, make_run(directory / "run"))
    try:
        yield learner, engine
    finally:
        await learner.close()
        await engine.close()


def group() -> Group:
    step = make_step(make_completion(token_ids=(5, 6)))
    episodes = tuple(make_episode(step, name=f"t/{index}", index=index) for index in range(2))
    rewards = tuple(Reward(score=score, per_step=(score,), parts={"qa": (score,)}) for score in (0.0, 1.0))
    return Group(task=Task(id="t", question="?", answers=("!",)), episodes=episodes, rewards=rewards)


async def in_time(work: Awaitable[object]) -> None:
    await asyncio.wait_for(work, DEADLINE_S)


async def until_loaded(engine: Servers, versions: list[int]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while engine.loaded != versions:
            await asyncio.sleep(0.01)


async def test_a_restarted_server_gets_the_current_weights_between_updates(tmp_path: Path) -> None:
    async with learning(tmp_path) as (learner, engine):
        await learner.publish(version=4)
        engine.lost.set()
        await until_loaded(engine, [4, 4])


async def test_weights_that_are_being_learned_wait_for_their_own_version(tmp_path: Path) -> None:
    async with learning(tmp_path) as (learner, engine):
        await learner.publish(version=0)
        learned = asyncio.create_task(learner.learn([group()], update=0))
        await asyncio.sleep(0)
        engine.lost.set()
        await in_time(learned)
        assert engine.loaded == [0]
        await learner.publish(version=1)
        for _ in range(3):  # so that a transfer would begin before the next update
            await asyncio.sleep(0)
        await in_time(learner.learn([group()], update=1))
        assert engine.loaded == [0, 1]


@pytest.mark.parametrize("kind", [EngineError, RuntimeError])
async def test_an_engine_whose_server_cannot_get_its_weights_again_is_given_up(
    kind: type[Exception], tmp_path: Path
) -> None:
    async with learning(tmp_path) as (learner, engine):
        await learner.publish(version=0)
        engine.is_owned, engine.failures, engine.failure = False, 10, kind("the server refused the weights")
        engine.lost.set()
        async with asyncio.timeout(DEADLINE_S):
            while not engine.given_up:
                await asyncio.sleep(0.01)
        assert engine.given_up == "did not get version 0 again: the server refused the weights"


async def test_a_failure_of_the_trainer_restarts_no_server_and_is_not_repeated(tmp_path: Path) -> None:
    async with learning(tmp_path) as (learner, engine):
        engine.failures, engine.failure = 1, TrainError("the disk is full")
        with pytest.raises(TrainError, match="the disk is full"):
            await learner.publish(version=0)
        assert (engine.loaded, engine.restarts, engine.failures) == ([], 0, 0)


async def test_a_transfer_that_fails_twice_is_made_once_more_after_a_restart(tmp_path: Path) -> None:
    async with learning(tmp_path) as (learner, engine):
        engine.failures = 2
        published = await learner.publish(version=0)
        assert (engine.loaded, engine.restarts, published["engine/restarts"]) == ([0], 1, 1.0)
        engine.failures = 4
        with pytest.raises(EngineError, match="refused the weights"):
            await learner.publish(version=1)
        assert engine.restarts == 2
