"""Suites by name: what `lzero eval NAME` sets in the configuration."""

from pathlib import Path
from typing import Any

import pytest

from lzero.cli.arguments import read_config
from lzero.config import make_config
from lzero.data.public_sets import PUBLIC_SETS
from lzero.errors import ConfigError
from lzero.eval.suites import with_suite


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of sets, data/ in the working directory."""
    monkeypatch.chdir(tmp_path)
    for known in PUBLIC_SETS.values():
        (tmp_path / "data" / known.name).mkdir(parents=True)
    return Path("data")


def test_a_set_brings_its_held_out_split_the_score_of_its_benchmark_and_its_name(data: Path) -> None:
    found = with_suite({}, "gsm8k")
    assert found == {
        "tasks": {"eval": "data/gsm8k:test"},
        "reward": {"score": "numeric"},
        "run": {"name": "gsm8k"},
    }
    assert with_suite({}, "data/gsm8k:train")["tasks"] == {"eval": "data/gsm8k:train"}
    assert with_suite({}, "simpleqa")["reward"] == {"function": "simpleqa"}


def test_every_public_set_is_a_suite(data: Path) -> None:
    splits = {known.name: list(known.splits)[-1] for known in PUBLIC_SETS.values()}
    for name, split in splits.items():
        assert make_config(with_suite({}, name)).tasks.eval == f"data/{name}:{split}"


def test_what_the_user_sets_stays(data: Path) -> None:
    values: dict[str, Any] = {"reward": {"function": "mine:brief"}, "run": {"name": "x"}, "agent": {"use": "rag"}}
    found = with_suite(values, "gsm8k")
    assert found == {**values, "tasks": {"eval": "data/gsm8k:test"}}
    assert values["run"] == {"name": "x"}
    config = read_config(["agent.use=direct", "gsm8k", "agent.max_steps=2"], suites=True)
    assert (config.agent.use, config.reward.score, config.tasks.eval) == ("direct", "numeric", "data/gsm8k:test")


@pytest.mark.parametrize(
    "name", ["world", "world/sft", "dev.jsonl", "more/dev", "hf:a/b", "mine:Tasks", "reasoning_gym:chain_sum"]
)
def test_anything_that_tasks_eval_takes_is_a_suite(name: str) -> None:
    assert with_suite({}, name) == {"tasks": {"eval": name}}


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("hotpotq", {}, "no suite is named 'hotpotq'; did you mean 'hotpotqa'"),
        ("GSM8K", {}, "did you mean 'gsm8k'"),
        ("gsm8k:dev", {}, "gsm8k has no split 'dev': it has train, test"),
        (
            "gsm8k",
            {"tasks": {"eval": "dev.jsonl"}},
            "the suite 'gsm8k' and tasks.eval = 'dev.jsonl' both name the tasks",
        ),
    ],
)
def test_a_suite_that_cannot_be_is_named(data: Path, name: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_suite(values, name)


def test_a_set_that_is_not_downloaded_is_an_error_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"the suite 'musique' is not here: .* Run `lzero data download musique --out"
    ):
        with_suite({}, "musique", data=tmp_path)


def test_two_suites_are_refused() -> None:
    with pytest.raises(ConfigError, match="more than one suite: gsm8k, musique"):
        read_config(["gsm8k", "musique"], suites=True)
