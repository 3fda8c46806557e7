"""Task files: what loads, and what each bad row is told."""

import gzip
import json
import math
import os
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lzero.data import rows
from lzero.data.attachments import FileLimits
from lzero.data.files import Reading, read_passages
from lzero.data.files import read_tasks as read_task_file
from lzero.data.formats import base
from lzero.errors import ConfigError, DataError
from lzero.types import Passage, Task

GOOD = {"question": "Who?", "answer": "Kato"}


def read_tasks(path: Path, *, split: str = "") -> list[Task]:
    return list(read_task_file(path, Reading(split=split)).tasks)


def refusal(path: Path, reading: Reading | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_task_file(path, reading)
    return str(caught.value)


def write(path: Path, *rows: object) -> Path:
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_a_row_with_everything(tmp_path: Path) -> None:
    row = {
        "id": 7,
        "question": "Who?",
        "answer": "Kato",
        "answers": ["Kato", "Umi"],
        "aliases": ["K.", ""],
        "passages": [{"title": "Liri", "text": "rival Kato", "id": 1}, {"title": None, "text": "x"}, "bare"],
        "hops": 2,
        "difficulty": 0.5,
        "dataset": "tiny",
        "split": "dev",
        "type": "bridge",
        "level": None,
        "long": "x" * 500,
        "nested": {"a": 1},
        "metadata": {"year": 1990},
        "license": "CC BY 4.0",
        "revision": "1f0c",
    }
    assert read_tasks(write(tmp_path / "tasks.jsonl", row), split="eval") == [
        Task(
            id="7",
            question="Who?",
            answers=("Kato", "Umi", "K."),
            source="tiny",
            split="dev",
            difficulty=0.5,
            hops=2,
            passages=(
                Passage(title="Liri", text="rival Kato"),
                Passage(title="", text="x"),
                Passage(title="", text="bare"),
            ),
            metadata={"type": "bridge", "year": "1990"},
            licence="CC BY 4.0",
            revision="1f0c",
        )
    ]


def test_the_least_row_gets_its_id_source_and_split_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_bytes(
        b'\xef\xbb\xbf{"question": "Who?", "answers": ["Kato"]}\r\n\n \n{"question": "How many?", "answer": 3}'
    )
    assert read_tasks(tmp_path / "dev.jsonl", split="eval") == [
        Task(id="dev-1", question="Who?", answers=("Kato",), source="dev", split="eval"),
        Task(id="dev-4", question="How many?", answers=("3",), source="dev", split="eval"),
    ]


def test_gsm8k_keeps_what_follows_the_mark(tmp_path: Path) -> None:
    (task,) = read_tasks(write(tmp_path / "t.jsonl", {"question": "?", "answer": "48+24 = <<48+24=72>>72\n#### 72"}))
    assert task.answers == ("72",)


def test_gzip_and_parquet_hold_the_same_tasks(tmp_path: Path) -> None:
    rows = [{**GOOD, "passages": [{"title": None, "text": "x"}]}, {**GOOD, "passages": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    plain = read_tasks(write(tmp_path / "t.jsonl", *rows))
    assert read_tasks(write(tmp_path / "t.jsonl.gz", *rows)) == plain
    assert read_tasks(tmp_path / "t.parquet") == plain
    assert plain[0].passages == (Passage(title="", text="x"),)


def test_a_number_of_a_column_is_written_as_a_person_writes_it(tmp_path: Path) -> None:
    """One missing value makes floats of a column's whole numbers; a small float has few digits."""
    columns = {
        "question": ["a", "b", "c"],
        "answer": pa.array([5.0, -0.5, 1e300], pa.float64()),
        "aliases": pa.array([[0.1], None, [2.0]], pa.list_(pa.float32())),
        "id": pa.array([1.0, 2.0, 3.0], pa.float64()),
        "year": pa.array([1990.0, None, 0.1], pa.float32()),
        "price": pa.array([Decimal("5.00"), Decimal("0.50"), None], pa.decimal128(5, 2)),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    tasks = read_tasks(tmp_path / "t.parquet")
    assert [task.answers for task in tasks] == [("5", "0.1"), ("-0.5",), ("1e+300", "2")]
    assert [task.id for task in tasks] == ["1", "2", "3"]
    assert [task.metadata.get("year") for task in tasks] == ["1990", None, "0.1"]
    prices = pa.table({"question": columns["question"][:2], "answer": columns["price"][:2]})
    pq.write_table(prices, tmp_path / "p.parquet")
    assert [task.answers for task in read_tasks(tmp_path / "p.parquet")] == [("5",), ("0.5",)]
    (task,) = read_tasks(write(tmp_path / "t.jsonl", {"question": "?", "answer": 5.0}))
    assert task.answers == ("5",)


def test_passages_stream_from_each_format(tmp_path: Path) -> None:
    rows = [{"title": "Liri", "text": "rival Kato", "id": 1}, {"title": None, "text": "x", "id": 2}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    expected = [Passage(title="Liri", text="rival Kato"), Passage(title="", text="x")]
    assert list(read_passages(tmp_path / "p.parquet")) == expected
    assert list(read_passages(write(tmp_path / "p.jsonl.gz", *rows))) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "Kato", "question": None}, "field `question` is empty: give the question as a text"),
        ({**GOOD, "question": "  "}, "field `question` is empty"),
        ({**GOOD, "question": ["Who?"]}, "field `question` holds a list: give a text"),
        ({"question": "Who?", "answers": None}, "field `answers` is empty: give at least one gold answer"),
        ({"question": "Who?", "answers": []}, "field `answers` is empty: give at least one gold answer"),
        ({"question": "Who?", "answer": None}, "field `answer` is empty"),
        ({"question": "Who?", "answers": ["Kato", " "]}, "field `answers` holds an empty answer"),
        ({"question": "Who?", "answer": "so\n####  "}, "(of GSM8K's shape): field `answer` holds an empty answer"),
        ({"question": "Who?", "answer": True}, "field `answer` holds true or false: give a text"),
        ({"question": "Who?", "answers": {"text": ["Kato"]}}, "field `answers` holds an object: give a text"),
        ({**GOOD, "aliases": [["K."]]}, "field `aliases` holds a list: give a text"),
        ({**GOOD, "id": ""}, "field `id` is empty"),
        ({**GOOD, "hops": "two"}, "field `hops` is 'two': give a number, or leave it out"),
        ({**GOOD, "hops": 0}, "field `hops` is 0: give a whole number from 1"),
        ({**GOOD, "hops": 2**53}, "field `hops` is 9.0072e+15: give a whole number from 1"),
        ({**GOOD, "hops": 1.5}, "field `hops` is 1.5: give a whole number from 1"),
        ({**GOOD, "difficulty": "hard"}, "field `difficulty` is 'hard': give a number"),
        ({**GOOD, "passages": "text"}, "field `passages` is 'text': give a list"),
        ({**GOOD, "passages": ["x", {"title": "Liri"}]}, "field `passages[1]` holds nothing: a passage needs a text"),
        ({**GOOD, "paragraphs": [{"title": 3, "text": "x"}]}, "field `paragraphs[0]` has the title 3"),
        ({**GOOD, "paragraphs": [{"title": "", "text": " "}]}, "field `paragraphs[0]` holds"),
        ([1, 2], "holds a list: each line is one JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path / "tasks.jsonl", GOOD, row)
    separator = " " if message.startswith(("holds a list: each", "(of")) else ": "
    assert refusal(path, Reading(key="tasks.train")).startswith(f"tasks.train: line 2 of {path}{separator}{message}")


@pytest.mark.parametrize(
    "line", [b'{"question": "Who?"', b"\xff\xfe", b'{"a": "\xff"}', b'{"a": "\\ud800"}', b"[" * 100_000]
)
def test_a_line_that_is_no_json_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "tasks.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    with pytest.raises(DataError, match=r"line 2 of .*tasks\.jsonl is not JSON in UTF-8"):
        read_tasks(tmp_path / "tasks.jsonl")


def test_a_bad_parquet_row_is_named(tmp_path: Path) -> None:
    table = pa.table({"question": ["Who?"] * 3, "answer": [1.0, 2.0, math.nan]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"row 3 of .*t\.parquet: field `answer` holds nan: give a text"):
        read_tasks(tmp_path / "t.parquet")


def test_ids_must_differ(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'line 2 of .*: field `id` is "a", as in line 1 of .*tasks\.jsonl'):
        read_tasks(write(tmp_path / "tasks.jsonl", {**GOOD, "id": "a"}, {**GOOD, "id": "a"}))


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.jsonl.gz", *([GOOD] * 50)).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-12])
    (tmp_path / "plain.jsonl.gz").write_bytes(b'{"question": "Who?"}\n')
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no PAR1")
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "whole.csv").write_bytes(b"question,answer\n")
    (tmp_path / "whole.docx").write_bytes(b"PK")
    os.mkfifo(tmp_path / "pipe.jsonl")  # which would be waited for
    for name, message in {
        "none.jsonl": "cannot be read: there is no such file",
        "none.parquet": "cannot be read: there is no such file",
        "cut.jsonl.gz": "is not a whole gzip file",
        "plain.jsonl.gz": "is not a whole gzip file",
        "bad.parquet": "is not a whole Parquet file",
        "empty.jsonl": "no tasks in it",
        "pipe.jsonl": "cannot be read: it is not a regular file",
        "folder.jsonl": "none of its 0 files holds rows; they end in .jsonl, ",
        "whole.csv": "no tasks in it",
        "whole.docx": r"ends in \.jsonl, \.jsonl\.gz, \.json",
    }.items():
        with pytest.raises(DataError, match=message):
            read_tasks(tmp_path / name)


def test_an_error_about_unknown_fields_lists_them_and_shows_the_mapping(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"id": "c1", "utterance": "Which?", "targetValue": "Nord", "note": "x"})
    assert refusal(path, Reading(key="tasks.eval")) == (
        f"tasks.eval: line 1 of {path} has no field `question`, and no field `answer` or `answers`. "
        "It has `id`, `utterance`, `targetValue`, `note`. "
        'Rename what holds it, or map it: tasks.columns={question = "utterance", answers = "targetValue"}'
    )
    mapped = read_task_file(path, Reading(columns={"question": "utterance", "answers": "targetValue"})).tasks
    assert mapped == (Task(id="c1", question="Which?", answers=("Nord",), source="t", metadata={"note": "x"}),)


def test_a_whole_number_may_be_longer_than_a_float_but_for_measures(tmp_path: Path) -> None:
    large = 10**400
    (task,) = read_tasks(write(tmp_path / "t.jsonl", {"question": "?", "answer": large}))
    assert task.answers == (str(large),)
    for field in ("difficulty", "hops"):
        with pytest.raises(DataError, match=rf"line 1 of .*: field `{field}` is 1000.*give a number"):
            read_tasks(write(tmp_path / "t.jsonl", {"question": "?", "answer": "a", field: large}))


def test_columns_reach_into_objects_and_lists(tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "Who?"}], "reward": {"truth": 3}, "ability": "MATH", "sources": [1]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "t.parquet")
    columns = {"question": "prompt.0.content", "answers": "reward.truth", "source": ""}
    (task,) = read_task_file(tmp_path / "t.parquet", Reading(columns=columns)).tasks
    assert (task.question, task.answers, task.ability, task.source) == ("Who?", ("3",), "math", "t")


def test_columns_that_do_nothing_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", GOOD, {**GOOD, "question": "How?"})
    said = refusal(path, Reading(key="tasks.eval", columns={"hops": "depth"}))
    assert (
        said == f"tasks.eval: {path}: tasks.columns reads `hops` from the column `depth`, and no row has a value there"
    )
    with pytest.raises(ConfigError, match="a task has no field 'anwsers'; did you mean 'answers'"):
        read_task_file(path, Reading(columns={"anwsers": "x"}))


@pytest.mark.parametrize(
    ("name", "field"),
    [("anwser", "answer"), ("Answers", "answers"), ("file", "files"), ("passage", "passages"), ("hop", "hops")],
)
def test_a_misspelt_field_does_not_vanish(tmp_path: Path, name: str, field: str) -> None:
    (tmp_path / "x").touch()
    row = {"question": "Who?", "answer": "Kato", name: "x"}
    if field.startswith("answer"):
        del row["answer"]
    said = refusal(write(tmp_path / "t.jsonl", row))
    assert f"`{name}`" in said
    assert f'tasks.columns={{{field if field != "answer" else "answers"} = "{name}"}}' in said


def test_other_fields_are_kept_or_counted(tmp_path: Path) -> None:
    source = {"file": "hotpot_dev.json"}
    rows = (
        {**GOOD, **source, "question_id": 7, "sources": "both", "source": "x", "csv": "1;" * 500},
        {**GOOD, "csv": ["a"]},
    )
    file = read_task_file(write(tmp_path / "t.jsonl", *rows))
    assert file.tasks[0].metadata == {**source, "question_id": "7", "sources": "both"}
    assert file.unread == {"file": 1, "csv": 2}


def test_an_unknown_ability_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    said = refusal(write(tmp_path / "t.jsonl", {**GOOD, "ability": "file"}))
    assert "field `ability` is 'file': did you mean 'files'? There are qa, math, data, search, files" in said


def test_files_are_found_beside_the_task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sheets").mkdir()
    for name in ("bikes.csv", "sheets/boats.csv"):
        (tmp_path / name).write_text("a;b\n", "utf-8")
    write(tmp_path / "t.jsonl", {**GOOD, "files": ["bikes.csv", "sheets/boats.csv"]}, {**GOOD, "files": "bikes.csv"})
    monkeypatch.chdir(tmp_path / "sheets")
    two, one = read_tasks(Path("../t.jsonl"))
    assert [Path(file).resolve() for file in two.files] == [tmp_path / "bikes.csv", tmp_path / "sheets" / "boats.csv"]
    assert (len(one.files), one.ability) == (1, "files")


def test_files_that_cannot_be_given_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "data" / "b").mkdir(parents=True)
    for name in ("outside.csv", "data/a.csv", "data/b/a.csv"):
        (tmp_path / name).write_text("123456789", "utf-8")
    (tmp_path / "data" / "link.csv").symlink_to(tmp_path / "outside.csv")
    (tmp_path / "data" / "folder").symlink_to(tmp_path / "data" / "b")
    limits = FileLimits(file_bytes=100, total_bytes=10, count=2)
    for files, message in {
        ("none.csv",): "names 'none.csv': .*none.csv cannot be read: there is no such file",
        ("b",): "names 'b': .* it is a directory, not a file",
        ("../outside.csv",): "the path leaves the task file's directory",
        (str(tmp_path / "outside.csv"),): "the path is absolute",
        ("link.csv",): "link.csv is a symbolic link",
        ("folder/a.csv",): "folder is a symbolic link",
        ("a\0.csv",): "that is no file name",
        ("",): "that is no file name",
        ("a.csv", "b/a.csv"): "names 'a.csv' and 'b/a.csv': in a session both would be 'a.csv'",
        ("a.csv", "a.csv"): "names 'a.csv' and 'a.csv'",
    }.items():
        path = write(tmp_path / "data" / "t.jsonl", GOOD, {**GOOD, "files": list(files)})
        with pytest.raises(DataError, match=rf"tasks\.eval: line 2 of .*t\.jsonl: field `files` .*{message}"):
            read_task_file(path, Reading(key="tasks.eval", limits=limits))
    path = write(tmp_path / "data" / "t.jsonl", {**GOOD, "files": ["a.csv"]})
    for limit, message in {
        FileLimits(file_bytes=8): r"its 9 bytes are more than the 8 of a file \(repl.file_mb\)",
        FileLimits(total_bytes=8): r"names files of 9 bytes; a session holds 8 \(repl.disk_mb\)",
        FileLimits(count=0): r"names 1 files; a session takes 0 \(repl.transfers\)",
    }.items():
        with pytest.raises(DataError, match=message):
            read_task_file(path, Reading(limits=limit))


def test_a_packed_file_is_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_ROW_BYTES", 10_000)
    long = {**GOOD, "question": "a" * 2_000_000}
    with gzip.open(tmp_path / "t.jsonl.gz", "wb") as packed:
        packed.write(f"{json.dumps(GOOD)}\n{json.dumps(long)}\n".encode())
    assert "line 2 of" in (said := refusal(tmp_path / "t.jsonl.gz"))
    assert "is larger than the" in said
    pq.write_table(pa.Table.from_pylist([long]), tmp_path / "t.parquet")
    assert "row 1 of" in refusal(tmp_path / "t.parquet")
    many = write(tmp_path / "many.jsonl.gz", *([GOOD] * 10))
    with pytest.raises(DataError, match="holds more than 99 bytes, unpacked"):
        list(rows.read_rows(many, max_bytes=99))


def test_an_error_about_a_passage_file_lists_its_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1 of .* has no field `text`. It has `contents`. Rename the one"):
        list(read_passages(write(tmp_path / "p.jsonl", {"contents": "rival Kato"})))
