"""The subject of the checks: a configuration, with its tasks and tokenizer opened once."""

import asyncio
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Self

from lzero.agent.compose import open_scenes
from lzero.agent.scenes import Rehearsal, Scenes
from lzero.config import Config
from lzero.engine.kinds import kind_of
from lzero.protocols import TaskSource
from lzero.rollout.compose import eval_tasks, train_tasks
from lzero.types import Task

if TYPE_CHECKING:
    from lzero.agent.renderer import Renderer

Split = Literal["train", "eval"]
SPLITS: tuple[Split, ...] = ("train", "eval")
MAX_TASKS = 300
"""Number of tasks of an endless source that are checked; of a file, all are."""


class Subject:
    """A configuration with its tasks and tokenizer, which are opened on first use and then raise their errors."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._sources: dict[Split, TaskSource] = {}
        self._tasks: dict[Split, Sequence[Task]] = {}
        self._rehearsals: dict[str, Rehearsal] = {}
        self._loop = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close everything that was opened."""
        if "scenes" in self.__dict__:
            self._loop.run(self.scenes.close())
        self._loop.close()

    @cached_property
    def scenes(self) -> Scenes:
        return open_scenes(self.config)

    @cached_property
    def renderer(self) -> "Renderer | None":
        """The renderer; None for an engine that replies in words."""
        from lzero.agent.renderer import open_renderer

        tokenizer = kind_of(self.config).open_tokenizer(self.config)
        return None if tokenizer is None else open_renderer(self.config.agent, tokenizer)

    def rehearsal(self, task: Task) -> Rehearsal:
        """Return the content of a scene of the task. Raises ConfigError if no episode could use it."""
        if task.id not in self._rehearsals:
            self._rehearsals[task.id] = self._loop.run(self.scenes.rehearse(task))
        return self._rehearsals[task.id]

    def source(self, split: Split) -> TaskSource:
        if split not in self._sources:
            self._sources[split] = train_tasks(self.config) if split == "train" else eval_tasks(self.config)
        return self._sources[split]

    def tasks(self, split: Split) -> Sequence[Task]:
        """Return the tasks of a file, or the first MAX_TASKS of an endless source."""
        if split not in self._tasks:
            source = self.source(split)
            number = MAX_TASKS if self.is_endless(split) else len(source)
            self._tasks[split] = [source.task(index) for index in range(number)]
        return self._tasks[split]

    def is_endless(self, split: Split) -> bool:
        return len(self.source(split)) == sys.maxsize
