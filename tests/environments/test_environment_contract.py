"""The promises of every environment: the same tests for each of lzero's own, and for the example."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from lzero.agent.broker import SubmitFinalAnswer
from lzero.agent.scenes import Scenes
from lzero.config import EnvironmentConfig
from lzero.data.world import WorldSource
from lzero.environments import open_environment
from lzero.protocols import Environment
from lzero.tools.catalog import check_tool
from lzero.types import Task

EXAMPLE = Path(__file__).parents[2] / "examples" / "account_book"
MakeTask = Callable[[int], Task]


def payments() -> MakeTask:
    if str(EXAMPLE) not in sys.path:
        sys.path.append(str(EXAMPLE))
    from book import Payments  # type: ignore[import-not-found, unused-ignore]

    make: MakeTask = Payments("eval", 0).task
    return make


def no_passages(index: int) -> Task:
    return Task(id=f"t{index}", question="?", answers=())


@pytest_asyncio.fixture(params=["search", "corpus", "none", "book:AccountBook"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Environment, MakeTask]]:
    """Yield an environment, and tasks for it."""
    use: str = request.param
    options: dict[str, str] = {}
    task: MakeTask = WorldSource(0, "eval").task
    if use == "corpus":
        (tmp_path / "corpus.jsonl").write_text('{"title": "Liri", "text": "rival Kato"}\n', "utf-8")
        use, options, task = "search", {"corpus": str(tmp_path / "corpus.jsonl")}, no_passages
    if ":" in use:
        task = payments()
    environment = open_environment(EnvironmentConfig(use=use, options=options))
    yield environment, task
    await environment.close()


async def test_a_scene_can_be_used_by_an_agent(world: tuple[Environment, MakeTask]) -> None:
    environment, task = world
    found = await Scenes(environment=environment, timeout_s=60.0).rehearse(task(0))
    assert isinstance(found.observation, str)
    taken = [SubmitFinalAnswer.name]
    for tool in found.tools:
        check_tool(tool, taken=taken, said="the scene's tool")
        taken.append(tool.name)
    assert msgspec.json.decode(msgspec.json.encode(found.outcome)) == found.outcome


async def test_scenes_that_are_open_at_once_are_the_same_for_a_seed(world: tuple[Environment, MakeTask]) -> None:
    environment, task = world
    async with environment.scene(task(1), seed=3) as one, environment.scene(task(1), seed=3) as two:
        assert (one.observation, await one.outcome()) == (two.observation, await two.outcome())
        assert [tool.name for tool in one.tools] == [tool.name for tool in two.tools]


async def test_a_scene_may_be_left_by_an_exception_and_others_open_after_it(
    world: tuple[Environment, MakeTask],
) -> None:
    environment, task = world
    with pytest.raises(ZeroDivisionError):
        async with environment.scene(task(2), seed=0):
            raise ZeroDivisionError
    async with environment.scene(task(3), seed=0) as scene:
        assert isinstance(scene.observation, str)


async def test_closing_twice_does_no_harm(world: tuple[Environment, MakeTask]) -> None:
    environment, _ = world
    await environment.close()
    await environment.close()
