"""A run's inputs from paths have fingerprints: a resumed run reads the same, or reports the changes."""

import json
from pathlib import Path

import pytest

from lzero.config import load_config
from lzero.environments import open_environment
from lzero.errors import StoreError
from lzero.rollout import inputs as module
from lzero.rollout.compose import eval_tasks, train_tasks
from lzero.rollout.inputs import changes, check_inputs, run_inputs
from lzero.store.inputs import Input, read_inputs, write_inputs

ROWS = [{"question": f"{number}?", "answer": number, "files": ["a.csv"]} for number in range(3)]


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with everything that a run can read."""
    (tmp_path / "a.csv").write_text("1;2\n", "utf-8")
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "dev.jsonl", [{"question": "?", "answer": "x"}])
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("Liri", "utf-8")
    (tmp_path / "own.jinja").write_text('{% extends "base.jinja" %}', "utf-8")
    (tmp_path / "base.jinja").write_text("Hello.", "utf-8")
    (tmp_path / "judge_of_mine.py").write_text("def judge(task, episode): ...\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fingerprints() -> dict[str, Input]:
    config = load_config(
        None,
        [
            *(
                "tasks.train=train.jsonl",
                "tasks.eval=dev.jsonl",
                "environment.options.corpus=docs",
                "agent.prompt=own.jinja",
            ),
            "reward.function=judge_of_mine:judge",
        ],
    )
    return run_inputs(config, train_tasks(config), eval_tasks(config), open_environment(config.environment))


def test_every_input_is_compared_by_what_it_holds(place: Path) -> None:
    before = fingerprints()
    assert set(before) == {
        *("tasks.train", "tasks.eval", "environment.options.corpus", "agent.prompt", "model.path", "reward.function")
    }
    for file in place.iterdir():  # as a fresh checkout would
        file.touch()
    assert changes(before, fingerprints()) == {}

    def changed() -> dict[str, str]:
        return changes(before, fingerprints())

    write(place / "train.jsonl", ROWS[:2])
    assert changed() == {"tasks.train": "tasks.train: train.jsonl held 3 tasks, and has 2 tasks now"}
    write(place / "train.jsonl", ROWS[::-1])
    assert changed() == {
        "tasks.train": "tasks.train: train.jsonl held 3 tasks, and has other contents now, or another order"
    }
    write(place / "train.jsonl", ROWS)
    for name, key in {
        "a.csv": "tasks.train",
        "dev.jsonl": "tasks.eval",
        "docs/a.md": "environment.options.corpus",
        "base.jinja": "agent.prompt",
        "judge_of_mine.py": "reward.function",
    }.items():
        text = (place / name).read_text("utf-8")
        (place / name).write_text(text.replace("x", "y") + "\n", "utf-8")
        assert list(changed()) == [key]
        (place / name).write_text(text, "utf-8")


def test_the_built_in_world_is_no_file_and_the_model_is_one() -> None:
    config = load_config()
    assert set(run_inputs(config, train_tasks(config), eval_tasks(config), open_environment(config.environment))) == {
        "model.path"
    }


def test_large_weights_are_compared_by_blocks_from_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE_BYTES", 100)
    monkeypatch.setattr(module, "BLOCK_BYTES", 10)
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(6_400))
    before = module._sampled(file)
    assert module._sampled(file) == before
    for place in (0, 6_399):
        file.write_bytes(bytes(place) + b"\1" + bytes(6_399 - place))
        assert module._sampled(file) != before
    file.write_bytes(bytes(6_401))
    assert module._sampled(file) != before


def test_changed_data_is_refused_and_changed_code_is_a_warning(tmp_path: Path) -> None:
    old = Input(where="train.jsonl", holds="3 tasks", digest="a")
    there = {"tasks.train": old, "reward.function": Input(where="mine:judge", holds="1 file", digest="a")}
    write_inputs(tmp_path, there)
    assert read_inputs(tmp_path) == there
    code = there | {"reward.function": Input(where="mine:judge", holds="1 file", digest="b")}
    said = "reward.function: mine:judge has another source now; the run goes on with it"
    assert check_inputs(tmp_path, there, code, checkpoint=None, accept=False) == [said]
    data = there | {"tasks.train": Input(where="train.jsonl", holds="2 tasks", digest="b")}
    with pytest.raises(StoreError) as caught:
        check_inputs(tmp_path, there, data, checkpoint=tmp_path / "update-1", accept=False)
    for part in ("train.jsonl held 3 tasks, and has 2 tasks now", f"model.path={tmp_path}/", "--accept-changes"):
        assert part in str(caught.value)
    (note,) = check_inputs(tmp_path, there, data, checkpoint=None, accept=True)
    assert note.endswith("and has 2 tasks now; the run goes on with it")


def test_a_broken_record_of_inputs_says_how_to_go_on(tmp_path: Path) -> None:
    assert read_inputs(tmp_path) is None
    (tmp_path / "inputs.json").write_text("{", "utf-8")
    with pytest.raises(StoreError, match=r"To resume without comparing the inputs: rm .*inputs\.json"):
        read_inputs(tmp_path)


def test_code_without_a_file_has_no_fingerprint() -> None:
    config = load_config(None, ["agent.tools=['time:ctime']"])
    assert "agent.tools" not in run_inputs(
        config, train_tasks(config), eval_tasks(config), open_environment(config.environment)
    )
