"""Sets on disk and `lzero data merge`: nothing disappears, nothing is overwritten, and a kill leaves nothing behind."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_task
from set_files import make_set, tasks_of

from lzero.data.manifest import read_manifest
from lzero.data.new_set import NewSet
from lzero.data.stages import run_stage
from lzero.data.stages.inputs import open_set
from lzero.data.stages.merge import Merge
from lzero.data.table import to_batch
from lzero.errors import ConfigError, DataError


def test_rows_keep_their_order_and_splits_and_the_manifest_their_history(tmp_path: Path) -> None:
    one = make_set(tmp_path / "one", make_task("a", split="train"), make_task("b", split="dev"))
    (tmp_path / "more.jsonl").write_text(
        '{"id": "c", "utterance": "How?", "answer": "so", "split": "test", "extra": {}}\n'
    )
    more = str(tmp_path / "more.jsonl")
    manifest = run_stage(Merge(), [one, more], tmp_path / "out", columns={"question": "utterance"})
    assert [(task.id, task.split) for task in tasks_of(tmp_path / "out")] == [
        ("a", "train"),
        ("b", "dev"),
        ("c", "test"),
    ]
    assert read_manifest(tmp_path / "out") == manifest
    assert [(each.name, each.rows) for each in manifest.inputs] == [(one, 2), (more, 1)]
    assert manifest.inputs[1].counts == {"rows whose field extra is not read": 1}
    assert manifest.inputs[0].made == read_manifest(Path(one))
    assert pq.read_metadata(tmp_path / "out" / "dropped.parquet").num_rows == 0


def test_two_rows_with_one_id_are_named_or_renamed(tmp_path: Path) -> None:
    one = make_set(tmp_path / "one", make_task("a"), make_task("b"))
    two = make_set(tmp_path / "two", make_task("c"), make_task("b", question="Where?"))
    with pytest.raises(DataError, match=r"'b': row 2 of \S+one and row 2 of \S+two; .*--rename"):
        run_stage(Merge(), [one, two], tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
    manifest = run_stage(Merge(rename=True), [one, two], tmp_path / "out")
    assert [task.id for task in tasks_of(tmp_path / "out")] == ["a", "b", "c", "two/b"]
    assert manifest.counts == {"renamed": 1}
    with pytest.raises(DataError, match="'two/b'"):
        run_stage(Merge(rename=True), [one, two, two, two], tmp_path / "more")


def test_files_travel_with_their_rows(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "?", "answer": "a", "files": "table.csv"}))
    run_stage(Merge(), [str(tmp_path / "rows.jsonl")], tmp_path / "one")
    run_stage(Merge(), [str(tmp_path / "one")], tmp_path / "two")
    (task,) = tasks_of(tmp_path / "two")
    assert (tmp_path / "two" / task.files[0]).read_text() == "a,b"


def test_a_set_that_names_a_file_outside_of_it_is_refused(tmp_path: Path) -> None:
    with NewSet(tmp_path / "evil", stage="made") as new:
        batch = to_batch([make_task("a", files=("files/../../secret",))])
        new.write(batch, pa.nulls(1, pa.string()))
        new.finish(options={}, inputs=[])
    with pytest.raises(DataError, match="not one of its own"):
        run_stage(Merge(), [str(tmp_path / "evil")], tmp_path / "out")


def test_a_set_is_never_overwritten_nor_written_twice_at_once(tmp_path: Path) -> None:
    one = make_set(tmp_path / "one", make_task("a"))
    with pytest.raises(ConfigError, match="never written over"):
        run_stage(Merge(), [one], tmp_path / "one")
    with NewSet(tmp_path / "two", stage="x"), pytest.raises(ConfigError, match="another process writes"):
        run_stage(Merge(), [one], tmp_path / "two")


def test_a_set_that_was_cut_or_changed_is_refused(tmp_path: Path) -> None:
    one = Path(make_set(tmp_path / "one", make_task("a")))
    tasks = one / "tasks.parquet"
    os.truncate(tasks, tasks.stat().st_size - 7)
    with pytest.raises(DataError, match="was cut"):
        open_set(one)
    (one / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"manifest\.json is no manifest"):
        open_set(one)
