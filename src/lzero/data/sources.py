"""Open task sources: the built-in world, a file, or a factory, by the name in the configuration.

Training needs endless, shuffled tasks. Evaluation needs the same tasks each time, in their order:

    open_source("train.jsonl", split="train", seed=7, config=config.tasks)   # Shuffled: any index, a new order each epoch
    open_source("dev.jsonl", split="eval", seed=7, config=config.tasks)      # Listed: the file's order, each task once
"""

import random
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import msgspec

from lzero.config import HUB, ROW_FILES, ReplConfig, TasksConfig, names_factory, names_world
from lzero.data.attachments import FileLimits
from lzero.data.files import Reading, read_located
from lzero.data.locating import Located, locate
from lzero.data.normal import normal
from lzero.data.public_sets import PUBLIC_SETS
from lzero.data.world import WorldSource
from lzero.errors import ConfigError, DataError, LzeroError
from lzero.plugins import described, load_object, make_plugin
from lzero.protocols import TaskSource
from lzero.seeds import derive_seed
from lzero.text import counted
from lzero.types import Task

TRAIN = "train"
PACKAGES = {"reasoning_gym": "lzero.data.reasoning_gym:puzzles"}
"""Package of tasks → what makes the factory of a source, given the name after the colon."""


class Listed:
    """A finite source in the given order. `task(index)` raises IndexError for an index outside of it."""

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        unread: Mapping[str, int] = MappingProxyType({}),
        shapes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """`unread`: field of the task file that was left out → number of rows that have it. `shapes`: see `TaskFile`."""
        self._tasks = tuple(tasks)
        self.unread = unread
        self.shapes = shapes

    def __len__(self) -> int:
        return len(self._tasks)

    def task(self, index: int) -> Task:
        if not 0 <= index < len(self._tasks):
            raise IndexError(f"task {index} of {len(self._tasks)}")
        return self._tasks[index]


class Shuffled:
    """An endless source over a finite one: each epoch contains each task once, in its own order.

    The order depends only on `seed` and the epoch, so training can resume at any index. `len` is the length of one epoch.
    """

    def __init__(self, source: TaskSource, *, seed: int) -> None:
        self.source = source
        """The source in its own order, each task once."""
        self._seed = seed
        self._order = lru_cache(maxsize=2)(self._new_order)  # two: a batch may reach over an epoch's end

    def __len__(self) -> int:
        return len(self.source)

    def task(self, index: int) -> Task:
        if index < 0:
            raise IndexError(f"task {index}")
        epoch, position = divmod(index, len(self.source))
        return self.source.task(self._order(epoch)[position])

    def _new_order(self, epoch: int) -> list[int]:
        order = list(range(len(self.source)))
        random.Random(derive_seed(self._seed, "epoch", epoch)).shuffle(order)
        return order


class Made:
    """A source of a user's own, whose tasks are checked as they are asked for."""

    def __init__(self, source: TaskSource, *, setting: str) -> None:
        """`setting` names the source in messages, as `tasks.train = "mine:Tasks"`."""
        self._source = source
        self._setting = setting

    def __len__(self) -> int:
        return len(self._source)

    def task(self, index: int) -> Task:
        """Return the task, with lists as tuples. Raises DataError for what the source raises, and for what is not a Task."""
        try:
            task = self._source.task(index)
        except LzeroError:
            raise
        except Exception as error:
            raise DataError(f"{self._setting}: task({index}) raised {described(error)}") from error
        if not isinstance(task, Task):
            raise DataError(f"{self._setting}: task({index}) returned {task!r:.80}: return an lzero.Task")
        try:
            return msgspec.convert(msgspec.structs.asdict(task), Task)
        except msgspec.ValidationError as error:
            raise DataError(f"{self._setting}: task({index}) has a field of a wrong type: {error}") from None


def open_source(spec: str, *, split: str, seed: int, config: TasksConfig, repl: ReplConfig | None = None) -> TaskSource:
    """Open the tasks that `spec` names: "world", "world/<split>", files (see `lzero.data.files`) or "hf:…" (see `lzero.data.hub`).

    Tasks of files are shuffled and endless for the split "train", in order for any other. `repl`: bounds the files of tasks.
    "reasoning_gym:chain_sum" names a generator of a package that lzero knows (PACKAGES).
    "package.module:factory" is called with split and seed, and with `tasks.options` by name. Raises DataError; ConfigError for an unknown
    field in `tasks.columns`, and for a factory that cannot be used. `task` of such a source raises DataError for what is not a task.
    """
    if names_factory(spec):
        return _made(spec, split=split, seed=seed, config=config)
    if names_world(spec):
        return WorldSource(seed=seed, split=spec.partition("/")[2] or split, hops=config.hops)
    reading = Reading(
        key=f"tasks.{split}", split=split, columns=config.columns, limits=FileLimits.of(repl or ReplConfig())
    )
    file = read_located(locate_spec(spec, wanted=split, key=reading.key), reading)
    tasks = Listed(file.tasks, unread=file.unread, shapes=file.shapes)
    return Shuffled(tasks, seed=seed) if split == TRAIN else tasks


def locate_spec(spec: str, *, wanted: str = "", key: str = "") -> Located:
    """Find the files that a source's name means: a file, a directory, "directory:split" or "hf:…". Raises ConfigError, DataError."""
    if spec.startswith(HUB):
        from lzero.data.hub import locate_on_hub

        return locate_on_hub(spec, wanted=wanted, key=key)
    before, colon, split = spec.rpartition(":")
    directory = Path(before).expanduser()
    if colon and directory.is_dir() and not spec.endswith(ROW_FILES):
        return locate(directory, wanted=split, key=key)
    path = Path(spec).expanduser()
    if not path.exists() and spec in PUBLIC_SETS:
        raise DataError(
            f"{key}: there is no file or directory {spec}. Make a set of it: lzero data download {spec}, "
            f"and then {key}=data/{spec}"
        )
    return locate(path, wanted=wanted, key=key)


def _made(spec: str, *, split: str, seed: int, config: TasksConfig) -> TaskSource:
    key, setting = f"tasks.{split}", f'tasks.{split} = "{spec}"'
    package, _, name = spec.partition(":")
    factory = load_object(PACKAGES[package], key=key)(name) if package in PACKAGES else load_object(spec, key=key)
    source = make_plugin(factory, split, seed, options=config.options, setting=setting, key="tasks.options")
    if not (callable(getattr(source, "task", None)) and hasattr(source, "__len__")):
        raise ConfigError(
            f"{setting} makes a {type(source).__name__}, which is no source of tasks: it needs task(index) and a length"
        )
    found = Made(source, setting=setting)
    if not len(found):
        raise ConfigError(f"{setting} has no tasks: its length is 0")
    return Shuffled(found, seed=seed) if split == TRAIN and len(found) < sys.maxsize else found


def reading_notes(source: TaskSource) -> str:
    """Return which rows of task files were converted, and which of their fields were left out; "" if none were."""
    listed = source.source if isinstance(source, Shuffled) else source
    if not isinstance(listed, Listed):
        return ""
    notes = [f"{counted(number, 'row')} of {name}'s shape" for name, number in listed.shapes.items()]
    if listed.unread:
        fields = ", ".join(f"`{name:.60}` ({counted(number, 'row')})" for name, number in listed.unread.items())
        notes.append(f"these fields are not read: {fields}")
    return "; ".join(notes)


def leaks(train: TaskSource, held_out: TaskSource) -> list[tuple[Task, Task]]:
    """Return the pairs (training task, held-out task) with the same question, apart from case, accents and punctuation.

    Endless sources have none, because their generators keep the splits apart.
    """
    if sys.maxsize in (len(train), len(held_out)):
        return []
    seen = {normal(train.task(index).question): train.task(index) for index in range(len(train))}
    tasks = (held_out.task(index) for index in range(len(held_out)))
    return [(seen[question], task) for task in tasks if (question := normal(task.question)) in seen]
