"""recipes/qa_smollm2.py: rows of questions become parts that never overlap, and a scripted oracle demonstrates on them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import qa_smollm2
from commands import succeed

from lzero.config import load_config
from lzero.engine.kinds import kind_of
from lzero.errors import ConfigError, DataError
from lzero.models import ASSETS, load_tokenizer
from lzero.store import read_records

RECIPES = Path(__file__).parents[2] / "recipes"
TOWNS = ["Hafen", "Montverd", "Lund", "Kaleva", "Ostrava", "Tromsdal", "Brixen", "Cork", "Zadar", "Evora", "Gmunden"]


def write_rows(file: Path, number: int = 60) -> Path:
    rows = [
        {
            "id": f"q{place}",
            "question": f"who founded town {place} ",
            "answer": f"Ilse  {town}",
            "aliases": [f"ILSE {town}"],
            "paragraphs": [
                {"title": town, "text": f"Town {place} was founded by Ilse {town} in 1{place:03}. " + "More. " * 60}
            ],
        }
        for place, town in ((place, TOWNS[place % len(TOWNS)]) for place in range(number))
    ]
    rows.append({**rows[0], "id": "none", "paragraphs": []})
    rows.append({**rows[0], "id": "other", "paragraphs": [{"title": "", "text": "Ilses Hafen"}]})
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_rows_are_cut_split_by_their_questions_and_never_written_over(tmp_path: Path) -> None:
    counts = qa_smollm2.prepare(write_rows(tmp_path / "rows.jsonl"), tmp_path / "qa")
    parts = {part: read(tmp_path / "qa" / f"{part}.jsonl") for part in qa_smollm2.PARTS}
    assert counts == {part: len(rows) for part, rows in parts.items()} | {"dropped": 2}
    questions = Counter(row["question"] for rows in parts.values() for row in rows)
    assert len(questions) == 60
    assert set(questions.values()) == {1}
    assert min(counts[part] for part in qa_smollm2.PARTS) > 5
    for row in parts["heldout"]:
        (passage,) = row["paragraphs"]
        assert len(passage["text"]) <= qa_smollm2.PASSAGE_CHARS
        assert str(row["spelled"]).startswith("Ilse ")
        assert str(row["spelled"]) in passage["text"]
    with pytest.raises(DataError, match="exists: name another directory"):
        qa_smollm2.prepare(tmp_path / "rows.jsonl", tmp_path / "qa")


def test_all_passages_of_a_row_are_kept_and_the_one_with_the_answer_is_cut_around_it(tmp_path: Path) -> None:
    text = "Its mayor lives there. " * 20 + "Ilse Hafen founded it. " + "More. " * 60
    rows = read(write_rows(tmp_path / "rows.jsonl"))[:60]
    for row in rows:
        row["answer"], row["aliases"] = "Ilse Hafen", []
        row["paragraphs"] = [{"title": None, "text": "The river is long. " * 20}, {"title": "Town", "text": text}]
    (tmp_path / "two.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert qa_smollm2.prepare(tmp_path / "two.jsonl", tmp_path / "qa")["dropped"] == 0
    for row in read(tmp_path / "qa" / "heldout.jsonl"):
        other, holder = row["paragraphs"]
        assert other["text"].startswith("The river is long. The")
        assert "Ilse Hafen" in holder["text"]
        assert max(len(passage["text"]) for passage in row["paragraphs"]) <= qa_smollm2.PASSAGE_CHARS


def test_a_file_without_a_usable_row_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "who", "answer": "Ada"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="no row for heldout; 1 rows have no short answer in a passage"):
        qa_smollm2.prepare(tmp_path / "rows.jsonl", tmp_path / "qa")
    assert not (tmp_path / "qa").exists()


def test_the_oracle_names_the_variable_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QA_DEMOS", raising=False)
    qa_smollm2.golds.cache_clear()
    with pytest.raises(ConfigError, match="QA_DEMOS is not set"):
        qa_smollm2.expert("user\nwho founded town 1\n[1 step and 9 tokens left]<output>", 0)
    with pytest.raises(ValueError, match="no question in the transcript"):
        qa_smollm2.expert("user\nhello", 0)


@pytest.mark.parametrize(("before", "after"), [(0, 300), (140, 300), (151, 0), (400, 0), (400, 30), (400, 900)])
def test_a_passage_is_cut_at_whole_words_around_its_answer(tmp_path: Path, before: int, after: int) -> None:
    text = " ".join(f"w{place}" for place in range(before)) + " Ilse Hafen " + " ".join(["end"] * after)
    row = {"question": "who", "answer": "Ilse Hafen", "paragraphs": [{"title": "t", "text": text}]}
    others = write_rows(tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n{others}", encoding="utf-8")
    qa_smollm2.prepare(tmp_path / "rows.jsonl", tmp_path / "qa")
    parts = (read(tmp_path / "qa" / f"{part}.jsonl") for part in qa_smollm2.PARTS)
    (cut,) = [row["paragraphs"][0]["text"] for rows in parts for row in rows if row["question"] == "who"]
    assert 100 < len(cut) <= qa_smollm2.PASSAGE_CHARS
    assert f" {cut} " in f" {' '.join(text.split())} "
    assert "Ilse Hafen" in cut


@pytest.mark.sandbox
def test_the_oracle_is_right_when_it_looks_up_and_its_weak_habit_is_to_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qa_smollm2.prepare(write_rows(tmp_path / "rows.jsonl"), tmp_path / "qa")
    monkeypatch.setenv("QA_DEMOS", str(tmp_path / "qa" / "demos.jsonl"))
    qa_smollm2.golds.cache_clear()
    run = tmp_path / "weak"
    succeed(
        "eval",
        str(RECIPES / "qa-smollm2.toml"),
        "model.path=nano",
        "engine.kind=scripted",
        "engine.policy=qa_smollm2:weak",
        f"engine.tokenizer={ASSETS / 'nano'}",
        f"tasks.train={tmp_path / 'qa' / 'train.jsonl'}",
        f"tasks.eval={tmp_path / 'qa' / 'demos.jsonl'}",
        f"run.dir={run}",
        "agent.max_tokens=1000",
        "agent.response_tokens=200",
    )
    scored = [pair for record in read_records(run) for pair in record.scored]
    ends = {(len(episode.steps), reward.score) for episode, reward in scored}
    assert ends == {(1, 0.0), (2, 1.0)}, "it is right exactly if it looks the question up"
    config = load_config(run / "config.toml")
    tokenizer, nano = kind_of(config).open_tokenizer(config), load_tokenizer(ASSETS / "nano")
    assert tokenizer is not None
    assert tokenizer.get_vocab() == nano.get_vocab(), "the tokens are those of the model that learns from them"
