"""Directories of rows: which files and rows `tasks.train` and `tasks.eval` read, and the errors for wrong names."""

import json
from pathlib import Path

import pytest

from lzero.config import Config, TasksConfig, make_config
from lzero.data.hub import revision_of
from lzero.data.locating import split_of
from lzero.data.new_set import write_tasks
from lzero.data.sources import Shuffled, open_source
from lzero.errors import ConfigError, DataError
from lzero.types import Task


def write(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"question": f"{name}?", "answer": "x"}) + "\n" for name in names), "utf-8")
    return path


def ids(spec: str | Path, split: str = "eval") -> list[str]:
    source = open_source(str(spec), split=split, seed=1, config=TasksConfig())
    listed = source.source if isinstance(source, Shuffled) else source
    return [listed.task(index).id for index in range(len(listed))]


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("hotpot_dev_distractor_v1.json", "validation"),
        ("2023/validation/metadata.jsonl", "validation"),
        ("test/train-1.jsonl", "train"),
        ("trainers.jsonl", ""),
        ("questions.jsonl", ""),
    ],
)
def test_a_path_names_its_split(path: str, split: str) -> None:
    assert split_of(Path(path)) == split


def test_a_directory_is_read_by_splits(tmp_path: Path) -> None:
    for name in ("train-0.jsonl", "train-1.jsonl", "dev.jsonl", "more/test.jsonl", ".hidden/train.jsonl"):
        write(tmp_path / "set" / name, "a", "b")
    (tmp_path / "set" / "dataset_info.json").write_text("{}")
    (tmp_path / "set" / "README.md").write_text("no rows")
    assert ids(tmp_path / "set", "train") == ["train-0-1", "train-0-2", "train-1-1", "train-1-2"]
    assert ids(tmp_path / "set") == ["dev-1", "dev-2"]
    assert ids(f"{tmp_path / 'set'}:test") == ids(f"{tmp_path / 'set'}:test", "train") == ["more/test-1", "more/test-2"]
    assert [
        task.split for task in [open_source(f"{tmp_path}/set", split="eval", seed=1, config=TasksConfig()).task(0)]
    ] == ["validation"]
    with pytest.raises(
        DataError, match=r"tasks.eval: .*set has no split tset; it has test, train, validation. Name one"
    ):
        ids(f"{tmp_path / 'set'}:tset")


def test_a_split_that_no_file_can_have_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.jsonl", "x")
    assert ids(f"{tmp_path / 'a'}:test") == ["1-1"]
    with pytest.raises(DataError, match=r"a:tset has no split tset|a has no split tset"):
        ids(f"{tmp_path / 'a'}:tset")


def test_a_directory_without_names_of_splits_is_read_whole(tmp_path: Path) -> None:
    for name in ("a/1.jsonl", "b/1.jsonl"):
        write(tmp_path / name, "x")
    assert ids(tmp_path) == ["a/1-1", "b/1-1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="none of its 0 files holds rows"):
        ids(tmp_path / "empty")


def test_links_out_of_a_directory_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "secret.jsonl", "x")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(DataError, match="is a link to a file elsewhere, which is not followed"):
        ids(tmp_path / "set")


def test_a_set_is_read_by_the_splits_of_its_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n", "utf-8")
    own = Task(id="own", question="?", answers=("x",), split="train", files=(str(tmp_path / "t.csv"),))
    tasks = [
        Task(id=name, question="Who?", answers=("x",), split=name, metadata={"k": "v"})
        for name in ("train", "dev", "test")
    ]
    write_tasks([*tasks, own], tmp_path / "both", stage="merge", options={})
    assert (ids(tmp_path / "both", "train"), ids(tmp_path / "both")) == (["train", "own"], ["dev"])
    assert ids(f"{tmp_path}/both:test") == ["test"]
    task = open_source(f"{tmp_path}/both:train", split="eval", seed=1, config=TasksConfig()).task(1)
    assert Path(task.files[0]).read_text("utf-8") == "a\n"


def config(**tasks: object) -> Config:
    return make_config({"tasks": tasks})


def test_keys_that_have_no_effect_are_refused_for_each_kind_of_source(tmp_path: Path) -> None:
    assert config(train="hf:mine/set", columns={"question": "q"}).tasks.columns == {"question": "q"}
    assert config(train=f"{tmp_path}:train", columns={"question": "q"}).tasks.columns
    for wrong in (
        {"train": "mine:Tasks", "columns": {"question": "q"}},
        {"train": f"{tmp_path}:train", "options": {"a": 1}},
    ):
        with pytest.raises(ConfigError, match="has an effect with"):
            config(**wrong)


def test_the_name_of_a_public_set_tells_how_to_get_it() -> None:
    with pytest.raises(DataError, match=r"lzero data download hotpotqa, and then tasks.eval=data/hotpotqa"):
        ids("hotpotqa")


@pytest.mark.parametrize("other", ["/etc/passwd", "https://127.0.0.1/x.jsonl", "hf://datasets/b/c@1/x.jsonl"])
def test_a_data_set_of_the_hub_cannot_name_files_elsewhere(other: str) -> None:
    own = "hf://datasets/a/b@1/train.jsonl"
    assert revision_of("a/b", [own, own]) == "1"
    for urls in ([own, other], [other, own], []):
        with pytest.raises(DataError, match=r"hf:a/b"):
            revision_of("a/b", urls)


@pytest.mark.parametrize("spec", ["hf:gsm8k", "hf:a/b/c/d", "hf:../b", "hf:a/b:c:d", "hf:"])
def test_a_wrong_name_of_the_hub_shows_the_right_form(spec: str) -> None:
    with pytest.raises(ConfigError, match="write hf:OWNER/NAME"):
        ids(spec)
