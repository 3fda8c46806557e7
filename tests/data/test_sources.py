"""Task sources: order, epochs, leaks."""

import json
import sys
from pathlib import Path

import pytest

from lzero.config import TasksConfig
from lzero.data.sources import Listed, Shuffled, leaks, open_source, reading_notes
from lzero.errors import ConfigError, DataError
from lzero.protocols import TaskSource
from lzero.types import Task


def tasks(*questions: str, prefix: str = "t") -> Listed:
    return Listed([Task(id=f"{prefix}{index}", question=text, answers=("x",)) for index, text in enumerate(questions)])


def ids(source: TaskSource, start: int, stop: int) -> list[str]:
    return [source.task(index).id for index in range(start, stop)]


def file_of(directory: Path, count: int) -> str:
    path = directory / "tasks.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}?", "answer": i}) + "\n" for i in range(count)), "utf-8")
    return str(path)


def test_training_meets_each_task_once_an_epoch_in_a_new_order() -> None:
    source = Shuffled(tasks(*"abcdefgh"), seed=1)
    first, second = ids(source, 0, 8), ids(source, 8, 16)
    assert sorted(first) == sorted(second) == [f"t{index}" for index in range(8)]
    assert first != second
    assert len(source) == 8


def test_the_order_follows_from_the_seed_and_resumes_at_any_index() -> None:
    questions = tasks(*"abcdefgh")
    whole = ids(Shuffled(questions, seed=1), 0, 40)
    assert ids(Shuffled(questions, seed=1), 21, 40) == whole[21:]
    backwards = Shuffled(questions, seed=1)
    assert [backwards.task(index).id for index in reversed(range(40))] == whole[::-1]
    assert ids(Shuffled(questions, seed=2), 0, 40) != whole


def test_evaluation_keeps_the_files_order_and_ends_with_it(tmp_path: Path) -> None:
    source = open_source(file_of(tmp_path, 5), split="eval", seed=3, config=TasksConfig())
    assert ids(source, 0, len(source)) == [f"tasks-{line}" for line in range(1, 6)]
    assert source.task(0).split == "eval"
    for outside in (5, -1):
        with pytest.raises(IndexError):
            source.task(outside)


def test_training_on_a_file_is_shuffled_and_without_end(tmp_path: Path) -> None:
    source = open_source(file_of(tmp_path, 5), split="train", seed=3, config=TasksConfig())
    assert isinstance(source, Shuffled)
    assert sorted(ids(source, 100, 105)) == [f"tasks-{line}" for line in range(1, 6)]
    with pytest.raises(IndexError):
        source.task(-1)


def test_the_world_is_named_with_or_without_a_split() -> None:
    config = TasksConfig(hops=(2,))
    world = open_source("world", split="eval", seed=3, config=config)
    assert len(world) == sys.maxsize
    assert world.task(4) == open_source("world/eval", split="train", seed=3, config=config).task(4)
    assert world.task(4).question != open_source("world", split="train", seed=3, config=config).task(4).question
    assert world.task(4).hops == 2


def test_a_file_in_a_folder_called_world_is_a_file() -> None:
    with pytest.raises(DataError, match="cannot be read"):
        open_source("world/none.jsonl", split="eval", seed=3, config=TasksConfig())


def test_a_question_in_both_sources_is_a_leak_however_it_is_written() -> None:
    train = Shuffled(tasks("Who is Beyoncé?", "How many?", "北京?"), seed=1)
    held_out = tasks("who is  “beyonce”", "How much?", "東京?", prefix="e")
    assert [(one.id, other.id) for one, other in leaks(train, held_out)] == [("t0", "e0")]
    assert leaks(tasks("How many?"), held_out) == []


def test_a_source_without_end_has_no_leaks() -> None:
    world = open_source("world", split="train", seed=3, config=TasksConfig())
    assert leaks(world, tasks("How many?")) == leaks(tasks("How many?"), world) == []


def test_fields_that_are_not_read_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"question": "Who?", "answer": "Kato", "csv": ["a"]}) + "\n", "utf-8")
    for split in ("train", "eval"):
        source = open_source(str(path), split=split, seed=3, config=TasksConfig())
        assert reading_notes(source) == "these fields are not read: `csv` (1 row)"
    assert reading_notes(open_source("world", split="eval", seed=3, config=TasksConfig())) == ""


OWN = """
from lzero import Task

TASKS = {
    "raises": lambda: {}["item"],
    "no task": lambda: {"question": "Who?"},
    "number": lambda: Task(id="t", question="Who?", answers=("x",), metadata={"coins": 5}),
    "list": lambda: Task(id="t", question="Who?", answers=["x", "y"]),
}


class Own:
    def __init__(self, split, seed, *, gives: str, length: int = 3):
        self.task, self.length = lambda index: TASKS[gives](), length

    def __len__(self):
        return self.length
"""


def own_source(split: str = "train", **options: object) -> TaskSource:
    config = TasksConfig(train="own_tasks:Own", options=options)
    return open_source(config.train, split=split, seed=0, config=config)


@pytest.fixture
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_tasks.py").write_text(OWN, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_own")
@pytest.mark.parametrize(
    ("gives", "said"),
    [
        ("raises", r"raised KeyError: 'item' \(own_tasks.py, line 5\)"),
        ("no task", "return an lzero.Task"),
        ("number", "Expected `str`, got `int`"),
    ],
)
def test_a_source_that_gives_no_task_is_named(gives: str, said: str) -> None:
    with pytest.raises(DataError, match=rf'tasks.eval = "own_tasks:Own": task\(1\) .*{said}'):
        own_source("eval", gives=gives).task(1)


@pytest.mark.usefixtures("_own")
def test_a_source_of_ones_own_is_checked_when_it_is_opened_and_used() -> None:
    assert own_source(gives="list").task(7).answers == ("x", "y")
    with pytest.raises(ConfigError, match="its length is 0"):
        own_source(gives="list", length=0)
