"""The environment "trl": classes that TRL trains on as `environment_factory`, unchanged.

class Game:
    def reset(self, secret, **row): ...         # the task's metadata, and `prompt`; a text that it returns follows the question
    def guess(self, number: int) -> str:        # public, typed, with a docstring: a function of the agent's session
        '''Guess the number.'''
    def get_reward(self): ...                   # optional, sync or async; asked for once, at the end

environment.use = "trl"    environment.options.factory = "mine:Game"    reward.function = "outcome"
"""

import inspect
import logging
import random
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from pydantic import Field

from lzero.blocking import in_thread
from lzero.errors import ConfigError, LzeroError, RewardError, SceneError, ToolError
from lzero.plugins import load_object
from lzero.protocols import Tool, ToolContext
from lzero.rewards.validation import real_number
from lzero.tools import tool
from lzero.tools.wrapper import Wrapper
from lzero.types import Json, Task

logger = logging.getLogger(__name__)

NOT_TOOLS = ("reset", "get_reward")
USUAL_FAULTS = (TypeError, ValueError, KeyError)
"""Exceptions of a method that are no bug of the class. The agent reads every exception, SystemExit too, as it does in TRL."""
ERROR_CHARS = 2_000
"""The most characters of an exception that the agent reads."""
QUEUE_S = 5.0
"""Seconds that a scene waits for the `reset` of others: one that hangs or is slow must not hold up all."""
_ONE_AT_A_TIME = threading.Lock()
"""`reset` may draw from the global `random`, which is seeded before it."""


class TrlEnvironment:
    """Makes a new object of the class for each scene. Implements `Environment`."""

    def __init__(
        self, *, factory: Annotated[str, Field(description='Import path of the class, as "mine:Game".')]
    ) -> None:
        """Raises ConfigError for what has no method `reset`."""
        self._factory: Callable[[], Any] = load_object(factory, key="environment.options.factory")
        self._name = factory
        self._logged: set[tuple[str, type[BaseException]]] = set()
        if not callable(self._factory) or (
            isinstance(self._factory, type) and not callable(getattr(self._factory, "reset", None))
        ):
            raise ConfigError(
                f'environment.options.factory = "{factory}" has no method reset: name a class that has one'
            )

    def __str__(self) -> str:
        return self._name

    @asynccontextmanager
    async def scene(self, task: Task, *, seed: int) -> AsyncIterator["TrlScene"]:
        game, observation = await in_thread(self._begin, task, seed)
        yield TrlScene(game, observation=observation, name=self._name, on_error=self._log)

    async def close(self) -> None: ...

    def _begin(self, task: Task, seed: int) -> tuple[Any, str]:
        game = self._factory()
        row: dict[str, Any] = {"prompt": [{"role": "user", "content": task.question}], **task.metadata}
        alone = _ONE_AT_A_TIME.acquire(timeout=QUEUE_S)
        if not alone:
            logger.warning(
                "reset of %s is slow, so several run at once: what they draw from the global random differs", self._name
            )
        try:
            random.seed(seed)
            observation = game.reset(**row)
        finally:
            if alone:
                _ONE_AT_A_TIME.release()
        if not isinstance(observation, str | None):
            raise SceneError(f"reset of {self._name} returned a {type(observation).__name__}: return a text or None")
        return game, observation or ""

    def _log(self, method: str, error: BaseException) -> None:
        """Log the first exception of each kind that a method raises and that may be a bug."""
        kind = method, type(error)
        if isinstance(error, USUAL_FAULTS) or kind in self._logged:
            return
        self._logged.add(kind)
        logger.warning(
            "%s of %s raised an exception, which the agent reads as its mistake", method, self._name, exc_info=error
        )


class TrlScene:
    """One object of the class. Implements `Scene`."""

    def __init__(
        self,
        game: Any,
        *,
        observation: str,
        name: str,
        on_error: Callable[[str, BaseException], None] = lambda *_: None,
    ) -> None:
        """`on_error` gets the name of a method, and the exception that it raised. Raises SceneError for a public method that cannot be a
        tool."""
        self._game, self._name = game, name
        self.observation = observation
        try:
            self.tools: Sequence[Tool] = tuple(_Method(tool(method), on_error) for method in public_methods(game))
        except TypeError as error:
            raise SceneError(f"{name}: {error}") from None

    async def outcome(self) -> Mapping[str, Json] | None:
        """Return {"reward": number}; None for a class without `get_reward`."""
        ask = getattr(self._game, "get_reward", None)
        if ask is None:
            return None
        found = await in_thread(ask)
        reward = await found if inspect.isawaitable(found) else found
        try:
            return {"reward": real_number(reward, "returned")}
        except RewardError as error:
            raise SceneError(f"get_reward of {self._name} {error}") from None


def public_methods(game: object) -> list[Callable[..., Any]]:
    """Return the methods that are functions of the agent's session: those that TRL takes for tools."""
    names = [name for name, _ in inspect.getmembers(type(game), predicate=inspect.isfunction)]
    return [getattr(game, name) for name in names if not name.startswith("_") and name not in NOT_TOOLS]


class _Method(Wrapper):
    """A method as a tool, with its exceptions as mistakes that the agent reads."""

    def __init__(self, tool: Tool, on_error: Callable[[str, BaseException], None]) -> None:
        super().__init__(tool)
        self._on_error = on_error

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        try:
            return await super().call(arguments, context)
        except LzeroError:
            raise
        except (Exception, SystemExit) as error:
            self._on_error(self.name, error)
            read = "".join(traceback.format_exception_only(error)).strip()[:ERROR_CHARS]
            raise ToolError(read, fault="agent") from error
