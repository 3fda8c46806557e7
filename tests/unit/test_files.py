"""Task files: what loads, and what each bad row is told."""

import gzip
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lzero.data.files import read_passages, read_tasks
from lzero.errors import DataError
from lzero.types import Passage, Task

GOOD = {"question": "Who?", "answer": "Kato"}


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


def test_passages_stream_from_each_format(tmp_path: Path) -> None:
    rows = [{"title": "Liri", "text": "rival Kato", "id": 1}, {"title": None, "text": "x", "id": 2}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    expected = [Passage(title="Liri", text="rival Kato"), Passage(title="", text="x")]
    assert list(read_passages(tmp_path / "p.parquet")) == expected
    assert list(read_passages(write(tmp_path / "p.jsonl.gz", *rows))) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "Kato"}, 'field "question" is empty: give the question as a text'),
        ({**GOOD, "question": "  "}, 'field "question" is empty'),
        ({**GOOD, "question": ["Who?"]}, 'field "question" holds a list: give a text'),
        ({"question": "Who?"}, 'field "answers" is empty: give at least one gold answer'),
        ({"question": "Who?", "answers": []}, 'field "answers" is empty: give at least one gold answer'),
        ({"question": "Who?", "answer": None}, 'field "answers" is empty'),
        ({"question": "Who?", "answers": ["Kato", " "]}, 'field "answers" holds an empty answer'),
        ({"question": "Who?", "answer": "so\n####  "}, 'field "answer" holds an empty answer'),
        ({"question": "Who?", "answer": True}, 'field "answer" holds true or false: give a text'),
        ({"question": "Who?", "answers": {"text": ["Kato"]}}, 'field "answers" holds an object: give a text'),
        ({**GOOD, "aliases": [["K."]]}, 'field "aliases" holds a list: give a text'),
        ({**GOOD, "id": ""}, 'field "id" is empty'),
        ({**GOOD, "hops": "two"}, "field \"hops\" is 'two': give a number, or leave it out"),
        ({**GOOD, "hops": 0}, 'field "hops" is 0: give a whole number from 1'),
        ({**GOOD, "hops": 1.5}, 'field "hops" is 1.5: give a whole number from 1'),
        ({**GOOD, "difficulty": "hard"}, "field \"difficulty\" is 'hard': give a number"),
        ({**GOOD, "passages": "text"}, "field \"passages\" is 'text': give a list"),
        ({**GOOD, "passages": ["x", {"title": "Liri"}]}, 'field "passages[1]" holds nothing: a passage needs a text'),
        ({**GOOD, "paragraphs": [{"title": 3, "text": "x"}]}, 'field "paragraphs[0]" has the title 3'),
        ({**GOOD, "paragraphs": [{"title": "", "text": " "}]}, 'field "paragraphs[0]" holds'),
        ([1, 2], "holds a list: each line is one JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path / "tasks.jsonl", GOOD, row)
    with pytest.raises(DataError) as caught:
        read_tasks(path)
    assert str(caught.value).startswith(f"{path}:2: {message}")


@pytest.mark.parametrize(
    "line", [b'{"question": "Who?"', b"\xff\xfe", b'{"a": "\xff"}', b'{"a": "\\ud800"}', b"[" * 100_000]
)
def test_a_line_that_is_no_json_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "tasks.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    with pytest.raises(DataError, match=r"tasks\.jsonl:2: not a line of JSON in UTF-8"):
        read_tasks(tmp_path / "tasks.jsonl")


def test_a_bad_parquet_row_is_named(tmp_path: Path) -> None:
    table = pa.table({"question": ["Who?"] * 3, "answer": [1.0, 2.0, math.nan]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r't\.parquet:3: field "answer" holds nan: give a text'):
        read_tasks(tmp_path / "t.parquet")


def test_ids_must_differ(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r':2: field "id" is "a", as in .*tasks\.jsonl:1'):
        read_tasks(write(tmp_path / "tasks.jsonl", {**GOOD, "id": "a"}, {**GOOD, "id": "a"}))


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.jsonl.gz", *([GOOD] * 50)).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-12])
    (tmp_path / "plain.jsonl.gz").write_bytes(b'{"question": "Who?"}\n')
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no PAR1")
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    (tmp_path / "folder.jsonl").mkdir()
    for name, message in {
        "none.jsonl": "cannot be read: No such file",
        "none.parquet": "cannot be read",
        "cut.jsonl.gz": "not a whole gzip file",
        "plain.jsonl.gz": "not a whole gzip file",
        "bad.parquet": "not a whole Parquet file",
        "empty.jsonl": "no tasks in it",
        "folder.jsonl": "cannot be read: Is a directory",
        "tasks.csv": r"ends in \.jsonl, \.jsonl\.gz, \.parquet",
    }.items():
        with pytest.raises(DataError, match=message):
            read_tasks(tmp_path / name)
