"""Downloads of public sets, from copies in the formats of their authors: one schema, nothing lost, changes named."""

import json
import re
from pathlib import Path

import pytest
from public_sets import HOTPOT, write_copies

from lzero.config import TasksConfig
from lzero.data.download import Downloaded, download
from lzero.data.manifest import DROPPED_FILE, TASKS_FILE
from lzero.data.public_sets import PUBLIC_SETS, public_set
from lzero.data.rows import read_rows
from lzero.data.shapes import SHAPES
from lzero.data.sources import open_source
from lzero.errors import ConfigError, DataError
from lzero.types import Passage, Task


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copies(tmp_path_factory.mktemp("copies"))


@pytest.fixture(scope="module")
def sets(copies: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Downloaded]]:
    out = tmp_path_factory.mktemp("sets")
    return out, {known.name: download(known, out, origin=copies) for known in PUBLIC_SETS.values()}


def tasks(out: Path, name: str, split: str) -> list[Task]:
    source = open_source(f"{out / name}:{split}", split="eval", seed=1, config=TasksConfig())
    return [source.task(index) for index in range(len(source))]


def test_every_public_set_has_a_shape_and_a_line_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    for known in PUBLIC_SETS.values():
        line = next(line for line in text.splitlines() if line.startswith(f"| `{known.name}` | {known.home}"))
        splits, licence, scorer = (cell.strip() for cell in line.strip("|").split("|")[2:])
        assert (splits, licence, scorer) == (", ".join(known.splits), known.licence or "none named", known.scorer)
    assert len(PUBLIC_SETS) == 12
    assert {known.shape for known in PUBLIC_SETS.values()} - {""} <= {shape.NAME for shape in SHAPES}
    assert len({known.home for known in PUBLIC_SETS.values()}) == 12


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        (
            "hotpotqa",
            "train",
            {"id": "5a1", "answers": ("Kato",), "hops": 2, "difficulty": 3.0, "licence": "CC BY-SA 4.0"},
        ),
        ("2wikimultihopqa", "validation", {"id": "8f2", "hops": 2, "difficulty": None, "licence": "Apache-2.0"}),
        ("musique", "validation", {"id": "2hop__1_2", "answers": ("Kato", "City of Kato"), "hops": 2}),
        ("nq", "validation", {"id": "nq-validation-1", "answers": ("Titu", "Titu of Kato"), "ability": "qa"}),
        ("triviaqa", "validation", {"id": "tc_7", "answers": ("Kato", "Kato City"), "licence": ""}),
        ("popqa", "test", {"id": "42", "answers": ("politician", "pol")}),
        ("simpleqa", "test", {"question": 'Who painted "Umi"?', "answers": ("Titu",)}),
        ("bamboogle", "test", {"id": "bamboogle-test-1", "hops": 2}),
        ("gsm8k", "test", {"answers": ("1,024",), "ability": "math", "licence": "MIT"}),
        ("math", "train", {"id": "math/train/algebra/1-1", "answers": ("2",), "ability": "math", "difficulty": 2.0}),
        ("gaia", "validation", {"id": "c61d", "answers": ("12",), "ability": "files", "difficulty": 1.0}),
        ("wikitablequestions", "train", {"id": "nt-0", "answers": ("Nord, S|d",), "ability": "data"}),
    ],
)
def test_each_set_becomes_tasks_of_one_schema(
    sets: tuple[Path, dict[str, Downloaded]], name: str, split: str, expected: dict[str, object]
) -> None:
    out, done = sets
    task = tasks(out, name, split)[0]
    assert {field: getattr(task, field) for field in expected} == expected
    assert (task.source, task.split, bool(task.question)) == (name, split, True)
    assert done[name].manifest.options == {
        "set": name,
        "home": public_set(name).home,
        "asked": "",
        "revision": "",
        "scorer": public_set(name).scorer,
    }
    if name in ("hotpotqa", "2wikimultihopqa"):
        assert task.passages[0] == Passage(title="Liri", text="Liri is a place. Its founder is Titu.")
        assert json.loads(task.metadata["supporting_titles"]) == ["Liri", "Titu"]


def test_files_of_tasks_belong_to_the_set(sets: tuple[Path, dict[str, Downloaded]]) -> None:
    out, _ = sets
    for name, split, file in (("gaia", "validation", "boats.csv"), ("wikitablequestions", "train", "0.csv")):
        (path,) = tasks(out, name, split)[0].files
        assert Path(path).is_relative_to(out / name / "files")
        assert (Path(path).name, Path(path).read_text("utf-8")[:10]) == (file, "port,boats")


def test_rows_that_are_no_tasks_are_kept_with_their_reasons(sets: tuple[Path, dict[str, Downloaded]]) -> None:
    out, done = sets
    manifest = done["hotpotqa"].manifest
    assert (manifest.rows_in, manifest.rows_out) == (4, 2)
    assert manifest.dropped == {"no gold answer": 1, "no id of its own": 1}
    rows = [row.fields for _, row in read_rows(out / "hotpotqa" / DROPPED_FILE, max_bytes=1 << 20)]
    assert [row["reason"] for row in rows] == ["no gold answer", "no id of its own"]
    assert 'is "5a1", as in row 1 of' in str(rows[1]["detail"])
    assert json.loads(rows[0]["metadata"]["row"]) == {**HOTPOT, "_id": "5a2", "answer": ""}  # type: ignore[index]
    assert done["nq"].manifest.dropped == {"no gold answer": 1}
    assert done["gsm8k"].manifest.dropped == {"no gold answer": 1}
    assert done["math"].manifest.dropped == {"bad `solution`": 1}


def test_a_split_that_a_copy_lacks_is_told(sets: tuple[Path, dict[str, Downloaded]]) -> None:
    missing = sets[1]["nq"].missing
    assert missing == ("train: nq_open/train-*.parquet or NQ-open.train.jsonl",)
    assert sets[1]["hotpotqa"].missing == ()


def test_a_set_that_is_there_is_left_and_made_again_it_is_the_same(
    sets: tuple[Path, dict[str, Downloaded]], copies: Path, tmp_path: Path
) -> None:
    out, done = sets
    known = public_set("hotpotqa")
    again = download(known, out, origin=tmp_path / "nothing here")
    assert (again.was_there, again.manifest) == (True, done["hotpotqa"].manifest)
    download(known, tmp_path, origin=copies)
    for name in (TASKS_FILE, DROPPED_FILE, "manifest.json"):
        assert (tmp_path / "hotpotqa" / name).read_bytes() == (out / "hotpotqa" / name).read_bytes()
    with pytest.raises(ConfigError, match=r"holds revision \(none\): name another --out"):
        download(known, out, revision="1f0c")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "Who?", "reply": "Kato"}], "no longer has the shape of HotpotQA. It has `question`, `reply`."),
        (
            [{"question": "Who?", "answer": "Kato"}],
            "no longer has the shape of HotpotQA. It has `question`, `answer`.",
        ),
        ([{**HOTPOT, "answer": ""}], "hotpotqa: no row of .* is a task: {'no gold answer': 1}"),
        ([{**HOTPOT, "context": 7}], "hotpotqa: no row of .* is a task: {'bad `context`': 1}"),
    ],
)
def test_changed_columns_are_an_error(tmp_path: Path, rows: list[object], said: str) -> None:
    (tmp_path / "hotpot_dev_distractor_v1.json").write_text(json.dumps(rows), "utf-8")
    with pytest.raises(DataError, match=said):
        download(public_set("hotpotqa"), tmp_path / "out", origin=tmp_path)
    assert not (tmp_path / "out" / "hotpotqa").exists()
    changed = [{"question": "Who?", "reply": "Kato"}]
    (tmp_path / "NQ-open.dev.jsonl").write_text(json.dumps(changed[0]), "utf-8")
    with pytest.raises(
        DataError,
        match=r"nq: the columns of .* have changed: its first row no longer has `question` and `answer`.* \(nq@COMMIT\)",
    ):
        download(public_set("nq"), tmp_path / "out", origin=tmp_path)


def test_a_copy_without_its_files_names_them(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=re.escape("musique_ans_v1.0_train.jsonl; validation: musique_ans_v1.0_dev.jsonl")
    ):
        download(public_set("musique"), tmp_path / "out", origin=tmp_path)


def test_a_typo_in_a_name_names_the_nearest_set() -> None:
    with pytest.raises(
        ConfigError, match=r"no set is named 'HotpotAQ'; did you mean 'hotpotqa'\? There are hotpotqa, "
    ):
        public_set("HotpotAQ")
