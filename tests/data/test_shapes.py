"""Rows as other projects and data sets write them: each shape becomes the same kind of task, and is named."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lzero.config import TasksConfig
from lzero.data.files import Reading, TaskFile, read_tasks
from lzero.data.rows import Row
from lzero.data.shapes import SHAPES, shape_of
from lzero.data.sources import open_source, reading_notes
from lzero.data.task_rows import TaskReader
from lzero.errors import DataError
from lzero.types import Passage, Task

CONTEXT = [
    ["Liri", ["Liri is a place.", " Its founder is Titu."]],
    ["Titu", ["Titu was born in Kato."]],
    ["Void", [""]],
]
PASSAGES = (
    Passage(title="Liri", text="Liri is a place. Its founder is Titu."),
    Passage(title="Titu", text="Titu was born in Kato."),
)
FACTS = [["Liri", 1], ["Titu", 0], ["Liri", 0]]
GOLD = {"supporting_titles": '["Liri","Titu"]'}
ASKED = {"question": "Where was Liri's founder born?", "answer": "Kato"}
AS_COLUMNS = {
    "context": {"title": [title for title, _ in CONTEXT], "sentences": [texts for _, texts in CONTEXT]},
    "supporting_facts": {"title": [title for title, _ in FACTS], "sent_id": [number for _, number in FACTS]},
}
HOTPOT = Task(
    id="5a",
    question=ASKED["question"],
    answers=("Kato",),
    source="rows",
    hops=2,
    difficulty=3.0,
    passages=PASSAGES,
    metadata={"type": "bridge", "level": "hard", **GOLD},
)
MESSAGES = [{"role": "system", "content": "Think."}, {"role": "user", "content": "How many? Put it last."}]


def task(**fields: object) -> Task:
    return Task(**({"id": "rows-1", "source": "rows", "answers": ("Kato",), "question": "Who?"} | fields))  # type: ignore[arg-type]


CASES: list[tuple[str, dict[str, object], Task]] = [
    (
        "HotpotQA",
        {"_id": "5a", **ASKED, "type": "bridge", "level": "hard", "context": CONTEXT, "supporting_facts": FACTS},
        HOTPOT,
    ),
    ("HotpotQA", {"id": "5a", **ASKED, "type": "bridge", "level": "hard", **AS_COLUMNS}, HOTPOT),
    (
        "HotpotQA",
        {
            "_id": "8f",
            **ASKED,
            "type": "bridge_comparison",
            "evidences": [["Liri", "founder", "Titu"]],
            "context": json.dumps(CONTEXT),
            "supporting_facts": json.dumps(FACTS),
            "answer_id": "Q1",
        },
        task(
            id="8f",
            question=ASKED["question"],
            hops=4,
            passages=PASSAGES,
            metadata={"type": "bridge_comparison", **GOLD},
        ),
    ),
    (
        "MuSiQue",
        {
            "id": "2hop__1_2",
            **ASKED,
            "answer_aliases": ["K."],
            "answerable": True,
            "paragraphs": [
                {"idx": 0, "title": "Liri", "paragraph_text": "founder Titu", "is_supporting": True},
                {"idx": 1, "title": "Umi", "paragraph_text": "a river", "is_supporting": False},
            ],
            "question_decomposition": [{"id": 1, "question": "Liri >> founder"}, {"id": 2, "question": "#1 >> born"}],
        },
        task(
            id="2hop__1_2",
            question=ASKED["question"],
            answers=("Kato", "K."),
            hops=2,
            passages=(Passage(title="Liri", text="founder Titu"), Passage(title="Umi", text="a river")),
            metadata={"answerable": "True", "supporting_titles": '["Liri"]'},
        ),
    ),
    (
        "SQuAD",
        {
            "id": "s1",
            "title": "Liri",
            "context": "Kato founded it.",
            "question": "Who?",
            "answers": {"text": ["Kato", "Kato", "K."], "answer_start": [0, 0, 0]},
        },
        task(id="s1", answers=("Kato", "K."), passages=(Passage(title="Liri", text="Kato founded it."),)),
    ),
    (
        "TriviaQA",
        {
            "question_id": "tc_1",
            "question": "Who?",
            "question_source": "www",
            "answer": {
                "value": "Kato",
                "aliases": ["K.", "Kato"],
                "normalized_aliases": ["k"],
                "type": "WikipediaEntity",
            },
        },
        task(id="tc_1", answers=("Kato", "K."), metadata={"question_source": "www"}),
    ),
    (
        "TriviaQA",
        {
            "QuestionId": "tc_1",
            "Question": "Who?",
            "Answer": {"Value": "Kato", "Aliases": ["K."]},
            "QuestionSource": "x",
        },
        task(id="tc_1", answers=("Kato", "K."), metadata={"QuestionSource": "x"}),
    ),
    (
        "FlashRAG",
        {"id": "dev_0", "question": "Who?", "golden_answers": ["Kato", "K."]},
        task(id="dev_0", answers=("Kato", "K.")),
    ),
    (
        "FlashRAG",
        {
            "id": "dev_0",
            "question": ASKED["question"],
            "golden_answers": ["Kato"],
            "metadata": {"type": "bridge", "level": "hard", **AS_COLUMNS},
        },
        task(
            id="dev_0", question=ASKED["question"], hops=2, difficulty=3.0, passages=PASSAGES, metadata=HOTPOT.metadata
        ),
    ),
    (
        "verl",
        {
            "data_source": "mine/math",
            "prompt": MESSAGES,
            "ability": "MATH",
            "reward_model": {"style": "rule", "ground_truth": "72"},
            "extra_info": {"split": "train", "index": 4},
        },
        task(
            id="mine/math-train-4",
            question="How many? Put it last.",
            answers=("72",),
            source="mine/math",
            split="train",
            ability="math",
        ),
    ),
    (
        "verl",
        {
            "data_source": "nq",
            "prompt": "Who? Answer shortly.",
            "ability": "fact-reasoning",
            "reward_model": {"ground_truth": ["Kato", "K."]},
            "extra_info": {"index": 4, "question": "Who?"},
        },
        task(id="nq-4", answers=("Kato", "K."), source="nq", metadata={"kind": "fact-reasoning"}),
    ),
    (
        "Search-R1",
        {
            "id": "train_0",
            "question": "Who?",
            "golden_answers": ["Kato"],
            "data_source": "nq",
            "prompt": MESSAGES,
            "ability": "fact-reasoning",
            "reward_model": {"style": "rule", "ground_truth": {"target": ["Kato", "K."]}},
            "extra_info": {"index": 0, "split": "train"},
        },
        task(id="nq-train_0", answers=("Kato", "K."), source="nq", split="train", metadata={"kind": "fact-reasoning"}),
    ),
    (
        "PopQA",
        {
            "id": 4222362,
            "subj": "Titu",
            "prop": "occupation",
            "question": "Who?",
            "possible_answers": '["Kato", "K."]',
            "s_pop": 142,
        },
        task(
            id="4222362",
            answers=("Kato", "K."),
            metadata={"subj": "Titu", "prop": "occupation", "s_pop": "142"},
        ),
    ),
    (
        "SimpleQA",
        {
            "metadata": "{'topic': 'Art', 'answer_type': 'Person', 'urls': ['http://x']}",
            "problem": "Who?",
            "answer": "Kato",
        },
        task(metadata={"topic": "Art", "answer_type": "Person"}),
    ),
    (
        "MATH",
        {
            "problem": "What is $x$?",
            "level": "Level 5",
            "type": "Algebra",
            "solution": r"It is \boxed{1}, no: $\boxed{\frac{1}{2}}$.",
        },
        task(
            question="What is $x$?",
            answers=(r"\frac{1}{2}",),
            difficulty=5.0,
            ability="math",
            metadata={"type": "Algebra", "level": "Level 5"},
        ),
    ),
    (
        "MATH",
        {
            "problem": "?",
            "level": 2,
            "subject": "Algebra",
            "solution": "so $x$",
            "answer": "7",
            "unique_id": "test/a/1.json",
        },
        task(
            id="test/a/1.json",
            question="?",
            answers=("7",),
            difficulty=2.0,
            ability="math",
            metadata={"subject": "Algebra", "level": "2"},
        ),
    ),
    (
        "GAIA",
        {
            "task_id": "c6",
            "Question": "Who?",
            "Level": "2",
            "Final answer": "Kato",
            "file_name": "",
            "Annotator Metadata": {"Steps": "1. Kato is it"},
        },
        task(id="c6", difficulty=2.0, ability="search"),
    ),
    ("Bamboogle", {"Question": "Who?", "Answer": "Kato"}, task(hops=2)),
    ("GSM8K", {"question": "Who?", "answer": "48+24 = <<48+24=72>>72\n#### 72"}, task(answers=("72",), ability="math")),
]


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


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.sampled_from([{}, *(row for _, row, _ in CASES)]), change=changes)
def test_any_row_is_a_task_or_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: dict[str, object], change: dict[str, object]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with suppress(DataError):
        assert TaskReader(Reading(), tmp_path).task(Row("row 1", row | change), "rows", 1).question.strip()


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
