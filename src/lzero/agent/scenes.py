"""Open scenes of an environment, each in a separate task, with a deadline for every wait.

An environment is a user's code. It may hang, raise exceptions that control asyncio, or open scopes that the same task must leave.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lzero.agent.recorded import OWN
from lzero.agent.user_code import CLEANUP_S, Bugs, Raised, Watched, outcome_of, words
from lzero.errors import ConfigError, LzeroError, SceneError, ToolError
from lzero.protocols import Environment, Scene, Tool
from lzero.tools.catalog import check_tool
from lzero.tools.values import to_json
from lzero.types import Json, Task

logger = logging.getLogger(__name__)

MAX_OUTCOME_BYTES = 1_000_000
"""Bytes of the largest outcome, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Opens scenes of an environment."""

    environment: Environment
    timeout_s: float
    """Seconds for a scene to open, and to return its outcome and close."""
    tools: tuple[Tool, ...] = ()
    """The agent's tools beside those of a scene; a scene must not use their names."""
    bugs: Bugs = field(default_factory=Bugs)
    check: Callable[[Sequence[Tool]], None] = lambda tools: None
    """Raises ConfigError if the agent cannot work with the tools of a scene."""

    def stage(self, task: Task, *, seed: int) -> "Stage":
        """Return a scene of `task`, not open yet."""
        return Stage(self, task, seed)

    async def close(self) -> None:
        """Close the environment, or log why it does not close."""
        try:
            async with asyncio.timeout(self.timeout_s):
                await Watched(self.environment.close(), "the environment", self.bugs)
        except TimeoutError:
            logger.warning("the environment did not close within environment.timeout_s = %g s", self.timeout_s)
        except Exception as error:
            self.bugs.log("the environment, closing,", error)

    async def rehearse(self, task: Task) -> "Rehearsal":
        """Open and close a scene of `task`. Raises ConfigError if no episode could use it."""
        stage = self.stage(task, seed=0)
        try:
            scene = await stage.open()
            seen = tuple(scene.tools), scene.observation
            self.check((*seen[0], *self.tools))
            outcome = await stage.close(wanted=True)
        except SceneError as error:
            raise ConfigError(f"environment.use, {stage.doing} for task {task.id}: {error}") from error
        finally:
            await stage.leave()
        return Rehearsal(tools=seen[0], observation=seen[1], outcome=outcome)


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """The content of a scene in which no agent acted."""

    tools: Sequence[Tool]
    observation: str
    outcome: Mapping[str, Json] | None


class Stage:
    """The life of one scene: `open`, then `close`, and always `leave`."""

    def __init__(self, scenes: Scenes, task: Task, seed: int) -> None:
        self._scenes = scenes
        self._task = task
        self._seed = seed
        self._opened: asyncio.Future[Scene] = asyncio.get_running_loop().create_future()
        self._over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether the outcome is wanted."""
        self._living: asyncio.Task[dict[str, Json] | Raised | None] | None = None
        self.doing = "opening the scene"

    async def open(self) -> Scene:
        """Return the scene. Raises SceneError."""
        self._living = asyncio.create_task(outcome_of(self._scene, "the environment", self._scenes.bugs))
        await self._within(self._opened)
        if not self._opened.done():
            raise SceneError(self._said(self._living.result()))
        scene = self._opened.result()
        try:
            self._check(scene)
        except SceneError:
            raise
        except Exception as error:  # an attribute that raises
            raise SceneError(self._said(Raised(error))) from error
        return scene

    async def close(self, *, wanted: bool) -> dict[str, Json] | None:
        """Close the scene, and return its outcome if it is wanted. Raises SceneError."""
        assert self._living is not None
        self.doing = "asking for the outcome" if wanted else "closing the scene"
        if not self._over.done():  # the environment cancels it where its scene ends by itself
            self._over.set_result(wanted)
        await self._within()
        ended = self._living.result()
        if isinstance(ended, Raised):
            raise SceneError(self._said(ended))
        return ended

    async def leave(self) -> None:
        """End the scene in any state."""
        if self._living is not None and not self._living.done():
            self._living.cancel()
            await asyncio.wait({self._living}, timeout=CLEANUP_S)
            if not self._living.done():
                logger.warning("a scene of task %s goes on after it was cancelled: it is left behind", self._task.id)

    async def _scene(self) -> dict[str, Json] | None:
        outcome: dict[str, Json] | None = None
        async with self._scenes.environment.scene(self._task, seed=self._seed) as scene:
            self._opened.set_result(scene)
            if await self._over:
                outcome = await _plain(await scene.outcome())
                self.doing = "closing the scene"
        return outcome

    async def _within(self, *also: "asyncio.Future[Any]") -> None:
        """Wait for the scene's end, or for one of these futures. Raises SceneError if neither comes in time."""
        assert self._living is not None
        timeout_s = self._scenes.timeout_s
        waited_for = {self._living, *also}
        done, _ = await asyncio.wait(waited_for, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise SceneError(f"the environment took more than environment.timeout_s = {timeout_s:g} s")

    def _check(self, scene: Scene) -> None:
        """Raise SceneError for an invalid scene, or one with tools that cannot be used."""
        missing = [name for name in ("tools", "observation", "outcome") if not hasattr(scene, name)]
        if missing:
            raise SceneError(
                f"the environment opened a {type(scene).__name__}, which has no {' and no '.join(missing)}"
            )
        if not isinstance(scene.observation, str):
            raise SceneError(f"the scene's observation is a {type(scene.observation).__name__}, not a text")
        if not isinstance(scene.tools, Sequence):
            raise SceneError(f"the scene's tools are a {type(scene.tools).__name__}, not a sequence of tools")
        taken = [*OWN, *(tool.name for tool in self._scenes.tools)]
        for tool in scene.tools:
            try:
                name = getattr(tool, "name", None)
                check_tool(tool, taken=taken, said=f"the scene's tool {name if isinstance(name, str) else tool!r:.80}")
            except ConfigError as error:
                raise SceneError(str(error)) from None
            taken.append(tool.name)

    def _said(self, ended: object) -> str:
        if not isinstance(ended, Raised):
            return "the environment closed its scene by itself"
        if isinstance(ended.error, LzeroError):
            return str(ended.error)
        self._scenes.bugs.log("the environment", ended.error)
        return f"the environment raised {words(ended.error)}"


async def _plain(outcome: object) -> dict[str, Json] | None:
    """Return an outcome as plain data. Raises SceneError if it is not a JSON object, or too large."""
    if outcome is None:
        return None
    if not isinstance(outcome, Mapping):
        raise SceneError(f"the outcome is a {type(outcome).__name__}, not a mapping of names to JSON values")
    try:
        found = await to_json(outcome, tool="the outcome")
    except ToolError as error:
        raise SceneError(str(error)) from None
    size = len(msgspec.json.encode(found))
    if size > MAX_OUTCOME_BYTES:
        raise SceneError(f"the outcome takes {size:,} bytes as JSON; at most {MAX_OUTCOME_BYTES:,} fit")
    assert isinstance(found, dict)
    return found
