"""Recall of gold passages, and `lzero data retrieval`."""

import json
from pathlib import Path

import msgspec
import pytest
from commands import exit_code, succeed

from lzero.errors import DataError
from lzero.eval.retrieval import gold_titles, measure
from lzero.tools.search import PassageIndex
from lzero.types import Passage, Task

PASSAGES = (
    Passage(title="Liri", text="A place founded by Titu."),
    Passage(title="Kato", text="The rival of somebody."),
    Passage(title="Mona", text="A river."),
)


def task(
    name: str, question: str, *titles: str, source: str = "hand", passages: tuple[Passage, ...] = PASSAGES
) -> Task:
    metadata = {"supporting_titles": msgspec.json.encode(titles).decode()} if titles else {}
    return Task(id=name, question=question, answers=("x",), source=source, passages=passages, metadata=metadata)


def index_of(task: Task) -> PassageIndex | None:
    return PassageIndex(task.passages) if task.passages else None


TASKS = (
    task("a", "Who founded Liri?", "Liri", "Kato"),
    task("b", "A river?", "Mona"),
    task("c", "Kato the rival?", "Mona", source="other"),
    task("d", "Nobody says where."),
)


def test_recall_is_the_share_of_gold_titles_among_the_first_results_by_source() -> None:
    found = measure(TASKS, index_of, at=(1, 3))
    assert [(row.source, row.num_tasks) for row in found.rows] == [("hand", 2), ("other", 1), ("all", 3)]
    hand, other, together = found.rows
    assert hand.recall == {1: 0.75, 3: 0.75}
    assert hand.complete == {1: 0.5, 3: 0.5}
    assert other.recall[3] == 0.0
    assert together.recall[1] == pytest.approx(0.5)
    assert hand.interval[1][0] == 0.5
    assert found.num_unlabelled == 1


def test_a_task_without_passages_or_titles_is_named() -> None:
    with pytest.raises(DataError, match="task e has no passages to search: name a corpus"):
        measure([task("e", "Who?", "Liri", passages=())], index_of, at=(1,))
    with pytest.raises(DataError, match="none of 1 tasks names its gold passages"):
        measure(TASKS[3:], index_of, at=(1,))
    broken = msgspec.structs.replace(TASKS[0], metadata={"supporting_titles": "Liri"})
    with pytest.raises(DataError, match="task a: metadata `supporting_titles` is 'Liri': give the titles"):
        gold_titles(broken)


def test_the_command_reports_rows_and_a_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = tmp_path / "dev.jsonl"
    row = {"question": "Who founded Liri?", "answer": "Titu", "dataset": "hand", "supporting_titles": ["Liri"]}
    rows.write_text(json.dumps(row) + "\n")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes(b"\n".join(map(msgspec.json.encode, PASSAGES)))
    succeed("data", "retrieval", str(rows), "--corpus", str(corpus), "--at", "2,1")
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["hand", "1", "1.000", "1.000"]
    for arguments, said in (
        ([str(rows)], "has no passages to search"),
        ([str(rows), "--at", "0"], "--at '0': give numbers from 1 to 1,000"),
        (["world"], "'world' has no end"),
    ):
        assert exit_code("data", "retrieval", *arguments) == 1
        assert said in capsys.readouterr().err
