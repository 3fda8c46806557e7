"""Rows as other projects and data sets write them: each shape becomes the same kind of task, and is named."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shape_cases import ASKED, CASES

from lzero.config import TasksConfig
from lzero.data.files import Reading, TaskFile, read_tasks
from lzero.data.rows import Row
from lzero.data.shapes import SHAPES, shape_of
from lzero.data.sources import open_source, reading_notes
from lzero.data.task_rows import TaskReader
from lzero.errors import DataError
from lzero.types import Task


def read(folder: Path, *rows: dict[str, object], columns: dict[str, str] | None = None) -> TaskFile:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return read_tasks(folder / "rows.jsonl", Reading(columns=columns or {}))


@pytest.mark.parametrize(
    ("name", "row", "expected"), CASES, ids=[f"{name}-{at}" for at, (name, _, _) in enumerate(CASES)]
)
def test_a_row_of_each_shape_becomes_a_task(tmp_path: Path, name: str, row: dict[str, object], expected: Task) -> None:
    file = read(tmp_path, row)
    assert file.tasks == (expected,)
    assert file.shapes == {name: 1}


def test_every_shape_has_a_case_and_rows_of_tasks_have_none() -> None:
    assert {shape.NAME for shape in SHAPES} == {name for name, _, _ in CASES} | {"WikiTableQuestions"}
    assert (
        shape_of({"question": "Who?", "answers": ["Kato"], "passages": ["x"], "context": "y", "solution": "z"}) is None
    )


def test_a_table_in_a_row_becomes_a_file_of_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = {"header": ["port", "boats"], "rows": [["Nord, or so", "12"], ["Süd", "9"]], "name": "csv/2-csv/1.tsv"}
    row: dict[str, object] = {"id": "nt-0", "question": "Which?", "answers": ["Nord", "Süd"], "table": table}
    (first, other) = read(tmp_path, row, row | {"id": "nt-1"}).tasks
    assert (first.answers, first.ability, first.files) == (("Nord, Süd",), "data", other.files)
    assert Path(first.files[0]).name == "table.csv"
    assert Path(first.files[0]).read_text("utf-8") == 'port,boats\n"Nord, or so",12\nSüd,9\n'


def test_a_published_table_is_named_by_its_path_and_values_are_unescaped(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "1.csv").write_text("port\nNord\n", "utf-8")
    (tmp_path / "rows.tsv").write_text(
        'id\tutterance\tcontext\ttargetValue\nnt-0\twhat is\\na "b"?\tcsv/1.csv\tNord\\pB|9\n', "utf-8"
    )
    (found,) = read_tasks(tmp_path / "rows.tsv").tasks
    assert (found.question, found.answers) == ('what is\na "b"?', ("Nord|B, 9",))
    assert [Path(file).name for file in found.files] == ["1.csv"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**ASKED, "context": [["Liri"]], "supporting_facts": []}, r"`context\[0\]` holds a list: give a pair"),
        (
            {**ASKED, "context": [["Liri", [3]]], "supporting_facts": []},
            "`context` holds 3 among the sentences of 'Liri'",
        ),
        ({**ASKED, "context": "[", "supporting_facts": []}, "`context` is a text that is not JSON"),
        (
            {**ASKED, "context": {"title": ["a"], "sentences": []}, "supporting_facts": []},
            "`context` has 1 values of `title` and 0 of `sentences`",
        ),
        (
            {"question": "Who?", "context": "x", "answers": {"text": []}},
            "`answers` is empty: give at least one gold answer",
        ),
        ({"question": "Who?", "answer": {"value": "<unk>", "aliases": []}}, "`answer` is empty"),
        ({"question": "Who?", "golden_answers": "Kato"}, "`golden_answers` is a text that is not JSON"),
        ({"question": "Who?", "golden_answers": [""]}, "`answers` holds an empty answer"),
        (
            {"prompt": [{"role": "system", "content": "x"}], "reward_model": {"ground_truth": "y"}},
            "`prompt` holds a list without a message",
        ),
        ({"problem": "?", "level": "Level 1", "solution": "it is 7"}, r"`solution` has no answer in \\boxed"),
        (
            {"problem": "?", "level": "Level 1", "solution": r"\boxed{7"},
            r"`solution` has a \\boxed\{ that is not closed",
        ),
        ({"Question": "Who?", "Final answer": "?", "file_name": ""}, "`answer` is empty"),
        (
            {"Question": "Who?", "Final answer": "x", "file_name": "../up.pdf"},
            "`files` names '../up.pdf': the path leaves",
        ),
    ],
)
def test_a_value_of_another_form_is_named_with_the_shape(tmp_path: Path, row: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=rf"line 1 of .*rows\.jsonl \(of .*'s shape\): field {said}"):
        read(tmp_path, row)


NAMES = sorted(
    {name for _, row, _ in CASES for name in row} | {"table", "utterance", "targetValue", "context", "files"}
)
PARTS = [
    "text",
    "value",
    "aliases",
    "title",
    "sentences",
    "target",
    "ground_truth",
    "header",
    "rows",
    "role",
    "content",
]
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats()
    | st.sampled_from(["", "x", "[1", "[[1]]", "\\boxed{"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PARTS), inner, max_size=3),
    max_leaves=8,
)


changes = st.dictionaries(st.sampled_from(NAMES), anything, max_size=3)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.sampled_from([{}, *(row for _, row, _ in CASES)]), change=changes)
def test_any_row_is_a_task_or_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: dict[str, object], change: dict[str, object]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with suppress(DataError):
        assert TaskReader(Reading(), tmp_path).task(Row("row 1", row | change), "rows", 1).question.strip()


def test_a_level_that_is_too_large_for_a_number_is_none(tmp_path: Path) -> None:
    row = {"Question": "Who?", "Final answer": "x"}
    tasks = [read(tmp_path, row | {"Level": level}).tasks[0] for level in (2, 10**400, -(10**400))]
    assert [task.difficulty for task in tasks] == [2.0, None, None]


def test_columns_go_before_the_shape(tmp_path: Path) -> None:
    row = {
        "id": "s1",
        "title": "x",
        "context": "y",
        "question": "Who?",
        "answers": {"text": ["Kato"]},
        "grade": 4,
        "name": "z",
    }
    (found,) = read(tmp_path, row, columns={"difficulty": "grade", "id": "name"}).tasks
    assert (found.id, found.difficulty, found.answers) == ("z", 4.0, ("Kato",))
    (found,) = read(tmp_path, row, columns={"answers": "title"}).tasks
    assert (found.answers, found.passages) == (("x",), ())
    (found,) = read(tmp_path, row, columns={"passages": ""}).tasks
    assert (found.answers, found.passages) == (("Kato",), ())


def test_the_command_says_which_rows_were_converted(tmp_path: Path) -> None:
    rows = [row for name, row, _ in CASES if name == "FlashRAG"][:1]
    read(tmp_path, *rows, {"question": "How?", "answer": "so", "csv": ["x"]})
    source = open_source(str(tmp_path / "rows.jsonl"), split="eval", seed=3, config=TasksConfig())
    assert reading_notes(source) == "1 row of FlashRAG's shape; these fields are not read: `csv` (1 row)"
