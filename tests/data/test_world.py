"""The world keeps its promises: fresh facts, disjoint splits, answers that an independent reader of the passages finds."""

import re
import sqlite3

import pytest

from lzero.data.world import NAMES, RECALL, WorldSource, vocabulary
from lzero.errors import ConfigError
from lzero.types import Task


def tasks(split: str = "eval", *, count: int = 60, seed: int = 0, hops: tuple[int, ...] = (1, 2, 3)) -> list[Task]:
    source = WorldSource(seed, split, hops)
    return [source.task(index) for index in range(count)]


def solve(task: Task) -> list[str]:
    """Return the names on the path from the question's name to the answer, from the passages alone."""
    match = re.fullmatch(
        r"Starting from (\w+), (?:who|which place|which work) does the path (.+) lead to\?", task.question
    )
    assert match is not None
    names = [match.group(1)]
    for relation in match.group(2).split():
        (text,) = [passage.text for passage in task.passages if passage.title == names[-1]]
        (value,) = re.findall(rf"\b{relation} (\w+)", text)
        names.append(value)
    return names


def test_the_same_seed_and_index_give_the_same_task() -> None:
    assert tasks(seed=3) == tasks(seed=3)
    assert WorldSource(3, "eval").task(41) == tasks(seed=3)[41]


def test_splits_and_seeds_share_no_task() -> None:
    fingerprints = [
        (task.question, task.passages)
        for split in ("train", "eval", "sft")
        for seed in (0, 1)
        for task in tasks(split, seed=seed)
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    ids = [task.id for split in ("train", "eval", "sft", RECALL) for seed in (0, 1) for task in tasks(split, seed=seed)]
    assert len(set(ids)) == len(ids)


def test_facts_are_drawn_anew_for_every_task() -> None:
    told = [passage for task in tasks() for passage in task.passages]
    assert len({(passage.title, passage.text) for passage in told}) == len(told)


def test_hops_come_in_equal_parts() -> None:
    assert [task.hops for task in tasks(count=6)] == [1, 2, 3, 1, 2, 3]
    assert [task.hops for task in tasks(count=4, hops=(1, 2))] == [1, 2, 1, 2]


@pytest.mark.parametrize("hops", [(), (0,), (1, 5)])
def test_hops_that_the_world_cannot_ask_are_refused(hops: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.hops"):
        WorldSource(0, "eval", hops)


def test_an_independent_reader_finds_each_answer_in_as_many_hops_without_meeting_a_name_twice() -> None:
    for task in tasks(count=300):
        names = solve(task)
        assert names[-1:] == list(task.answers)
        assert len(names) == (task.hops or 0) + 1
        assert len(set(names)) == len(names)
        assert task.answers[0] not in task.question


def test_every_name_that_is_told_has_one_entry() -> None:
    for task in tasks():
        titles = [passage.title for passage in task.passages]
        assert 10 <= len(titles) == len(set(titles)) <= 20
        told = {name for passage in task.passages for name in re.findall(r"[A-Z]\w+", passage.text)}
        assert told <= set(titles) <= set(NAMES)


def test_full_text_search_for_a_name_returns_its_own_entry_first() -> None:
    for task in tasks():
        with sqlite3.connect(":memory:") as database:
            database.execute("CREATE VIRTUAL TABLE entries USING fts5(title, text, tokenize='porter unicode61')")
            database.executemany(
                "INSERT INTO entries VALUES (?, ?)", [(passage.title, passage.text) for passage in task.passages]
            )
            ranked = "SELECT title FROM entries WHERE entries MATCH ? ORDER BY bm25(entries, 4.0, 1.0) LIMIT 1"
            for passage in task.passages:
                assert database.execute(ranked, (f'"{passage.title}"',)).fetchone() == (passage.title,)


def test_recall_tasks_show_the_entry_that_holds_their_answer() -> None:
    for task in tasks(RECALL):
        entry = task.question.splitlines()[0]
        last = max(re.findall(r"([a-z]+) [A-Z]", entry))
        assert f"{last} {task.answers[0]}" in entry
        assert task.ability == "recall"
        assert not task.passages


def test_names_and_pieces_are_told_apart() -> None:
    pieces = vocabulary()
    assert len(set(pieces)) == len(pieces)
    assert len(NAMES) >= 192
    assert not [piece for piece in pieces if piece not in NAMES and any(name in piece for name in NAMES)]
    assert not [piece for piece in pieces if "</code>" in piece and not piece.endswith("</code>")]
