"""Tables of tasks: what is written is read again, and what no task can hold is named."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_task

from lzero.data.table import DROPPED, TASKS, TableWriter, check_table, read_batches, to_batch, to_tasks
from lzero.errors import DataError
from lzero.types import Passage, Task

FULL = make_task(
    "a",
    answers=("Kato", "Katō"),
    ability="files",
    difficulty=0.5,
    hops=2,
    passages=(Passage(title="Liri", text="a place"), Passage(title="", text="…")),
    files=("files/1/a.pdf",),
    metadata={"level": "hard"},
)


def written(file: Path, batch: pa.RecordBatch) -> Path:
    writer = TableWriter(file, batch.schema)
    writer.write(batch)
    writer.close()
    return file


def tasks_of(file: Path) -> list[Task]:
    check_table(file)
    return [task for batch in read_batches(file) for task in to_tasks(batch)]


def test_tasks_come_back_as_they_were(tmp_path: Path) -> None:
    tasks = [FULL, make_task("b", answers=())]
    assert tasks_of(written(tmp_path / "t.parquet", to_batch(tasks))) == tasks
    assert DROPPED.names[: len(TASKS)] == list(Task.__struct_fields__)


def test_a_table_without_a_newer_column_has_its_default(tmp_path: Path) -> None:
    batch = to_batch([FULL]).select(["id", "question", "answers", "ability"])
    assert tasks_of(written(tmp_path / "t.parquet", batch)) == [
        Task(id="a", question="Who?", answers=FULL.answers, ability="files")
    ]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("question", " ", "row 2 has no valid `question`"),
        ("id", None, "row 2 has no valid `id`"),
        ("ability", "magic", "row 2 has no valid `ability`"),
        ("difficulty", float("nan"), "row 2 has no valid `difficulty`"),
        ("metadata", [("key", None)], "row 2 has no valid `metadata`"),
        ("metadata", [("key", "1"), ("key", "2")], "row 2 has no valid `metadata`"),
        ("passages", [{"title": None, "text": "x"}], "row 2 has no valid `passages`"),
        ("answers", ["x", None], "has an empty entry in `answers`"),
    ],
)
def test_a_row_that_is_no_task_is_named(tmp_path: Path, field: str, value: object, said: str) -> None:
    batch = to_batch([FULL, FULL])
    values = pa.array([batch[field][0].as_py(), value], TASKS.field(field).type)
    file = written(tmp_path / "t.parquet", batch.set_column(batch.schema.get_field_index(field), field, values))
    with pytest.raises(DataError, match=said):
        tasks_of(file)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    cut = written(tmp_path / "cut.parquet", to_batch([FULL] * 100))
    cut.write_bytes(cut.read_bytes()[:-40])
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"text": ["x"]}), other)
    bomb = tmp_path / "bomb.parquet"
    large = pa.DictionaryArray.from_arrays(pa.array([0] * 3_000, pa.int32()), pa.array(["x" * 1_000_000]))
    short = pa.array(["x"] * 3_000)
    answers = pa.array([["x"]] * 3_000)
    pq.write_table(pa.table({"id": short, "question": large, "answers": answers}), bomb)
    for file, said in (
        (cut, "cut.parquet is no table"),
        (other, "no column"),
        (bomb, "bomb.parquet is no table of tasks"),
    ):
        with pytest.raises(DataError, match=said):
            tasks_of(file)
