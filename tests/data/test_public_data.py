"""Public question sets, as their publishers wrote them: every row loads, gold answers score, gold passages are found.

`make test` scores the answers of a seeded sample, `make test-long` all. The sets are looked for in `shared/data` beside the checkout.
"""

import functools
import random
import shutil
from pathlib import Path

import pytest

from lzero.config import TasksConfig
from lzero.data.download import download
from lzero.data.files import read_passages, read_tasks
from lzero.data.public_sets import public_set
from lzero.data.sources import Listed, leaks, open_source
from lzero.rewards import exact_match, f1
from lzero.tools.corpus import open_corpus
from lzero.types import Task

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no public data sets in {DATA}"),
]


@functools.cache
def tasks_of(name: str) -> tuple[Task, ...]:
    return tuple(read_tasks(DATA / name).tasks)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("multihop/train.jsonl.gz", 2_216),
        ("multihop/dev.jsonl.gz", 989),
        ("nq/nq_open_gold2655.jsonl.gz", 2_655),
        ("gsm8k/train.jsonl.gz", 7_473),
        ("gsm8k/test.jsonl.gz", 1_319),
    ],
)
@pytest.mark.parametrize("scored", [100, pytest.param(10**6, marks=pytest.mark.slow)], ids=["sample", "whole"])
def test_a_set_loads_whole_and_its_gold_answers_score(name: str, count: int, scored: int) -> None:
    tasks = tasks_of(name)
    assert len(tasks) == count
    for task in random.Random(7).sample(tasks, min(scored, count)):
        assert all(exact_match(gold, task.answers) and f1(gold, task.answers) == 1.0 for gold in task.answers), task.id
        assert not exact_match("", task.answers), task.id
    if name.startswith("gsm8k"):
        assert max(len(task.answers[0]) for task in tasks) < 20
    else:
        assert all(task.passages for task in tasks)


def test_a_directory_and_a_download_of_local_copies_hold_every_row(tmp_path: Path) -> None:
    assert len(open_source(str(DATA / "multihop"), split="eval", seed=1, config=TasksConfig())) == 989
    (tmp_path / "copy").mkdir()
    shutil.copy(DATA / "gsm8k" / "test.jsonl.gz", tmp_path / "copy")
    manifest = download(public_set("gsm8k"), tmp_path, origin=tmp_path / "copy").manifest
    assert (manifest.rows_in, manifest.rows_out, manifest.dropped) == (1_319, 1_319, {})
    assert manifest.inputs[0].counts == {"rows of GSM8K's shape": 1_319}
    held_out = open_source(str(tmp_path / "gsm8k"), split="eval", seed=1, config=TasksConfig())
    plain = tasks_of("gsm8k/test.jsonl.gz")
    assert [(held_out.task(at).question, held_out.task(at).answers) for at in range(len(held_out))] == [
        (task.question, task.answers) for task in plain
    ]


@pytest.mark.parametrize(("folder", "train", "held_out"), [("multihop", "train", "dev"), ("gsm8k", "train", "test")])
def test_official_splits_share_no_question(folder: str, train: str, held_out: str) -> None:
    splits = (Listed(tasks_of(f"{folder}/{name}.jsonl.gz")) for name in (train, held_out))
    assert leaks(*splits) == []


def test_one_query_finds_a_gold_passage_first_for_most_questions(kept_indexes: Path) -> None:
    index = open_corpus(DATA / "multihop" / "corpus.jsonl.gz", read_passages, cache=kept_indexes)
    assert len(index) == 29_779
    tasks = [task for task in tasks_of("multihop/dev.jsonl.gz") if task.metadata["setting"] == "gold_only"][:100]
    found = [index.search(task.question, limit=10) for task in tasks]
    gold = [{passage.title for passage in task.passages} for task in tasks]
    hits = sum(bool(passages) and passages[0].title in titles for passages, titles in zip(found, gold, strict=True))
    assert hits >= 0.8 * len(tasks)
