"""Data stages: which rows they keep, and what they say of the others."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from builders import make_task
from hypothesis import example, given, settings
from hypothesis import strategies as st
from set_files import dropped_of, ids_of, make_set

from lzero.data.normal import normal, normal_column
from lzero.data.stages import Stage, near, run_stage, spilling
from lzero.data.stages.dedupe import Exact
from lzero.data.stages.filter import Among, AtLeast, AtMost, Bound, Filter
from lzero.data.stages.leaks import OVERLAP, SAME, Leaks
from lzero.data.stages.measures import text_column
from lzero.data.stages.near import Near
from lzero.data.stages.spilling import Marks, fill
from lzero.data.stages.stratify import Stratify, quotas
from lzero.data.table import to_batch
from lzero.errors import DataError
from lzero.types import Passage, Task


def kept_and_dropped(
    directory: Path, stage: Stage, *tasks: Task
) -> tuple[list[str], dict[str, tuple[str, str | None]]]:
    """Return the ids of the rows that a stage keeps, and what it says of the others; no row disappears."""
    manifest = run_stage(stage, [make_set(directory / "in", *tasks)], directory / "out")
    kept, dropped = ids_of(directory / "out"), dropped_of(directory / "out")
    assert sorted([*kept, *dropped]) == sorted(task.id for task in tasks)
    assert manifest.rows_in == len(tasks) == manifest.rows_out + sum(manifest.dropped.values())
    return kept, dropped


def questions(*texts: str) -> list[Task]:
    return [make_task(f"{number}", question=text) for number, text in enumerate(texts)]


@given(st.lists(st.text(st.sampled_from("aB 3-+.=|?_é\n\0北²"), max_size=12), max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_column_has_the_normal_forms_of_its_texts(texts: list[str]) -> None:
    column = pa.array(["", *texts, "x"], pa.string()).slice(1, len(texts))
    assert normal_column(column).to_pylist() == [normal(text) for text in texts]


@given(st.sets(st.integers(0, 60)), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_marks_are_found_at_their_rows_however_they_are_cut(indices: set[int], written: int, taken: int) -> None:
    schema = pa.schema([("row_index", pa.int64()), ("name", pa.string())])
    rows = [{"row_index": index, "name": f"{index}"} for index in sorted(indices)]
    batches = [pa.RecordBatch.from_pylist(rows[at : at + written], schema) for at in range(0, len(rows), written)]
    with tempfile.TemporaryDirectory() as directory:
        marks = Marks.stored(schema, batches, Path(directory) / "marks.arrow")
        found = [
            name for start in range(0, 63, taken) for name in marks.take(start=start, rows=taken)["name"].to_pylist()
        ]
    assert found[:63] == [f"{index}" if index in indices else None for index in range(63)]
    assert marks.taken == len(indices)


def test_normal_forms_ignore_letters_and_keep_numbers() -> None:
    assert normal("  Who, the “Łódź” OF?") == normal("who the lodz of")
    assert len({normal(f"What is 3 {sign} 4?") for sign in "+-*/^"}) == 5
    assert normal("What is 1.5?") != normal("What is 15?")
    assert normal("a well-known 3rd") == normal("a well known 3rd")


@pytest.mark.parametrize(
    ("plain", "typeset"),
    [("3 - 4", "3 − 4"), ("3 * 4", "3 × 4"), ("1/2 of 8", "½ of 8"), ("in 1990-95", "in 1990–95"), ("x <= 3", "x ≤ 3")],
)
def test_normal_forms_ignore_the_spelling_of_a_sign(plain: str, typeset: str) -> None:
    assert normal(plain) == normal(typeset)


def test_a_number_that_is_bounded_by_name_is_as_it_is_written() -> None:
    batch = to_batch([make_task(f"{value}", difficulty=value) for value in (0.2, 0.9, 2.0, None)])
    assert text_column("difficulty")(batch).to_pylist() == ["0.2", "0.9", "2", None]


def test_a_whole_difficulty_of_any_size_becomes_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "?", "answer": "x", "difficulty": 9007199254740993}\n', "utf-8")
    run_stage(Exact(), [str(tmp_path / "a.jsonl")], tmp_path / "out")
    assert ids_of(tmp_path / "out") == ["a-1"]


def test_the_first_row_of_each_question_is_kept(tmp_path: Path) -> None:
    tasks = [
        make_task("a", question="Who ruled?", answers=("Kato",)),
        make_task("b", question="who RULED", answers=("kato.",)),
        make_task("c", question="Who ruled", answers=("Titu",)),
        make_task("d", question="Who rules?"),
    ]
    assert kept_and_dropped(tmp_path, Exact(), *tasks) == (
        ["a", "d"],
        {"b": ("same question", "a"), "c": ("same question, other answer", "a")},
    )


def test_duplicates_are_equal_in_the_columns_that_are_named(tmp_path: Path) -> None:
    one, other = ((Passage(title="", text=text),) for text in ("x", "y"))
    tasks = [make_task("a", passages=one), make_task("b", passages=other), make_task("c", passages=one)]
    assert kept_and_dropped(tmp_path, Exact(by=["passages"]), *tasks)[0] == ["a", "b"]


def test_many_rows_that_are_near_others_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of equal questions share all 20 bands."""
    monkeypatch.setattr(spilling, "MEMORY", "32MB")
    rows, bands = 50_000, 20
    texts = [range(rows), map(str, range(rows)), (f"who is {row // 2}" for row in range(rows)), ["{}"] * rows]
    buckets = np.stack([np.repeat(np.arange(rows), bands), np.arange(rows * bands) % bands])
    schema = pa.schema([("row_index", pa.int64()), ("bucket", pa.uint64())])
    columns = [buckets[0], (buckets[0] // 2 * bands + buckets[1]).astype(np.uint64)]
    with spilling.database(tmp_path) as connection:
        whole = pa.record_batch(
            [pa.array(list(column), kind) for column, kind in zip(texts, near._TEXTS.types, strict=True)],
            schema=near._TEXTS,
        )
        fill(connection, "texts", near._TEXTS, [whole], select="SELECT * FROM batches")
        batches = pa.table(columns, schema=schema).to_batches(8_192)
        fill(connection, "bands", schema, batches, select="SELECT * FROM batches")
        found = [row for batch in Near(threshold=0.8)._found(connection) for row in batch["row_index"].to_pylist()]
    assert found == list(range(1, rows, 2))


def test_near_questions_are_dropped_unless_their_numbers_differ(tmp_path: Path) -> None:
    texts = (
        "Who was the first president of the United States of America?",
        "who was the first president of the united states of america",
        "Who was first president of the United States of America?",
        "In which year did the company of 1998 begin its large work?",
        "In which year did the company of 1999 begin its large work?",
        "Which mountain is the highest one?",
    )
    kept, dropped = kept_and_dropped(tmp_path, Near(threshold=0.8), *questions(*texts))
    assert kept == ["0", "3", "4", "5"]
    assert dropped == {"1": ("same question", "0"), "2": ("nearly the same question", "0")}


def test_rows_out_of_bounds_have_the_first_bound_that_they_break_as_reason(tmp_path: Path) -> None:
    rated = [{"objectivity": value} for value in ("1", "-1", "much")]
    tasks = [
        make_task("a", hops=2, metadata=rated[0]),
        make_task("b", hops=1, metadata=rated[0]),
        make_task("c", hops=2, metadata=rated[1]),
        make_task("d", hops=2, metadata=rated[2]),
        make_task("e", hops=2, metadata=rated[0], split="test"),
        make_task("f", hops=2, metadata=rated[0], question="Who?" * 9),
    ]
    bounds: list[Bound] = [
        AtLeast("objectivity", 1),
        Among("hops", ("2",)),
        Among("split", ("test",), wanted=False),
        AtMost("question_chars", 9),
    ]
    kept, dropped = kept_and_dropped(tmp_path, Filter(bounds), *tasks)
    assert kept == ["a"]
    assert dropped == {
        "b": ("hops is not 2", "1"),
        "c": ("objectivity < 1", "-1"),
        "d": ("no objectivity", None),
        "e": ("split is test", "test"),
        "f": ("question_chars > 9", "36"),
    }
    run_stage(Filter(bounds, keep_missing=True), [str(tmp_path / "in")], tmp_path / "more")
    assert ids_of(tmp_path / "more") == ["a", "d"]


def test_a_filter_knows_pass_rates_and_no_misspelt_names(tmp_path: Path) -> None:
    rates = {"0": 0.0, "1": 0.5, "9": 1.0}
    made = make_set(tmp_path / "in", *questions("a?", "b?", "c?"))
    bounds: list[Bound] = [AtLeast("pass_rate", 0.1)]
    manifest = run_stage(Filter(bounds, pass_rates=rates), [made], tmp_path / "out")
    assert ids_of(tmp_path / "out") == ["1"]
    assert manifest.dropped == {"no pass_rate": 1, "pass_rate < 0.1": 1}
    assert manifest.counts == {"rows with a pass rate": 2}
    for stage, said in (
        (Filter(bounds, pass_rates={"x": 1.0}), "tasks with other ids"),
        (Filter([AtLeast("hobs", 2)]), "no row has 'hobs'"),
    ):
        with pytest.raises(DataError, match=said):
            run_stage(stage, [made], tmp_path / "none")
        assert not (tmp_path / "none").exists()


def test_strata_give_equal_numbers_and_the_draw_depends_on_the_seed(tmp_path: Path) -> None:
    tasks = [make_task(f"{number}", question=f"{number}?", hops=1 + number % 3 % 2) for number in range(30)]
    made = make_set(tmp_path / "in", *tasks)
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        manifest = run_stage(Stratify(by=["hops"], size=12, seed=seed), [made], tmp_path / name)
        assert manifest.counts == {"hops=1": 6, "hops=2": 6}
        assert (manifest.rows_out, manifest.dropped) == (12, {"stratum is full": 18})
        found.append(ids_of(tmp_path / name))
    assert found[0] == found[1] != found[2]
    assert found[0] == sorted(found[0], key=int), "rows keep their order"


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 20), max_size=5), st.integers(1, 60), st.booleans())
@example({"": 0}, 1, True)
@settings(max_examples=50)
def test_quotas_sum_to_the_size_and_no_stratum_gives_more_than_it_has(
    sizes: dict[str, int], size: int, proportional: bool
) -> None:
    found = quotas(sizes, size, proportional=proportional)
    assert sum(found.values()) == min(size, sum(sizes.values()))
    assert all(0 <= found[name] <= sizes[name] for name in sizes)


def test_a_leaking_set_is_not_written_unless_asked_for(tmp_path: Path) -> None:
    asked = "Which of the seven rivers of Liri reaches the northern sea in spring?"
    tasks = questions(
        "Which of the SEVEN rivers of Liri reaches the northern sea in winter?", "Who?", "Unlike all others"
    )
    train = make_set(tmp_path / "train", *tasks)
    against = [make_set(tmp_path / "dev", make_task("d", question=asked), make_task("e", question="who"))]
    refusing, dropping, allowing = (
        Leaks(against, words=8, share=0.5, then=then) for then in ("refuse", "drop", "allow")
    )
    with pytest.raises(DataError, match=r"2 rows would leak benchmarks, .*: 0 \(.*dev: d\); 1 \(.*dev: e\)\. .*--drop"):
        run_stage(refusing, [train], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run_stage(dropping, [train], tmp_path / "dropped")
    assert ids_of(tmp_path / "dropped") == ["2"]
    assert dropped_of(tmp_path / "dropped") == {"0": (OVERLAP, f"{against[0]}: d"), "1": (SAME, f"{against[0]}: e")}
    manifest = run_stage(allowing, [train], tmp_path / "allowed")
    assert (manifest.rows_out, sum(manifest.counts.values())) == (3, 2)
    clean = run_stage(
        Leaks(against, words=8, share=0.5, then="refuse"), [str(tmp_path / "dropped")], tmp_path / "clean"
    )
    assert clean.rows_out == 1
